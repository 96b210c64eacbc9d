"""Replay window of one lane (RFC 6479); the code is in ext/window.h."""

from libc.stdint cimport uint64_t


cpdef enum Verdict:
    FRESH
    DUPLICATE
    TOO_OLD

cpdef enum WindowLayout:
    WINDOW_BITS = 8192  # the bitmap: 1 KiB per lane
    WINDOW_SIZE = 8128  # numbers that are judged: one word is always being reused (RFC 6479 section 2)

cdef extern from "window.h" nogil:
    ctypedef struct Window "struct sm_window":
        uint64_t newest
    Verdict window_check "sm_window_check"(const Window *window, uint64_t number)
    Verdict window_accept "sm_window_accept"(Window *window, uint64_t number)

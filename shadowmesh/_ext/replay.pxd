"""Replay window of one lane (RFC 6479): a ring of bits that moves by whole words."""

from libc.stdint cimport uint64_t


cpdef enum Verdict:
    FRESH
    DUPLICATE
    TOO_OLD

cpdef enum WindowLayout:
    WINDOW_BITS = 8192  # the bitmap: 1 KiB per lane
    WINDOW_SIZE = 8128  # numbers that are judged: one word is always being reused (RFC 6479 section 2)

cdef struct Window:
    uint64_t newest
    uint64_t bits[128]


cdef inline Verdict window_check(const Window *window, uint64_t number) noexcept nogil:
    """Judge without changing anything."""
    if number > window.newest:
        return Verdict.FRESH
    if window.newest - number >= WINDOW_SIZE:
        return Verdict.TOO_OLD
    if (window.bits[(number >> 6) & 127] >> (number & 63)) & 1:
        return Verdict.DUPLICATE
    return Verdict.FRESH


cdef inline Verdict window_accept(Window *window, uint64_t number) noexcept nogil:
    """Judge and, if fresh, remember.  Only for numbers of packets whose tag was right.

    A zeroed Window is a new one: number 0 is fresh because its bit is not set.
    """
    cdef uint64_t word, steps, i
    cdef Verdict verdict = window_check(window, number)
    if verdict != Verdict.FRESH:
        return verdict
    if number > window.newest:
        word = window.newest >> 6
        steps = (number >> 6) - word
        if steps > 128:
            steps = 128
        for i in range(steps):
            window.bits[(word + 1 + i) & 127] = 0
        window.newest = number
    window.bits[(number >> 6) & 127] |= <uint64_t>1 << (number & 63)
    return Verdict.FRESH

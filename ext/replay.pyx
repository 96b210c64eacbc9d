"""Replay window of one lane: what a packet number may do once and no more.

Does NOT open packets: the window advances only after a successful open, and that order is the caller's.
The core is ext/window.h, and proved (docs/models/window.py); this module is its Python face.

Source: RFC 6479 section 2 (a ring of words, cleared as the window moves over them).
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from shadowmesh._ext.convert cimport unsigned

cimport cython


@cython.final
cdef class ReplayWindow:
    cdef Window window

    def __cinit__(self):
        memset(&self.window, 0, sizeof(Window))

    def check(self, number):
        cdef uint64_t value = unsigned(number, 0xFFFFFFFFFFFFFFFF, "packet number")
        return VERDICTS[<int>window_check(&self.window, value)]

    def accept(self, number):
        cdef uint64_t value = unsigned(number, 0xFFFFFFFFFFFFFFFF, "packet number")
        return VERDICTS[<int>window_accept(&self.window, value)]


cdef tuple VERDICTS = tuple(Verdict)

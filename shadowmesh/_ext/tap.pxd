"""Frames from and to the TAP device."""

from libc.stdint cimport uint8_t

from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.system cimport iovec


cdef enum TapRead:
    TAP_NOTHING = 0     # no frame waits
    TAP_TROUBLE = -1    # the device is gone or broken

cdef Py_ssize_t tap_read(int fd, uint8_t *frame, size_t room, Counters *counters) noexcept nogil
cdef int tap_write(int fd, const iovec *vectors, size_t parts) noexcept nogil
cdef void tap_refused(int error, size_t frames, Counters *counters) noexcept nogil

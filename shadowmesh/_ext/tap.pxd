"""Frames from and to the TAP device."""

from libc.stdint cimport uint8_t

from shadowmesh._ext.drops cimport Counters


cdef enum TapRead:
    TAP_NOTHING = 0     # no frame waits
    TAP_TROUBLE = -1    # the device is gone or broken

cdef Py_ssize_t tap_read(int fd, uint8_t *frame, size_t room, Counters *counters) noexcept nogil
cdef void tap_write(int fd, const uint8_t *frame, size_t size, Counters *counters) noexcept nogil

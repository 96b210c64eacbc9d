"""read() and write() of a TAP descriptor: one Ethernet frame per call, no packet information, no vnet_hdr.

Does NOT create or configure the device, and does not look into frames.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno

from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop
from shadowmesh._ext.system cimport read, write


cdef Py_ssize_t tap_read(int fd, uint8_t *frame, size_t room, Counters *counters) noexcept nogil:
    """Size of the next frame, TAP_NOTHING or TAP_TROUBLE.  A frame of `room` bytes was cut by the kernel."""
    cdef Py_ssize_t size
    while True:
        size = read(fd, frame, room)
        if size > 0:
            count(counters, Statistic.TAP_RX_FRAMES, 1)
            return size
        if size == 0:
            return TAP_TROUBLE
        if errno == EAGAIN:
            return TAP_NOTHING
        if errno != EINTR:
            return TAP_TROUBLE


cdef void tap_write(int fd, const uint8_t *frame, size_t size, Counters *counters) noexcept nogil:
    """Hand one frame to the kernel; counts why, if it isn't taken."""
    while True:
        if write(fd, frame, size) >= 0:
            count(counters, Statistic.TAP_TX_FRAMES, 1)
            return
        if errno == EINTR:
            continue
        if errno == EAGAIN or errno == ENOBUFS:
            drop(counters, DropReason.TAP_FULL)
        else:
            drop(counters, DropReason.TAP_FAILED)
        return

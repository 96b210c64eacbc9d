"""read() and writev() of a TAP descriptor: one Ethernet frame or super-frame per call.

Does NOT create or configure the device, and does not look into frames: a virtio_net_hdr is part of what
is read and written.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno

from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop_many
from shadowmesh._ext.system cimport iovec, read, writev


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


cdef int tap_write(int fd, const iovec *vectors, size_t parts) noexcept nogil:
    """Hand one frame (or super-frame) in `parts` pieces to the kernel: 0, or an errno."""
    while True:
        if writev(fd, vectors, <int>parts) >= 0:
            return 0
        if errno != EINTR:
            return errno


cdef void tap_refused(int error, size_t frames, Counters *counters) noexcept nogil:
    """Count `frames` that `tap_write` failed to hand over."""
    cdef bint full = error == EAGAIN or error == ENOBUFS
    drop_many(counters, DropReason.TAP_FULL if full else DropReason.TAP_FAILED, frames)

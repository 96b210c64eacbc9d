"""Frames on their way to the TAP, and the super-frame that is being made of them."""

from libc.stdint cimport uint8_t, uint32_t

from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.segment cimport Shape
from shadowmesh._ext.system cimport iovec


cdef enum:
    JOIN_LIMIT = 128              # segments of one super-frame

cdef struct Joined:
    iovec vectors[JOIN_LIMIT]     # virtio_net_hdr and first frame, then payloads
    size_t count                  # 0: nothing waits
    bint open                     # another segment may follow
    uint8_t *frame                # the first one
    uint8_t *segment              # its segment header, NULL: a frame without one
    size_t first                  # its size
    size_t size                   # of the super-frame
    size_t step                   # payload of all segments but the last
    uint32_t next_sequence
    uint8_t ending                # FIN and PSH of the last frame
    uint8_t saved[260]            # segment header and headers of the first frame, as they came
    Shape shape

cdef struct Delivery:             # one thread's
    int tap_fd
    bint vnet                     # the TAP takes a virtio_net_hdr
    bint join_tcp
    bint join_udp
    Counters *counters
    Joined joined

cdef void deliver_frame(Delivery *delivery, uint8_t *frame, size_t size) noexcept nogil
cdef void deliver_segment(Delivery *delivery, uint8_t *segment, size_t size,
                          const Shape *shape) noexcept nogil
cdef void delivery_flush(Delivery *delivery) noexcept nogil

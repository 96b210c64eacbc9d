"""Payload kind 0x06: a frame whose checksum is partial, often cut from a super-frame."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from shadowmesh._ext.vnet cimport Vnet


cpdef enum SegmentLayout:
    SEGMENT_HEADER_SIZE = 5    # kind, flags, header length, checksum start, checksum offset
    SEGMENT_CHECKSUM = 0x01    # partial: always set
    SEGMENT_TCP = 0x02         # TCP over IP without extension headers: may be joined
    SEGMENT_UDP = 0x04         # the same, UDP
    SEGMENT_REACH = 255        # the headers that one byte can tell the length of

cdef enum:
    TCP_HEADER_SIZE = 20
    TCP_SEQUENCE = 4
    TCP_OFFSET = 12
    TCP_FLAGS = 13
    TCP_CHECKSUM = 16
    UDP_HEADER_SIZE = 8
    UDP_LENGTH = 4
    UDP_CHECKSUM = 6

cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_URG = 0x20
    TCP_CWR = 0x80

cdef struct Shape:             # where the headers of a frame are, from its first byte on
    size_t network
    size_t transport
    size_t headers             # all of them
    bint ipv6
    bint tcp                   # else UDP

cdef struct Cut:               # a super-frame on its way to become segments
    Shape shape
    uint8_t headers[260]       # segment header and all headers, as the super-frame has them
    size_t room                # of these
    uint8_t *payload           # what is left
    size_t left
    size_t step                # payload of one segment
    size_t whole               # transport length of the super-frame
    uint32_t index

cdef bint shape_network(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil
cdef bint shape_of(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil
cdef bint segment_valid(const uint8_t *segment, size_t size, Shape *shape) noexcept nogil
cdef bint segment_write(uint8_t *frame, size_t size, const Vnet *vnet) noexcept nogil
cdef bint cut_begin(Cut *cut, uint8_t *frame, size_t size, const Vnet *vnet, size_t room) noexcept nogil
cdef uint8_t *cut_next(Cut *cut, size_t *size) noexcept nogil

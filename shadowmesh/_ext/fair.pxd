"""Limits on what one client of a relay sends: token buckets, and its share in a shortage."""

from libc.stdint cimport uint64_t


cdef enum Verdict:
    PASSES
    PACKET_RATE
    BYTE_RATE
    OVER_SHARE

cdef struct Limits:          # written by Python, read by the forwarder thread
    uint64_t packet_step     # ns per packet, 0 = no limit
    uint64_t byte_step       # 2^-20 ns per byte, 0 = no limit

cdef struct Share:           # of one client; forwarder thread
    uint64_t packets         # each the time at which a bucket would be full again (GCRA, ITU-T I.371)
    uint64_t bytes
    uint64_t fair
    uint64_t window          # in which `offered` was counted
    uint64_t offered         # cost

cdef struct Fair:            # forwarder thread
    uint64_t step            # 2^-20 ns per unit of cost; 0: enough for everybody
    uint64_t window          # number of the present one, from 1
    uint64_t ends            # ns
    uint64_t highest         # cost that one client offered in this window
    uint64_t active          # clients that offered something in it
    uint64_t passed          # cost of what went on, in it
    uint64_t mean            # 2^-20 of a cost per ns that went on of each client, over some 16 windows

cdef Verdict fair_judge(Fair *fair, const Limits *limits, Share *share, size_t size,
                        uint64_t now) noexcept nogil
cdef bint fair_due(const Fair *fair, uint64_t now) noexcept nogil
cdef void fair_turn(Fair *fair, bint short_of, uint64_t now) noexcept nogil
cdef bint fair_queue_fills(int fd) noexcept nogil
cdef void limits_set(Limits *limits, uint64_t packet_rate, uint64_t byte_rate) noexcept nogil

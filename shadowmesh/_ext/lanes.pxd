"""Sealing lanes: keys, receiver id and the next packet number, owned by one sending thread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shadowmesh._ext.aead cimport KeyContext
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.tables cimport Retired
from shadowmesh._ext.udp cimport Outgoing


cdef enum:
    LANE_LIMIT = 64       # lanes per key: bits of one word; the protocol uses 8 (units.LANES)

cdef struct SendLane:
    Retired retired
    KeyContext *keys
    uint64_t receiver_id
    uint64_t number       # next one; written by the sending thread only
    uint64_t expires      # ns, CLOCK_MONOTONIC
    uint32_t lane

cdef class SendKeys:
    cdef uint8_t material[76]
    cdef uint64_t used       # bit per lane
    cdef uint64_t expires    # ns
    cdef bint wiped
    cdef SendLane *claim(self, object lane, object receiver_id, object first_number) except NULL

cdef void lane_dispose(void *record) noexcept nogil
cdef bint lane_seal(SendLane *lane, Outgoing *outgoing, size_t headroom, const uint8_t *payload,
                    size_t size, Counters *counters) noexcept nogil


cdef inline bint lane_expired(const SendLane *lane, uint64_t now) noexcept nogil:
    """Then nothing may be sealed with it any more."""
    return now >= lane.expires

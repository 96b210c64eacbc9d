"""What this node knows of bridges: its own port to one, members that have one, stations behind them."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.fdb cimport Fdb
from shadowmesh._ext.peers cimport Peer
from shadowmesh._ext.tables cimport Grace, Table


cdef enum:
    ETHERTYPE_PROBE = 0x88B5  # IEEE 802-2014, table 4: local experimental

cpdef enum PortState:
    PORT_OFF                  # our TAP is in no bridge
    PORT_LISTENING            # carries nothing foreign, but sends the probes of others back
    PORT_BLOCKED              # carries nothing foreign
    PORT_FORWARDING

cdef enum Crossing:
    CROSSING_DROP             # counted already
    CROSSING_PASS
    CROSSING_PROBE            # a loop probe: to the member that it names, or our own, to asyncio

cdef struct Bridge:
    uint64_t port             # PortState, written atomically
    uint64_t own              # our MAC
    uint64_t mac              # of the bridge that our TAP is in: as good as ours
    uint64_t reflected        # probes of ours that the TAP brought back; outbound thread
    uint64_t held_until       # nanoseconds: no floods into the bridge before that; outbound thread
    uint64_t hold_again       # nanoseconds: no hold before that; outbound thread alone
    uint16_t udp_port         # of our socket
    bint filtered             # by `vlans`
    uint64_t vlans[64]        # bits of the VLANs that are carried, besides untagged frames
    Table *macs               # MAC -> Peer
    void *members             # PeerList * of those that may bridge, published atomically
    Fdb far                   # stations behind them; written by the inbound thread
    Fdb near                  # stations behind our own bridge; written by the outbound thread

cdef bint bridge_init(Bridge *bridge, Table *macs) noexcept nogil
cdef void bridge_free(Bridge *bridge) noexcept nogil
cdef int bridge_open(Bridge *bridge, object mac, object udp_port, object vlans) except -1
cdef int bridge_publish(Bridge *bridge, Grace *grace, Peer **peers, size_t limit,
                        const Peer *without) except -1
cdef dict bridge_counters(Bridge *bridge)
cdef Crossing bridge_lets_in(Bridge *bridge, Peer *peer, const uint8_t *frame, size_t size, uint64_t now,
                             Counters *counters) noexcept nogil
cdef Crossing bridge_lets_out(Bridge *bridge, const uint8_t *frame, size_t size, uint64_t now,
                              Counters *counters) noexcept nogil
cdef Peer *bridge_origin(Bridge *bridge, const uint8_t *frame, size_t size) noexcept nogil
cdef Peer *bridge_find(Bridge *bridge, const uint8_t *frame, size_t size, uint64_t now) noexcept nogil

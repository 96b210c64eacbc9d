"""A peer as the client's threads see it: MAC, route, traffic."""

from libc.stdint cimport uint32_t, uint64_t

from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.fragment cimport Assemblies
from shadowmesh._ext.lanes cimport SendLane
from shadowmesh._ext.records cimport Session
from shadowmesh._ext.refusals cimport Refusals
from shadowmesh._ext.tables cimport Grace, Retired
from shadowmesh._ext.udp cimport Traffic


cdef enum Budget:             # bytes of UDP payload, channel header included
    BUDGET_LEAST = 1000       # every header that a segment can have still leaves room for data
    BUDGET_DEFAULT = 1452     # 1500 - 40 (IPv6) - 8 (UDP)
    BUDGET_LARGEST = 65507    # of UDP over IPv4

cdef struct Route:            # how to reach a peer; never changed once published
    Retired retired
    SendLane *lane
    Endpoint endpoint
    bint relayed              # put a channel header in front
    uint64_t channel
    size_t room               # largest payload of one packet, its kind included
    uint64_t way              # of the peer when it was published

cdef struct Peer:
    Retired retired
    uint64_t number
    uint64_t mac
    bint bridging             # may have stations behind it; written atomically
    uint64_t serial           # 32 bits, never another peer's of this engine: for the firewall's flows
    void *route               # Route *, published atomically; NULL: nothing is sent to it
    void *owned               # Owned *, published atomically; NULL: it may send from any address
    Traffic sent              # outbound thread
    uint32_t next_frame       # outbound thread: id of the next frame that is fragmented
    uint32_t asked            # outbound thread: frames without a route told since `asked_at`
    uint64_t asked_at         # outbound thread; CLOCK_MONOTONIC in ns
    uint64_t last_addressed   # outbound thread: the same, of the last frame to its MAC; 0 = never
    uint64_t padding[8]       # the two threads write different cache lines
    Traffic received          # inbound thread
    uint64_t last_hailed      # inbound thread: the same, of its last frame to our MAC; 0 = never
    uint64_t last_received    # inbound thread; CLOCK_MONOTONIC in ns, 0 = never
    uint64_t path_received    # inbound thread: the same, from where the route of `path_way` points
    uint64_t path_way         # inbound thread; written after path_received
    Assemblies assemblies     # inbound thread
    Refusals refusals         # inbound thread
    uint64_t groups           # inbound thread: bucket of its frames to groups
    uint64_t excess           # inbound thread: bucket of those beyond it
    uint64_t heard_from       # inbound thread: until then its frames are not opened
    SendLane *lane            # from here on: writers only
    Endpoint endpoint
    bint relayed
    uint64_t channel
    size_t budget
    uint64_t way              # counts up when the route points elsewhere
    Session *sessions

cdef struct PeerList:         # all peers, for floods; never changed once published
    Retired retired
    size_t count
    Peer **peers

cdef Peer *peer_new(uint64_t number, uint64_t mac, uint64_t serial) noexcept nogil
cdef void peer_dispose(void *record) noexcept nogil
cdef bint peer_set_endpoint(Grace *grace, Peer *peer, const Endpoint *endpoint, bint relayed,
                            uint64_t channel, size_t budget) noexcept nogil
cdef bint peer_publish_route(Grace *grace, Peer *peer) noexcept nogil
cdef void peer_set_lane(Grace *grace, Peer *peer, SendLane *lane) noexcept nogil
cdef void peer_clear_route(Grace *grace, Peer *peer) noexcept nogil
cdef PeerList *peer_list_new(Peer **all_peers, size_t limit, const Peer *without) noexcept nogil
cdef void plain_dispose(void *record) noexcept nogil

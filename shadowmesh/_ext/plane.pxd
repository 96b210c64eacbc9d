"""Everything that the client's threads point to: one allocation, never moved."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.bridge cimport Bridge
from shadowmesh._ext.duty cimport Duty
from shadowmesh._ext.features cimport Features
from shadowmesh._ext.firewall cimport Guard
from shadowmesh._ext.inbound cimport Inbound
from shadowmesh._ext.outbound cimport Outbound
from shadowmesh._ext.peers cimport Peer
from shadowmesh._ext.tables cimport Grace, Table
from shadowmesh._ext.workers cimport Stop, Worker


cdef enum:
    LEG = 0                    # number of what is no peer: the sessions with relays
    PEER_LIMIT = 4096          # peers are numbered 1..4095

cdef struct Plane:
    Grace *grace
    Table ids                  # id -> Record
    Table sources              # endpoint_key -> Source
    Table macs                 # MAC -> Peer
    Table neighbours           # address -> Neighbour
    Table sessions             # handle -> Session; threads only ask whether there is one
    void *flood                # PeerList *
    Peer *peers[PEER_LIMIT]
    uint64_t serials           # of peers, used up
    Guard guard
    Bridge bridge
    Peer *leg                  # owner of the sessions with relays: no MAC, no route, no frames
    void *own                  # Owned * of ourselves: so that no peer claims what is ours
    Stop stop
    Inbound inbound
    Outbound outbound
    Duty duty
    Worker first
    Worker second

cdef Plane *plane_new() noexcept nogil
cdef void plane_wire(Plane *plane, int udp_fd, int tap_fd, int event_fd, uint64_t mac) noexcept nogil
cdef int plane_publish_flood(Plane *plane, const Peer *without) except -1
cdef int plane_let_bridge(Plane *plane, Peer *peer, bint allowed) except -1
cdef void plane_use(Plane *plane, const Features *features) noexcept nogil
cdef void plane_features(const Plane *plane, Features *features) noexcept nogil
cdef int plane_start(Plane *plane) noexcept nogil
cdef void plane_join(Plane *plane) noexcept nogil
cdef void plane_free(Plane *plane) noexcept nogil

"""A relay's client as the forwarder threads see it: endpoint, BIND state, traffic."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.fair cimport Share
from shadowmesh._ext.lanes cimport SendLane
from shadowmesh._ext.records cimport Session
from shadowmesh._ext.tables cimport READERS, Retired
from shadowmesh._ext.udp cimport Traffic


cdef enum:
    CHALLENGE_SIZE = 8

cdef struct Candidate:           # an address that asked to become the endpoint
    Endpoint endpoint            # size 0: none
    uint8_t challenge[CHALLENGE_SIZE]
    uint64_t made                # ns

cdef struct Client:
    Retired retired
    uint64_t number
    size_t thread                # its owner: the only one that handles what it sends; never changes
    Endpoint endpoint            # written by the owner, between two steps of `version`
    uint64_t version             # odd while the endpoint is being written
    Candidate candidate          # owner
    uint64_t next_bind           # owner: BIND numbers from here on are new
    uint64_t last_bind           # owner: ns, 0 = never
    uint64_t bucket              # owner: BINDs
    Share share                  # owner
    uint64_t refused             # owner: datagrams beyond its limits
    Traffic received             # owner
    Traffic sent[READERS]        # by each thread
    void *lane                   # SendLane *, published atomically
    Session *sessions            # writers only

cdef Client *client_new(uint64_t number, size_t thread, const Endpoint *endpoint) noexcept nogil
cdef void client_dispose(void *record) noexcept nogil
cdef void client_move(Client *client, const Endpoint *endpoint) noexcept nogil
cdef void client_endpoint(Client *client, Endpoint *endpoint) noexcept nogil

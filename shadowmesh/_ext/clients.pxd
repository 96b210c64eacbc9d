"""A relay's client as the forwarder thread sees it: endpoint, BIND state, traffic."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.fair cimport Share
from shadowmesh._ext.lanes cimport SendLane
from shadowmesh._ext.records cimport Session
from shadowmesh._ext.tables cimport Retired
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
    Endpoint endpoint            # written by the forwarder thread, between two steps of `version`
    uint64_t version             # odd while the endpoint is being written
    Candidate candidate          # forwarder thread
    uint64_t next_bind           # forwarder thread: BIND numbers from here on are new
    uint64_t last_bind           # forwarder thread: ns, 0 = never
    uint64_t bucket              # forwarder thread: BINDs
    Share share                  # forwarder thread
    uint64_t refused             # forwarder thread: datagrams beyond its limits
    Traffic received
    Traffic sent
    void *lane                   # SendLane *, published atomically
    Session *sessions            # writers only

cdef Client *client_new(uint64_t number, const Endpoint *endpoint) noexcept nogil
cdef void client_dispose(void *record) noexcept nogil
cdef void client_move(Client *client, const Endpoint *endpoint) noexcept nogil
cdef void client_endpoint(Client *client, Endpoint *endpoint) noexcept nogil

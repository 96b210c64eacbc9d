"""BIND and BOUND: a client proves where it is, without Python (docs/protocol.md; architecture section 3)."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.clients cimport Client
from shadowmesh._ext.endpoint cimport Endpoint


cdef enum BindResult:
    BIND_STALE           # new source, but not newer than the newest: no answer
    BIND_REFRESHED       # from the endpoint that is known: answer BOUND
    BIND_MOVED           # proved a new endpoint: answer BOUND and tell Python
    BIND_CHALLENGED      # a candidate: answer with the challenge

cdef BindResult bind_handle(Client *client, const uint8_t *payload, const Endpoint *source,
                            uint64_t now) noexcept nogil
cdef void bound_write(uint8_t *bound, const uint8_t *bind, const Client *client, BindResult result,
                      const Endpoint *source) noexcept nogil

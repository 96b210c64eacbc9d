"""Clients of a relay: where they are, and how others read that while the owning thread changes it.

Does NOT verify BINDs: bind.pyx does.  The endpoint is the one thing here that a thread writes and
Python or another thread reads as a whole, so it has a version: odd while it is written, and a reader tries
again when the version changed meanwhile.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport (
    fence_acquire,
    fence_release,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from shadowmesh._ext.lanes cimport lane_dispose


cdef Client *client_new(uint64_t number, size_t thread, const Endpoint *endpoint) noexcept nogil:
    cdef Client *client = <Client *>calloc(1, sizeof(Client))
    if client != NULL:
        client.number = number
        client.thread = thread
        client.endpoint = endpoint[0]
    return client


cdef void client_dispose(void *record) noexcept nogil:
    cdef Client *client = <Client *>record
    if client.lane != NULL:
        lane_dispose(client.lane)
    free(client)


cdef void client_move(Client *client, const Endpoint *endpoint) noexcept nogil:
    """Owner only.  The size never changes: it is the socket's address family."""
    cdef size_t i
    store_relaxed(&client.version, client.version + 1)
    fence_release()
    for i in range(4):
        store_relaxed(&client.endpoint.words[i], endpoint.words[i])
    store_release(&client.version, client.version + 1)


cdef void client_endpoint(Client *client, Endpoint *endpoint) noexcept nogil:
    """A whole copy, from any thread.  A write takes nanoseconds and is rare, so this ends at once."""
    cdef uint64_t version
    cdef size_t i
    endpoint.size = client.endpoint.size
    while True:
        version = load_acquire(&client.version)
        for i in range(4):
            endpoint.words[i] = load_relaxed(&client.endpoint.words[i])
        fence_acquire()
        if version & 1 == 0 and load_relaxed(&client.version) == version:
            return

"""Peers and their routes: what the outbound thread needs to seal and send a frame.

Does NOT choose routes.  Functions of the writer (GIL held); threads only follow `route` and count.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.aead cimport OVERHEAD
from shadowmesh._ext.atomic cimport load_pointer, store_pointer
from shadowmesh._ext.endpoint cimport endpoint_equal
from shadowmesh._ext.lanes cimport lane_dispose
from shadowmesh._ext.packets cimport CHANNEL_HEADER_SIZE
from shadowmesh._ext.tables cimport grace_retire


cdef void plain_dispose(void *record) noexcept nogil:
    free(record)


cdef Peer *peer_new(uint64_t number, uint64_t mac, uint64_t serial) noexcept nogil:
    cdef Peer *peer = <Peer *>calloc(1, sizeof(Peer))
    if peer != NULL:
        peer.number = number
        peer.mac = mac
        peer.serial = serial
    return peer


cdef void peer_dispose(void *record) noexcept nogil:
    """Free a peer and what only it owns.  After `peer_clear_route` that is the peer alone."""
    cdef Peer *peer = <Peer *>record
    free(peer.route)
    free(peer.owned)
    if peer.lane != NULL:
        lane_dispose(peer.lane)
    free(peer)


cdef void _swap_route(Grace *grace, Peer *peer, Route *route) noexcept nogil:
    cdef Route *old = <Route *>load_pointer(&peer.route)
    store_pointer(&peer.route, route)
    if old != NULL:
        grace_retire(grace, &old.retired, plain_dispose)


cdef bint peer_publish_route(Grace *grace, Peer *peer) noexcept nogil:
    """Show the peer's lane and endpoint to the outbound thread, once both are there.  False: no memory."""
    cdef Route *route
    if peer.lane == NULL or peer.endpoint.size == 0:
        return True
    route = <Route *>calloc(1, sizeof(Route))
    if route == NULL:
        return False
    route.lane = peer.lane
    route.endpoint = peer.endpoint
    route.relayed = peer.relayed
    route.channel = peer.channel
    route.way = peer.way
    route.room = peer.budget - OVERHEAD - <size_t>(CHANNEL_HEADER_SIZE if peer.relayed else 0)
    _swap_route(grace, peer, route)
    return True


cdef bint peer_set_endpoint(Grace *grace, Peer *peer, const Endpoint *endpoint, bint relayed,
                            uint64_t channel, size_t budget) noexcept nogil:
    """Replace the endpoint; another budget alone is no other way.  False: no memory."""
    if not endpoint_equal(&peer.endpoint, endpoint) or peer.relayed != relayed or peer.channel != channel:
        peer.way += 1
    peer.endpoint = endpoint[0]
    peer.relayed = relayed
    peer.channel = channel
    peer.budget = budget
    return peer_publish_route(grace, peer)


cdef void peer_set_lane(Grace *grace, Peer *peer, SendLane *lane) noexcept nogil:
    """Replace the lane.  The old one is retired only after no published route names it."""
    cdef SendLane *old = peer.lane
    peer.lane = lane
    if lane == NULL or not peer_publish_route(grace, peer):
        # Without memory for the new route the old one must go too: it names the lane that is freed.
        _swap_route(grace, peer, NULL)
    if old != NULL:
        grace_retire(grace, &old.retired, lane_dispose)


cdef void peer_clear_route(Grace *grace, Peer *peer) noexcept nogil:
    peer.endpoint.size = 0
    peer.way += 1
    peer_set_lane(grace, peer, NULL)


cdef PeerList *peer_list_new(Peer **all_peers, size_t limit, const Peer *without) noexcept nogil:
    """A list of the non-NULL entries of `all_peers` other than `without`; NULL without memory."""
    cdef PeerList *made = <PeerList *>calloc(1, sizeof(PeerList) + limit * sizeof(Peer *))
    cdef size_t i
    if made == NULL:
        return NULL
    made.peers = <Peer **>(made + 1)
    for i in range(limit):
        if all_peers[i] != NULL and all_peers[i] != without:
            made.peers[made.count] = all_peers[i]
            made.count += 1
    return made

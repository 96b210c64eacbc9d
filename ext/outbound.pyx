"""The client's outbound thread: TAP -> seal -> UDP.

Does NOT learn addresses, choose paths or report events: peers, routes and the flood set are installed
by Python, and what can't be sent is counted.

Stages, in the order of the functions: `outbound_main` waits for the TAP -> `_read_batch` -> `_classify`
(our source MAC? one peer or all?) -> `_flood` or `_to_peer` -> `_seal` -> send_flush (udp.pyx), which
protects the headers of the batch and sends it.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport load_pointer
from shadowmesh._ext.bytes cimport load48, store64
from shadowmesh._ext.drops cimport DropReason, drop
from shadowmesh._ext.lanes cimport lane_seal
from shadowmesh._ext.packets cimport (
    CHANNEL_HEADER_SIZE,
    ETHERNET_HEADER_SIZE,
    KIND_FRAME,
)
from shadowmesh._ext.peers cimport Peer, PeerList, Route
from shadowmesh._ext.tables cimport grace_step, table_find
from shadowmesh._ext.tap cimport TAP_NOTHING, TAP_TROUBLE, tap_read
from shadowmesh._ext.udp cimport (
    BATCH,
    BUFFER_SIZE,
    Outgoing,
    send_flush,
    send_free,
    send_new,
    send_next,
)
from shadowmesh._ext.workers cimport stopping, wait_readable


cdef enum:
    HEADROOM = 64                         # channel header, packet header, kind, tag: 39 bytes
    FRAME_ROOM = 16384 - HEADROOM         # so that a sealed frame fits a receive buffer


cdef bint outbound_init(Outbound *outbound) noexcept nogil:
    """Allocate the buffers; the caller has zeroed the structure and fills the rest."""
    outbound.batch = send_new(BUFFER_SIZE)
    outbound.payload = <uint8_t *>calloc(1, BUFFER_SIZE)
    return outbound.batch != NULL and outbound.payload != NULL


cdef void outbound_free(Outbound *outbound) noexcept nogil:
    send_free(outbound.batch)
    free(outbound.payload)
    outbound.batch = NULL
    outbound.payload = NULL


cdef void *outbound_main(void *argument) noexcept nogil:
    """The thread: returns only when the stop is raised."""
    cdef Outbound *outbound = <Outbound *>argument
    cdef bint more
    grace_step(outbound.grace, outbound.reader, 1)
    while not stopping(outbound.stop):
        more = _read_batch(outbound)
        # Before the grace step: the batch points to lanes and peers.
        send_flush(outbound.batch, outbound.udp_fd, &outbound.counters)
        grace_step(outbound.grace, outbound.reader, 2)
        if not more:
            wait_readable(outbound.stop, outbound.tap_fd, outbound.grace, outbound.reader, &outbound.trouble)
    grace_step(outbound.grace, outbound.reader, 1)
    return NULL


cdef bint _read_batch(Outbound *outbound) noexcept nogil:
    """Up to BATCH frames; True if there may be more."""
    cdef uint8_t *frame = outbound.payload + 1
    cdef Py_ssize_t size
    cdef int _i
    outbound.payload[0] = KIND_FRAME
    for _i in range(BATCH):
        size = tap_read(outbound.tap_fd, frame, FRAME_ROOM + 1, &outbound.counters)
        if size == TAP_NOTHING:
            return False
        if size == TAP_TROUBLE:
            outbound.trouble += 1
            return False
        outbound.trouble = 0
        _classify(outbound, frame, <size_t>size)
    return True


cdef void _classify(Outbound *outbound, const uint8_t *frame, size_t size) noexcept nogil:
    cdef Peer *peer
    if size < ETHERNET_HEADER_SIZE:
        drop(&outbound.counters, DropReason.FRAME_SIZE)
    elif size > FRAME_ROOM:
        drop(&outbound.counters, DropReason.TOO_BIG)
    elif load48(frame + 6) != outbound.mac:
        drop(&outbound.counters, DropReason.FOREIGN_SOURCE)
    elif frame[0] & 1:
        _flood(outbound, size)
    else:
        peer = <Peer *>table_find(outbound.macs, load48(frame))
        if peer == NULL:
            drop(&outbound.counters, DropReason.UNKNOWN_DESTINATION)
        elif not _to_peer(outbound, peer, size):
            drop(&outbound.counters, DropReason.NO_ROUTE)


cdef void _flood(Outbound *outbound, size_t size) noexcept nogil:
    """One packet per peer with a route; a frame that reached nobody is one drop."""
    cdef PeerList *peers = <PeerList *>load_pointer(outbound.flood)
    cdef size_t i, reached = 0
    for i in range(peers.count):
        reached += _to_peer(outbound, peers.peers[i], size)
    if reached == 0:
        drop(&outbound.counters, DropReason.NO_ROUTE)


cdef bint _to_peer(Outbound *outbound, Peer *peer, size_t size) noexcept nogil:
    """False if the peer has no route."""
    cdef Route *route = <Route *>load_pointer(&peer.route)
    if route == NULL:
        return False
    _seal(outbound, peer, route, size)
    return True


cdef void _seal(Outbound *outbound, Peer *peer, const Route *route, size_t size) noexcept nogil:
    """channel header (9, if relayed) | frame packet around kind byte and frame.

    The first byte of the channel header is written with the header protection (udp.pyx).
    """
    cdef Outgoing *outgoing = send_next(outbound.batch)
    cdef size_t headroom = CHANNEL_HEADER_SIZE if route.relayed else 0
    if outgoing == NULL:
        send_flush(outbound.batch, outbound.udp_fd, &outbound.counters)
        outgoing = send_next(outbound.batch)
    if not lane_seal(route.lane, outgoing, headroom, outbound.payload, size + 1, &outbound.counters):
        return
    if route.relayed:
        store64(outgoing.data + 1, route.channel)
    outgoing.target = route.endpoint
    outgoing.traffic = &peer.sent
    outgoing.credit = size
    outbound.batch.count += 1

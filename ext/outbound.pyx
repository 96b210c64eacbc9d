"""The client's outbound direction: TAP -> seal -> UDP.

Does NOT learn addresses or choose paths: peers, routes and the flood set are installed by Python, and what
can't be sent is counted.  The first frames to a peer without a route go to Python, which may want one then.

Stages, in the order of the functions: `outbound_serve` -> `_read_batch` -> `_classify` (may its source send?)
-> `_address` (one peer, all, or those with bridges?) -> `_passed` (by the firewall, once for a super-frame)
-> `_frame` (whole, checksum partial, or a super-frame to be cut) -> `_to_peers` -> `_fragments`, where the
route carries less -> `_seal` -> send_flush (udp.pyx), which protects the headers of the batch and sends it.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from shadowmesh._ext.atomic cimport load_acquire, load_pointer, store_relaxed
from shadowmesh._ext.bridge cimport (
    CROSSING_PASS,
    CROSSING_PROBE,
    PORT_OFF,
    Crossing,
    bridge_find,
    bridge_lets_out,
    bridge_origin,
)
from shadowmesh._ext.bytes cimport load48, store64
from shadowmesh._ext.checksum cimport checksum_finish
from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.firewall cimport Policy
from shadowmesh._ext.fragment cimport FRAGMENT_HEADER_SIZE, fragment_header
from shadowmesh._ext.flows cimport FLOW_PEERS
from shadowmesh._ext.judge cimport DIRECTION_OUT, VERDICT_DENY, VERDICT_PASS, Verdict, wall_judge
from shadowmesh._ext.lanes cimport lane_expired, lane_seal
from shadowmesh._ext.packets cimport (
    CHANNEL_HEADER_SIZE,
    ETHERNET_HEADER_SIZE,
    KIND_FRAME,
)
from shadowmesh._ext.peers cimport BUDGET_LARGEST, Peer, PeerList, Route
from shadowmesh._ext.records cimport bucket_spend
from shadowmesh._ext.resolve cimport REPLY_ROOM, resolve
from shadowmesh._ext.ring cimport EVENT_WANTED, Arrival, ring_free, ring_init, ring_push
from shadowmesh._ext.segment cimport (
    SEGMENT_HEADER_SIZE,
    Cut,
    cut_begin,
    cut_next,
    segment_write,
)
from shadowmesh._ext.system cimport iovec, monotonic_ns, write
from shadowmesh._ext.tables cimport grace_step, table_find
from shadowmesh._ext.tap cimport TAP_NOTHING, TAP_TROUBLE, tap_read, tap_refused, tap_write
from shadowmesh._ext.udp cimport (
    Outgoing,
    Traffic,
    send_commit,
    send_flush,
    send_free,
    send_new,
    send_next,
)
from shadowmesh._ext.vnet cimport (
    VNET_GSO_NONE,
    VNET_NEEDS_CSUM,
    VNET_SIZE,
    Vnet,
    vnet_load,
)


cdef enum:
    HEADROOM = 64                         # channel header, packet header, segment header, tag: 43 bytes
    FRAME_ROOM = 16384 - HEADROOM         # so that a sealed frame fits a receive buffer
    LEAD = 16                             # before a frame: vnet_hdr, later fragment and segment header
    READ_ROOM = 0x10000 + 64              # a super-frame: 65535 bytes of IP and its Ethernet header
    QUANTUM = 64                          # reads per batch
    SEND_ROOM = 0x40000                   # of sealed packets: two super-frames and what one may add
    SEND_FULL = 0x18000                   # send before the next read from here on
    WANTED_RING = 0x10000                 # bytes: some sixty frames that may wait for asyncio
    WANTED_AT_ONCE = 4                    # frames without a route told per peer in WANTED_SPAN
    HELD_LARGEST = 900                    # bytes of payload: fits a packet on every path

cdef uint64_t WANTED_SPAN = 1_000_000_000


cdef bint outbound_init(Outbound *outbound) noexcept nogil:
    """Allocate the buffers; the caller has zeroed the structure and fills the rest."""
    outbound.batch = send_new(SEND_ROOM)
    outbound.buffer = <uint8_t *>calloc(1, LEAD + READ_ROOM)
    outbound.chosen = <Peer **>calloc(FLOW_PEERS, sizeof(Peer *))
    return (
        outbound.batch != NULL and outbound.buffer != NULL and outbound.chosen != NULL
        and ring_init(&outbound.wanted, WANTED_RING)
    )


cdef void outbound_free(Outbound *outbound) noexcept nogil:
    send_free(outbound.batch)
    free(outbound.buffer)
    free(outbound.chosen)
    ring_free(&outbound.wanted)
    outbound.chosen = NULL
    outbound.batch = NULL
    outbound.buffer = NULL


cdef void outbound_serve(Outbound *outbound, bint prompt) noexcept nogil:
    """Read, seal and send one batch of what is there; `prompt`: the first frame does not wait for more."""
    grace_step(outbound.grace, outbound.reader)
    _read_batch(outbound, prompt)
    # Before the grace step: the batch points to lanes and peers.
    send_flush(outbound.batch, outbound.udp_fd, &outbound.counters)
    grace_step(outbound.grace, outbound.reader)


cdef void _read_batch(Outbound *outbound, bint prompt) noexcept nogil:
    """Up to QUANTUM reads."""
    cdef uint8_t *frame = outbound.buffer + LEAD
    cdef size_t head = VNET_SIZE if outbound.vnet else 0
    cdef Py_ssize_t size
    cdef int i
    outbound.now = monotonic_ns()
    for i in range(QUANTUM):
        if outbound.batch.used >= SEND_FULL:
            return
        size = tap_read(outbound.tap.fd, frame - head, READ_ROOM + head, &outbound.counters)
        if size == TAP_TROUBLE:
            outbound.tap.trouble += 1
        if size == TAP_TROUBLE or size == TAP_NOTHING:
            return
        outbound.tap.trouble = 0
        if <size_t>size < head:
            drop(&outbound.counters, DropReason.FRAME_SIZE)
        else:
            if outbound.vnet:
                vnet_load(&outbound.header, frame - head)
            _classify(outbound, frame, <size_t>size - head)
        if prompt and i == 0:
            send_flush(outbound.batch, outbound.udp_fd, &outbound.counters)


cdef void _classify(Outbound *outbound, uint8_t *frame, size_t size) noexcept nogil:
    cdef Crossing crossing = CROSSING_PASS
    if size < ETHERNET_HEADER_SIZE:
        drop(&outbound.counters, DropReason.FRAME_SIZE)
    elif size >= READ_ROOM:
        drop(&outbound.counters, DropReason.TOO_BIG)  # cut by the kernel
    elif not frame[0] & 1 or not _answered(outbound, frame, size):
        if (
            frame[0] & 1 or load48(frame + 6) != outbound.mac
            or load_acquire(&outbound.bridge.port) != PORT_OFF
        ):
            crossing = bridge_lets_out(outbound.bridge, frame, size, outbound.now, &outbound.counters)
        if crossing == CROSSING_PASS:
            _address(outbound, frame, size)
        elif crossing == CROSSING_PROBE:
            _probe_back(outbound, frame, size)


cdef void _address(Outbound *outbound, uint8_t *frame, size_t size) noexcept nogil:
    """To one, or within the broadcast budget to all; unicast that nobody has heard of, to all that bridge."""
    cdef PeerList *peers
    cdef Peer *peer
    if frame[0] & 1:
        peers = <PeerList *>load_pointer(outbound.flood)
    else:
        peer = <Peer *>table_find(outbound.macs, load48(frame))
        if peer != NULL:
            store_relaxed(&peer.last_addressed, outbound.now)
        else:
            peer = bridge_find(outbound.bridge, frame, size, outbound.now)
        if peer != NULL:
            _passed(outbound, &peer, 1, frame, size)
            return
        peers = <PeerList *>load_pointer(&outbound.bridge.members)
        if peers.count == 0:
            drop(&outbound.counters, DropReason.UNKNOWN_DESTINATION)
            return
    if _within(outbound, size):
        _passed(outbound, peers.peers, peers.count, frame, size)


cdef void _probe_back(Outbound *outbound, uint8_t *frame, size_t size) noexcept nogil:
    """A loop probe that another member sent into the network behind our bridge."""
    cdef Peer *origin = bridge_origin(outbound.bridge, frame, size)
    if origin == NULL:
        drop(&outbound.counters, DropReason.UNKNOWN_DESTINATION)
    else:
        _frame(outbound, &origin, 1, frame, size)


cdef bint _answered(Outbound *outbound, const uint8_t *frame, size_t size) noexcept nogil:
    """Does our host ask for the MAC address of a peer?  Then it has the answer."""
    cdef uint8_t reply[VNET_SIZE + REPLY_ROOM]
    cdef size_t head = VNET_SIZE if outbound.vnet else 0
    cdef uint64_t asker = load48(frame + 6)
    cdef size_t length = 0
    cdef iovec vector
    cdef int error
    if asker == outbound.mac or asker == outbound.bridge.mac:
        length = resolve(outbound.neighbours, asker, frame, size, reply + head)
    if length == 0:
        return False
    memset(reply, 0, head)
    vector.iov_base = reply
    vector.iov_len = head + length
    error = tap_write(outbound.tap.fd, &vector, 1)
    if error != 0:
        tap_refused(error, 1, &outbound.counters)
        return True
    count(&outbound.counters, Statistic.TAP_TX_FRAMES, 1)
    count(&outbound.counters, Statistic.ANSWERED_REQUESTS, 1)
    return True


cdef bint _within(Outbound *outbound, size_t size) noexcept nogil:
    """May one more go to everybody?  A super-frame counts as what it will be cut into."""
    cdef uint64_t frames = 1
    if outbound.header.gso_type != VNET_GSO_NONE and outbound.header.gso_size > 0:
        frames += size // outbound.header.gso_size
    if outbound.allowance.step == 0 or bucket_spend(
        &outbound.groups, outbound.now, frames * outbound.allowance.step, outbound.allowance.depth
    ):
        return True
    drop(&outbound.counters, DropReason.BROADCAST_BUDGET)
    return False


cdef void _passed(Outbound *outbound, Peer **peers, size_t peer_count, uint8_t *frame,
                  size_t size) noexcept nogil:
    """To those of `peers` to whom the firewall lets it go; one that goes to none is one drop."""
    cdef void *policy = load_pointer(outbound.policy)
    cdef size_t i, passed = 0
    cdef Verdict verdict = VERDICT_PASS
    if policy == NULL:
        _frame(outbound, peers, peer_count, frame, size)
        return
    for i in range(peer_count):
        verdict = wall_judge(<Policy *>policy, DIRECTION_OUT, peers[i].number, peers[i].serial, frame, size,
                             outbound.now)
        if verdict == VERDICT_PASS:
            outbound.chosen[passed] = peers[i]
            passed += 1
    if passed > 0 or peer_count == 0:
        _frame(outbound, outbound.chosen, passed, frame, size)
    else:
        drop(&outbound.counters,
             DropReason.FIREWALL_OUT if verdict == VERDICT_DENY else DropReason.FIREWALL_MALFORMED)


cdef void _frame(Outbound *outbound, Peer **peers, size_t peer_count, uint8_t *frame,
                 size_t size) noexcept nogil:
    """To each of `peers` that has a route; a frame that reaches nobody is one drop."""
    cdef const Vnet *vnet = &outbound.header
    cdef uint8_t *payload = frame - 1
    if vnet.gso_type != VNET_GSO_NONE:
        _super_frame(outbound, peers, peer_count, frame, size)
        return
    if size > FRAME_ROOM:
        drop(&outbound.counters, DropReason.TOO_BIG)
        return
    payload[0] = KIND_FRAME
    if vnet.flags & VNET_NEEDS_CSUM:
        if segment_write(frame, size, vnet):
            payload = frame - SEGMENT_HEADER_SIZE
        elif <size_t>vnet.csum_start + vnet.csum_offset + 2 <= size:
            checksum_finish(frame, size, vnet.csum_start, vnet.csum_offset)
    if _to_peers(outbound, peers, peer_count, payload, size + <size_t>(frame - payload), size) == 0:
        if frame[0] & 1 or not _want(outbound, peers[0], payload, size + <size_t>(frame - payload)):
            drop(&outbound.counters, DropReason.NO_ROUTE)


cdef bint _want(Outbound *outbound, Peer *peer, const uint8_t *payload, size_t size) noexcept nogil:
    """Tell asyncio, up to WANTED_AT_ONCE times a second, that there is a frame to this peer.

    True: asyncio has the payload, and may send it when there is a route.
    """
    cdef Arrival nowhere
    cdef Endpoint nobody
    cdef uint64_t one = 1
    if outbound.now - peer.asked_at >= WANTED_SPAN:
        peer.asked_at = outbound.now
        peer.asked = 0
    if peer.asked >= WANTED_AT_ONCE:
        return False
    peer.asked += 1
    memset(&nobody, 0, sizeof(nobody))
    nowhere.source = &nobody
    nowhere.relayed = False
    nowhere.via = 0
    if size > HELD_LARGEST:
        size = 0
    if not ring_push(&outbound.wanted, EVENT_WANTED, peer.number, &nowhere, payload, size):
        return False
    count(&outbound.counters, Statistic.EVENTS, 1)
    write(outbound.event_fd, &one, sizeof(one))
    return size > 0


cdef void _super_frame(Outbound *outbound, Peer **peers, size_t peer_count, uint8_t *frame,
                       size_t size) noexcept nogil:
    """Segments in the outer loop: the headers of one overwrite the payload of the one before."""
    cdef Cut cut
    cdef uint8_t *segment
    cdef size_t length = 0
    if not cut_begin(&cut, frame, size, &outbound.header, _smallest_room(peers, peer_count)):
        drop(&outbound.counters, DropReason.UNSPLITTABLE)
        return
    if cut.shape.headers + cut.step > FRAME_ROOM:
        drop(&outbound.counters, DropReason.TOO_BIG)
        return
    count(&outbound.counters, Statistic.SPLIT_FRAMES, 1)
    while True:
        segment = cut_next(&cut, &length)
        if segment == NULL:
            return
        if _to_peers(outbound, peers, peer_count, segment, length, length - SEGMENT_HEADER_SIZE) == 0:
            if not frame[0] & 1:
                _want(outbound, peers[0], segment, 0)
            drop(&outbound.counters, DropReason.NO_ROUTE)
            return


cdef size_t _smallest_room(Peer **peers, size_t peer_count) noexcept nogil:
    """What one packet to each of the peers can hold; of peers without a route, anything."""
    cdef size_t i, room = BUDGET_LARGEST
    cdef Route *route
    for i in range(peer_count):
        route = <Route *>load_pointer(&peers[i].route)
        if route != NULL and route.room < room:
            room = route.room
    return room


cdef size_t _to_peers(Outbound *outbound, Peer **peers, size_t peer_count, uint8_t *payload,
                      size_t size, size_t credit) noexcept nogil:
    """How many of the peers have a route; each of these gets a packet of its own, or several."""
    cdef size_t i, reached = 0
    cdef Route *route
    for i in range(peer_count):
        route = <Route *>load_pointer(&peers[i].route)
        if route != NULL:
            if lane_expired(route.lane, outbound.now):
                drop(&outbound.counters, DropReason.EXPIRED_KEYS)
            elif size <= route.room:
                _seal(outbound, route, payload, size, &peers[i].sent, credit)
            else:
                _fragments(outbound, peers[i], route, payload, size, credit)
            reached += 1
    return reached


cdef void _fragments(Outbound *outbound, Peer *peer, const Route *route, uint8_t *payload, size_t size,
                     size_t credit) noexcept nogil:
    """In parts of nearly equal size, so that those of many frames fit one GSO message.

    The header of a part lies over the end of the part before while it is sealed, and the next peer needs
    that again.  The frame counts as sent with its last part.
    """
    cdef size_t room = route.room - FRAGMENT_HEADER_SIZE
    cdef size_t parts = (size + room - 1) // room
    cdef size_t step = (size + parts - 1) // parts
    cdef size_t index
    cdef uint8_t kept[FRAGMENT_HEADER_SIZE]
    cdef uint8_t *fragment = payload - FRAGMENT_HEADER_SIZE
    for index in range(parts):
        memcpy(kept, fragment, FRAGMENT_HEADER_SIZE)
        fragment_header(fragment, peer.next_frame, index, parts)
        if index < parts - 1:
            _seal(outbound, route, fragment, FRAGMENT_HEADER_SIZE + step, NULL, 0)
        else:
            _seal(outbound, route, fragment, FRAGMENT_HEADER_SIZE + size - index * step, &peer.sent, credit)
        memcpy(fragment, kept, FRAGMENT_HEADER_SIZE)
        fragment += step
    peer.next_frame += 1
    count(&outbound.counters, Statistic.FRAGMENTED_FRAMES, 1)


cdef void _seal(Outbound *outbound, const Route *route, const uint8_t *payload, size_t size,
                Traffic *traffic, size_t credit) noexcept nogil:
    """channel header (9, if relayed) | frame packet around `payload`; `credit`: bytes of the frame in it.

    The first byte of the channel header is written with the header protection (udp.pyx).
    """
    cdef Outgoing *outgoing = send_next(outbound.batch, size + HEADROOM)
    cdef size_t headroom = CHANNEL_HEADER_SIZE if route.relayed else 0
    if outgoing == NULL:
        send_flush(outbound.batch, outbound.udp_fd, &outbound.counters)
        outgoing = send_next(outbound.batch, size + HEADROOM)
    if not lane_seal(route.lane, outgoing, headroom, payload, size, &outbound.counters):
        return
    if route.relayed:
        store64(outgoing.data + 1, route.channel)
    outgoing.target = route.endpoint
    outgoing.traffic = traffic
    outgoing.credit = credit
    send_commit(outbound.batch, outgoing)

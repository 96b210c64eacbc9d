"""The client's inbound thread: UDP -> open -> TAP.

Does NOT answer anything: probes, handshakes and control datagrams go to asyncio.

What comes in (architecture section 3), decided by the first byte and, for a short header, by the id:
long header -> asyncio if it came through a channel or from an allowed source; lane -> frame or
message; channel -> its 9 bytes off and again from the top, once; control connection -> asyncio.
"""

from libc.stdint cimport uint8_t

from shadowmesh._ext.atomic cimport (
    add_relaxed,
    load_acquire,
    load_pointer,
    store_relaxed,
    store_release,
)
from shadowmesh._ext.bridge cimport CROSSING_PASS, CROSSING_PROBE, PORT_OFF, Crossing, bridge_lets_in
from shadowmesh._ext.bytes cimport load48, load64
from shadowmesh._ext.checksum cimport checksum_finish
from shadowmesh._ext.coalesce cimport (
    deliver_frame,
    deliver_segment,
    delivery_flush,
)
from shadowmesh._ext.drops cimport Counters, DropReason, Statistic, count, drop
from shadowmesh._ext.endpoint cimport endpoint_equal, endpoint_key
from shadowmesh._ext.firewall cimport Policy
from shadowmesh._ext.fragment cimport fragment_take, pool_free
from shadowmesh._ext.header cimport FORM_LONG, FORM_NONE, FORM_SHORT, header_form
from shadowmesh._ext.judge cimport DIRECTION_IN, VERDICT_DENY, VERDICT_PASS, Verdict, wall_judge
from shadowmesh._ext.origin cimport ORIGIN_FINE, origin_judge
from shadowmesh._ext.ownership cimport Owned
from shadowmesh._ext.packets cimport (
    CHANNEL_HEADER_SIZE,
    ETHERNET_HEADER_SIZE,
    KIND_BIND,
    KIND_BOUND,
    KIND_EMPTY,
    KIND_FRAGMENT,
    KIND_FRAME,
    KIND_OBSERVED,
    KIND_PADDING,
    KIND_PATH_COMPLETE,
    KIND_PATH_REQUEST,
    KIND_PATH_RESPONSE,
    KIND_PROBE_REPLY,
    KIND_PROBE_REQUEST,
    KIND_SEGMENT,
)
from shadowmesh._ext.peers cimport Peer, Route
from shadowmesh._ext.receive cimport (
    Pending,
    deliver,
    deliver_control,
    deliver_long_header,
    receiver_free,
    receiver_init,
    receiver_lookup,
    receiver_pend,
)
from shadowmesh._ext.records cimport (
    RECORD_CONTROL,
    RECORD_LANE,
    Allowance,
    Record,
    Session,
    bucket_at_ease,
    bucket_spend,
    bucket_take,
)
from shadowmesh._ext.refusals cimport Claim, refuse
from shadowmesh._ext.ring cimport EVENT_LANE_MESSAGE, EVENT_PROBE, EVENT_SOURCE, Arrival
from shadowmesh._ext.segment cimport SEGMENT_CHECKSUM, SEGMENT_HEADER_SIZE, Shape, segment_valid
from shadowmesh._ext.tables cimport table_find


cdef enum:
    EXCESS = 10                # times the budget, and as much at once, may come above it
    UNHEARD_NS = 100000000


cdef bint inbound_init(Inbound *inbound) noexcept nogil:
    """Allocate what the thread needs; the caller has zeroed the structure and fills the rest."""
    inbound.receiver.owner = inbound
    inbound.receiver.on_datagram = _on_datagram
    inbound.receiver.on_packet = _on_packet
    inbound.receiver.on_batch_end = _on_batch_end
    inbound.delivery.counters = &inbound.receiver.counters
    inbound.pool.counters = &inbound.receiver.counters
    return receiver_init(&inbound.receiver)


cdef void inbound_free(Inbound *inbound) noexcept nogil:
    receiver_free(&inbound.receiver)
    pool_free(&inbound.pool)


# ---- sorting ---------------------------------------------------------------------------------


cdef void _on_datagram(Receiver *receiver, uint8_t *data, size_t size, const Arrival *arrival) noexcept nogil:
    cdef int form = header_form(data, size)
    if form == FORM_SHORT:
        _short_header(receiver, data, size, arrival)
    elif form == FORM_LONG:
        _long_header(receiver, data, size, arrival)
    elif form == FORM_NONE:
        drop(&receiver.counters, DropReason.SHORT)
    else:
        drop(&receiver.counters, DropReason.NOT_QUIC)


cdef void _long_header(Receiver *receiver, const uint8_t *data, size_t size,
                       const Arrival *arrival) noexcept nogil:
    cdef Source *source
    if not arrival.relayed:
        source = <Source *>table_find((<Inbound *>receiver.owner).sources, endpoint_key(arrival.source))
        if source == NULL or not endpoint_equal(&source.endpoint, arrival.source):
            drop(&receiver.counters, DropReason.UNEXPECTED_LONG_HEADER)
            return
    deliver_long_header(receiver, data, size, arrival)


cdef void _short_header(Receiver *receiver, uint8_t *data, size_t size,
                        const Arrival *arrival) noexcept nogil:
    cdef Record *record = receiver_lookup(receiver, data, size)
    cdef Arrival inner
    if record == NULL:
        return
    if record.kind == RECORD_LANE:
        if record.lane != 0 and (<Peer *>record.session.owner).heard_from > receiver.now:
            drop(&receiver.counters, DropReason.UNHEARD_PEER)
        else:
            receiver_pend(receiver, record, data, size, arrival)
    elif record.kind == RECORD_CONTROL:
        deliver_control(receiver, record, data, size, arrival)
    elif arrival.relayed:
        drop(&receiver.counters, DropReason.NESTED_CHANNEL)
    else:
        inner.source = arrival.source
        inner.relayed = True
        inner.via = load64(data + 1)
        # The recursion ends here: what is inside has `relayed` set.
        _on_datagram(receiver, data + CHANNEL_HEADER_SIZE, size - CHANNEL_HEADER_SIZE, &inner)


# ---- opened packets --------------------------------------------------------------------------


cdef void _on_packet(Receiver *receiver, const Pending *pending, uint8_t *payload,
                     size_t size) noexcept nogil:
    """An authentic, fresh packet; `size` >= 1."""
    cdef Peer *peer = <Peer *>pending.record.session.owner
    cdef uint8_t kind = payload[0]
    if not _same_run(&(<Inbound *>receiver.owner).run, pending):
        _begin_run(receiver, pending, peer)
    if kind == KIND_FRAME:
        _frame(<Inbound *>receiver.owner, peer, payload + 1, size - 1)
    elif kind == KIND_SEGMENT:
        _segment(<Inbound *>receiver.owner, peer, payload, size)
    elif kind == KIND_FRAGMENT:
        _fragment(<Inbound *>receiver.owner, pending, payload, size)
    elif kind == KIND_PADDING or kind == KIND_EMPTY:
        count(&receiver.counters, Statistic.EMPTY_PACKETS, 1)
    elif kind in (
        KIND_PROBE_REQUEST, KIND_PROBE_REPLY, KIND_PATH_REQUEST, KIND_PATH_RESPONSE, KIND_PATH_COMPLETE,
        KIND_BIND, KIND_BOUND, KIND_OBSERVED,
    ):
        _message(receiver, pending, payload, size)
    else:
        drop(&receiver.counters, DropReason.UNKNOWN_KIND)


cdef inline bint _same_run(const Run *run, const Pending *pending) noexcept nogil:
    return (
        run.record == pending.record and run.source == pending.arrival.source
        and run.relayed == pending.arrival.relayed and run.via == pending.arrival.via
    )


cdef void _begin_run(Receiver *receiver, const Pending *pending, Peer *peer) noexcept nogil:
    """Note where these packets come from; all packets of a batch have the same time."""
    cdef Run *run = &(<Inbound *>receiver.owner).run
    cdef const Arrival *arrival = &pending.arrival
    cdef Route *route = <Route *>load_pointer(&peer.route)
    run.record = pending.record
    run.source = arrival.source
    run.relayed = arrival.relayed
    run.via = arrival.via
    store_relaxed(&peer.last_received, receiver.now)
    if route != NULL and route.relayed == arrival.relayed and endpoint_equal(&route.endpoint, arrival.source):
        store_relaxed(&peer.path_received, receiver.now)
        store_release(&peer.path_way, route.way)
    if peer.number != 0 and pending.record.lane != 0:
        _note_source(receiver, pending.record.session, arrival, pending.packet)


cdef void _note_source(Receiver *receiver, Session *session, const Arrival *arrival,
                       const uint8_t *nothing) noexcept nogil:
    """Tell asyncio when it is another.  If tokens are few or the ring is full, the next run tries again."""
    if (
        session.relayed == arrival.relayed and session.via == arrival.via
        and endpoint_equal(&session.source, arrival.source)
    ):
        return
    if not bucket_at_ease(&session.bucket, receiver.now) or not bucket_take(&session.bucket, receiver.now):
        return
    if deliver(receiver, EVENT_SOURCE, session.handle, nothing, 0, arrival):
        session.source = arrival.source[0]
        session.relayed = arrival.relayed
        session.via = arrival.via


cdef void _message(Receiver *receiver, const Pending *pending, const uint8_t *payload,
                   size_t size) noexcept nogil:
    """To asyncio, through the session's token bucket: a peer must not starve the other sessions."""
    if not bucket_take(&pending.record.session.bucket, receiver.now):
        drop(&receiver.counters, DropReason.MESSAGE_RATE)
    else:
        deliver(receiver, EVENT_LANE_MESSAGE, pending.record.session.handle, payload, size, &pending.arrival)


cdef bint _accepts(Inbound *inbound, Peer *peer, const uint8_t *frame, size_t size) noexcept nogil:
    """Only its own MAC may send, and only to us or to a group: nothing is ever sent on (split horizon).

    More than that is a matter of bridges (bridge.pyx).  And only what the guards and the firewall, if there
    is one, let pass.
    """
    cdef Counters *counters = &inbound.receiver.counters
    if peer.number == 0:
        drop(counters, DropReason.UNKNOWN_KIND)
    elif size < ETHERNET_HEADER_SIZE:
        drop(counters, DropReason.FRAME_SIZE)
    elif (not frame[0] & 1 or _within(inbound, peer, frame)) and (
        _plain(inbound, peer, frame) or _bridged(inbound, peer, frame, size)
    ):
        add_relaxed(&peer.received.packets, 1)
        add_relaxed(&peer.received.bytes, size)
        if not frame[0] & 1:
            store_relaxed(&peer.last_hailed, inbound.receiver.now)
        return _guarded(inbound, peer, frame, size) and _passes(inbound, peer, frame, size)
    return False


cdef bint _within(Inbound *inbound, Peer *peer, const uint8_t *frame) noexcept nogil:
    """Before anything is looked at: a storm of one peer must not cost more than its opening.

    And not even that for long: the client of whoever exceeds the budget this far does not keep to it.  Only
    packets that were authentic bring a peer here, so nobody else can have it not heard.
    """
    cdef const Allowance *allowance = &inbound.allowance
    cdef uint64_t now = inbound.receiver.now
    cdef Claim claim
    if allowance.step == 0 or bucket_spend(&peer.groups, now, allowance.step, allowance.depth):
        return True
    if not bucket_spend(&peer.excess, now, allowance.step // EXCESS, allowance.depth // EXCESS):
        peer.heard_from = now + UNHEARD_NS
    claim.mac = load48(frame + 6)
    claim.address[0] = claim.address[1] = 0
    refuse(&inbound.receiver.counters, &peer.refusals, DropReason.BROADCAST_BUDGET, &claim)
    return False


cdef inline bint _plain(Inbound *inbound, const Peer *peer, const uint8_t *frame) noexcept nogil:
    """From a member's own MAC to ours, and no bridge here: most frames."""
    return (
        load48(frame) == inbound.mac and load48(frame + 6) == peer.mac
        and load_acquire(&inbound.bridge.port) == PORT_OFF
    )


cdef bint _bridged(Inbound *inbound, Peer *peer, const uint8_t *frame, size_t size) noexcept nogil:
    """Whatever else may pass; what may not is counted.  A loop probe goes to asyncio."""
    cdef Receiver *receiver = &inbound.receiver
    cdef Run *run = &inbound.run
    cdef Arrival arrival
    cdef Crossing crossing = bridge_lets_in(inbound.bridge, peer, frame, size, receiver.now,
                                            &receiver.counters)
    if crossing == CROSSING_PROBE:
        if not bucket_take(&run.record.session.bucket, receiver.now):
            drop(&receiver.counters, DropReason.MESSAGE_RATE)
        else:
            arrival.source = run.source
            arrival.relayed = run.relayed
            arrival.via = run.via
            deliver(receiver, EVENT_PROBE, peer.number, frame, size, &arrival)
    return crossing == CROSSING_PASS


cdef bint _guarded(Inbound *inbound, Peer *peer, const uint8_t *frame, size_t size) noexcept nogil:
    cdef Owned *owned = <Owned *>load_pointer(&peer.owned)
    cdef Claim claim
    cdef int verdict
    if owned == NULL:
        return True
    verdict = origin_judge(owned, inbound.neighbours, frame, size, &claim)
    if verdict == ORIGIN_FINE:
        return True
    refuse(&inbound.receiver.counters, &peer.refusals, <DropReason>verdict, &claim)
    return False


cdef bint _passes(Inbound *inbound, const Peer *peer, const uint8_t *frame, size_t size) noexcept nogil:
    cdef Receiver *receiver = &inbound.receiver
    cdef Policy *policy = <Policy *>load_pointer(inbound.policy)
    cdef Verdict verdict
    if policy == NULL:
        return True
    verdict = wall_judge(policy, DIRECTION_IN, peer.number, peer.serial, frame, size, receiver.now)
    if verdict == VERDICT_PASS:
        return True
    drop(&receiver.counters,
         DropReason.FIREWALL_IN if verdict == VERDICT_DENY else DropReason.FIREWALL_MALFORMED)
    return False


cdef void _frame(Inbound *inbound, Peer *peer, uint8_t *frame, size_t size) noexcept nogil:
    if _accepts(inbound, peer, frame, size):
        deliver_frame(&inbound.delivery, frame, size)


cdef void _segment(Inbound *inbound, Peer *peer, uint8_t *payload, size_t size) noexcept nogil:
    """As a frame, and what its header claims must hold for the frame.

    Where nobody has proved in which place its checksum is, that is finished first: what is judged must be
    what is delivered.
    """
    cdef uint8_t *frame = payload + SEGMENT_HEADER_SIZE
    cdef size_t length = size - SEGMENT_HEADER_SIZE
    cdef Shape shape
    if peer.number == 0:
        drop(&inbound.receiver.counters, DropReason.UNKNOWN_KIND)
    elif not segment_valid(payload, size, &shape):
        drop(&inbound.receiver.counters, DropReason.MALFORMED_SEGMENT)
    elif payload[1] == SEGMENT_CHECKSUM:
        checksum_finish(frame, length, payload[3], payload[4])
        _frame(inbound, peer, frame, length)
    elif _accepts(inbound, peer, frame, length):
        deliver_segment(&inbound.delivery, payload, size, &shape)


cdef void _fragment(Inbound *inbound, const Pending *pending, const uint8_t *payload,
                    size_t size) noexcept nogil:
    """What it completes is a frame or a segment like any other, never a fragment again."""
    cdef Peer *peer = <Peer *>pending.record.session.owner
    cdef uint8_t *whole
    if peer.number == 0 or pending.record.lane == 0:
        drop(&inbound.receiver.counters, DropReason.UNEXPECTED_KIND)
        return
    whole = fragment_take(&inbound.pool, &peer.assemblies, pending.record.session.handle, payload, size,
                          inbound.receiver.now, &size)
    if whole == NULL:
        return
    count(&inbound.receiver.counters, Statistic.REASSEMBLED_FRAMES, 1)
    if whole[0] == KIND_FRAME:
        _frame(inbound, peer, whole + 1, size - 1)
    else:
        _segment(inbound, peer, whole, size)
        # The next frame may be put together in the same buffer.
        delivery_flush(&inbound.delivery)


cdef void _on_batch_end(Receiver *receiver) noexcept nogil:
    """The super-frame in the making points into the receive buffers, and so does the run."""
    (<Inbound *>receiver.owner).run.record = NULL
    delivery_flush(&(<Inbound *>receiver.owner).delivery)

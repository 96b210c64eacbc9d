"""A forwarder thread of the relay: UDP -> channel table -> UDP, and BIND.

Does NOT open what members send each other: a relay has no key of it.

In the order of the functions: receive.pyx fetches -> `_on_datagram`: long header and control connection
to asyncio (handshakes under way apart from strangers, who can't crowd them out), channel datagram onwards
with the other end's id (`_forward`, as far as fair.pyx allows), lane packet opened -> `_on_packet`: BIND
(bind.pyx) and its BOUND, nothing else -> `_on_batch_end` sends the batch.

Each client has one owner among the threads, who alone handles what it sends, so that its replay windows,
buckets and keys have one writer.  The kernel leads nearly all of it to the owner's socket, by the id; what
comes to another socket all the same (a train of datagrams goes where its first one belongs) is handed over.
"""

from libc.stdint cimport uint8_t

from shadowmesh._ext.aead cimport OVERHEAD
from shadowmesh._ext.atomic cimport (
    add_relaxed,
    load_acquire,
    load_pointer,
    store_release,
)
from shadowmesh._ext.bind cimport (
    BIND_MOVED,
    BIND_STALE,
    BindResult,
    bind_handle,
    bound_write,
)
from shadowmesh._ext.bytes cimport store64
from shadowmesh._ext.clients cimport Client, client_endpoint
from shadowmesh._ext.drops cimport DropReason, drop
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.fair cimport (
    BYTE_RATE,
    PACKET_RATE,
    PASSES,
    Verdict,
    fair_due,
    fair_judge,
    fair_queue_fills,
    fair_turn,
)
from shadowmesh._ext.lanes cimport SendLane, lane_expired, lane_seal
from shadowmesh._ext.header cimport FORM_LONG, FORM_NONE, FORM_SHORT, header_form
from shadowmesh._ext.packets cimport BIND_SIZE, KIND_BIND
from shadowmesh._ext.receive cimport (
    Pending,
    deliver,
    deliver_control,
    deliver_long_header,
    receiver_connection,
    receiver_finish,
    receiver_free,
    receiver_init,
    receiver_lookup,
    receiver_pend,
    receiver_serve,
)
from shadowmesh._ext.records cimport (
    RECORD_CHANNEL,
    RECORD_CONTROL,
    Record,
    bucket_take,
)
from shadowmesh._ext.ring cimport (
    EVENT_CONTROL,
    EVENT_ENDPOINT,
    Arrival,
    Entry,
    Ring,
    ring_at,
    ring_free,
    ring_init,
    ring_push,
)
from shadowmesh._ext.system cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    eventfd,
    monotonic_ns,
    read,
    write,
)
from shadowmesh._ext.tables cimport READERS, grace_step
from shadowmesh._ext.udp cimport (
    SEND_LIMIT,
    Outgoing,
    send_commit,
    send_flush,
    send_free,
    send_new,
    send_next,
)
from shadowmesh._ext.workers cimport (
    close_descriptor,
    stopping,
    wait_any,
    waiter_free,
    waiter_init,
)


cdef enum:
    REPLY_ROOM = 64  # a sealed BOUND: 35 + 29; forwarded datagrams stay in their receive buffers
    OTHERS_RING_SIZE = 0x40000  # 256 KiB, four trains: little comes this way


cdef bint forward_init(Forward *forward, size_t index, size_t threads) noexcept nogil:
    """Allocate what the thread needs; the caller has zeroed the structure and fills the rest."""
    cdef size_t other
    forward.first = forward - index
    forward.index = forward.receiver.reader = index
    forward.threads = threads
    forward.handed.fd = -1
    if threads > 1:
        forward.handed.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if forward.handed.fd < 0:
            return False
        for other in range(threads):
            if other != index and not ring_init(&forward.others[other], OTHERS_RING_SIZE):
                return False
    forward.receiver.owner = forward
    forward.receiver.on_datagram = _on_datagram
    forward.receiver.on_packet = _on_packet
    forward.receiver.on_batch_end = _on_batch_end
    forward.fair.window = 1
    forward.batch = send_new(REPLY_ROOM * SEND_LIMIT)
    return forward.batch != NULL and receiver_init(&forward.receiver)


cdef void forward_free(Forward *forward) noexcept nogil:
    cdef size_t other
    send_free(forward.batch)
    forward.batch = NULL
    receiver_free(&forward.receiver)
    waiter_free(&forward.waiter)
    for other in range(forward.threads):
        ring_free(&forward.others[other])
    if forward.threads > 1:
        close_descriptor(&forward.handed.fd)


cdef int forward_start(Forward *forward) noexcept nogil:
    """What the thread waits for; 0 or an errno."""
    return waiter_init(&forward.waiter, forward.stop, &forward.receiver.udp,
                       &forward.handed if forward.threads > 1 else NULL)


cdef void *forward_main(void *argument) noexcept nogil:
    """The thread: returns only when the stop is raised."""
    cdef Forward *forward = <Forward *>argument
    while not stopping(forward.stop):
        wait_any(&forward.waiter, -1)
        receiver_serve(&forward.receiver)
        if forward.handed.ready:
            _serve_handed(forward)
    return NULL


cdef void _on_datagram(Receiver *receiver, uint8_t *data, size_t size, const Arrival *arrival) noexcept nogil:
    cdef Forward *forward = <Forward *>receiver.owner
    cdef Record *record
    cdef Client *client
    cdef int form = header_form(data, size)
    if form == FORM_NONE:
        drop(&receiver.counters, DropReason.SHORT)
    elif form == FORM_LONG:
        record = receiver_connection(receiver, data, size)
        if record != NULL:
            deliver_control(receiver, record, data, size, arrival)
        else:
            deliver_long_header(receiver, data, size, arrival)
    elif form != FORM_SHORT:
        drop(&receiver.counters, DropReason.NOT_QUIC)
    else:
        record = receiver_lookup(receiver, data, size)
        if record == NULL:
            return
        if record.kind == RECORD_CONTROL:  # of any thread: all that is known of it is in Python
            deliver_control(receiver, record, data, size, arrival)
            return
        client = <Client *>(record.source if record.kind == RECORD_CHANNEL else record.session.owner)
        if client.thread != forward.index:
            _hand_over(forward, client.thread, data, size, arrival)
        elif record.kind == RECORD_CHANNEL:
            _forward(forward, record, data, size)
        else:
            receiver_pend(receiver, record, data, size, arrival)


# ---- between threads -------------------------------------------------------------------------


cdef void _hand_over(Forward *forward, size_t thread, const uint8_t *data, size_t size,
                     const Arrival *arrival) noexcept nogil:
    """As it came, to the thread that owns its client, which looks its id up again."""
    cdef Ring *ring = &forward.first[thread].others[forward.index]
    if not ring_push(ring, EVENT_CONTROL, 0, arrival, data, size):
        drop(&forward.receiver.counters, DropReason.OTHER_THREAD_BUSY)
        return
    forward.to_wake |= <uint64_t>1 << thread
    add_relaxed(&forward.handed_over, 1)


cdef void _wake(Forward *forward) noexcept nogil:
    cdef uint64_t one = 1
    cdef size_t thread
    for thread in range(forward.threads):
        if (forward.to_wake >> thread) & 1:
            write(forward.first[thread].handed.fd, &one, sizeof(one))
    forward.to_wake = 0


cdef void _serve_handed(Forward *forward) noexcept nogil:
    """A batch of what others received for clients of this thread.

    Only what is there now, so that the socket and the grace period wait no longer than for a full ring each.
    What is pushed later wakes this thread again.  The datagrams stay in the rings until they are sent.
    """
    cdef Receiver *receiver = &forward.receiver
    cdef uint64_t ends[READERS]
    cdef uint64_t position
    cdef size_t other
    cdef Entry *entry
    cdef Arrival arrival
    read(forward.handed.fd, &position, sizeof(position))
    grace_step(receiver.grace, receiver.reader)
    receiver.now = monotonic_ns()
    arrival.relayed = False
    arrival.via = 0
    for other in range(forward.threads):
        ends[other] = load_acquire(&forward.others[other].head)
        position = forward.others[other].tail
        while True:
            entry = ring_at(&forward.others[other], &position, ends[other])
            if entry == NULL:
                break
            arrival.source = &entry.source
            receiver.on_datagram(receiver, <uint8_t *>entry + sizeof(Entry), entry.size, &arrival)
    receiver_finish(receiver)
    for other in range(forward.threads):
        store_release(&forward.others[other].tail, ends[other])
    grace_step(receiver.grace, receiver.reader)


# ---- channels --------------------------------------------------------------------------------


cdef Outgoing *_next(Forward *forward) noexcept nogil:
    cdef Outgoing *outgoing = send_next(forward.batch, REPLY_ROOM)
    if outgoing == NULL:
        send_flush(forward.batch, forward.receiver.udp.fd, &forward.receiver.counters)
        outgoing = send_next(forward.batch, REPLY_ROOM)
    return outgoing


cdef bint _may_send(Forward *forward, Client *source, size_t size) noexcept nogil:
    """Asked first of all: what is over a limit must cost no more than to read it."""
    cdef Verdict verdict = fair_judge(&forward.fair, &forward.limits, &source.share, size,
                                      forward.receiver.now)
    if verdict == PASSES:
        return True
    add_relaxed(&source.refused, 1)
    if verdict == PACKET_RATE:
        drop(&forward.receiver.counters, DropReason.CLIENT_PACKETS)
    elif verdict == BYTE_RATE:
        drop(&forward.receiver.counters, DropReason.CLIENT_BYTES)
    else:
        drop(&forward.receiver.counters, DropReason.CLIENT_SHARE)
    return False


cdef void _forward(Forward *forward, Record *channel, uint8_t *data, size_t size) noexcept nogil:
    """Rewrite the id in the receive buffer and send it to where the other client is now."""
    cdef Client *source = <Client *>channel.source
    cdef Client *target = <Client *>channel.target
    cdef Outgoing *outgoing
    if not _may_send(forward, source, size):
        return
    outgoing = _next(forward)
    add_relaxed(&source.received.packets, 1)
    add_relaxed(&source.received.bytes, size)
    store64(data + 1, channel.target_id)
    outgoing.data = data
    outgoing.size = size
    outgoing.credit = size
    outgoing.traffic = &target.sent[forward.index]
    if target.thread == forward.index:
        outgoing.target = target.endpoint
    else:
        client_endpoint(target, &outgoing.target)
    send_commit(forward.batch, outgoing)


# ---- BIND ------------------------------------------------------------------------------------


cdef void _on_packet(Receiver *receiver, const Pending *pending, uint8_t *payload,
                     size_t size) noexcept nogil:
    """An authentic, fresh packet of a client's lane: BIND or nothing."""
    cdef Client *client = <Client *>pending.record.session.owner
    cdef BindResult result
    if payload[0] != KIND_BIND:
        drop(&receiver.counters, DropReason.UNEXPECTED_KIND)
        return
    if size != BIND_SIZE:
        drop(&receiver.counters, DropReason.SHORT)
        return
    if not bucket_take(&client.bucket, receiver.now):
        drop(&receiver.counters, DropReason.MESSAGE_RATE)
        return
    result = bind_handle(client, payload, pending.arrival.source, receiver.now)
    if result == BIND_STALE:
        drop(&receiver.counters, DropReason.STALE_BIND)
        return
    if result == BIND_MOVED:
        deliver(receiver, EVENT_ENDPOINT, client.number, payload, 0, &pending.arrival)
    _reply(<Forward *>receiver.owner, client, payload, result, pending.arrival.source)


cdef void _reply(Forward *forward, Client *client, const uint8_t *payload, BindResult result,
                 const Endpoint *source) noexcept nogil:
    """BOUND to where the BIND came from: as many bytes as it had."""
    cdef SendLane *lane = <SendLane *>load_pointer(&client.lane)
    cdef Outgoing *outgoing = _next(forward)
    cdef uint8_t bound[BIND_SIZE]
    if lane == NULL:
        drop(&forward.receiver.counters, DropReason.NO_ROUTE)
        return
    if lane_expired(lane, forward.receiver.now):
        drop(&forward.receiver.counters, DropReason.EXPIRED_KEYS)
        return
    bound_write(bound, payload, client, result, source)
    if not lane_seal(lane, outgoing, 0, bound, BIND_SIZE, &forward.receiver.counters):
        return
    outgoing.target = source[0]
    outgoing.traffic = &client.sent[forward.index]
    outgoing.credit = BIND_SIZE + OVERHEAD
    send_commit(forward.batch, outgoing)


cdef void _on_batch_end(Receiver *receiver) noexcept nogil:
    """Before the grace step and before the receive buffers are used again."""
    cdef Forward *forward = <Forward *>receiver.owner
    send_flush(forward.batch, receiver.udp.fd, &receiver.counters)
    if forward.to_wake:
        _wake(forward)
    if fair_due(&forward.fair, receiver.now):
        fair_turn(&forward.fair, fair_queue_fills(receiver.udp.fd), receiver.now)

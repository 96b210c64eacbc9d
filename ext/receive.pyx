"""Receiving: fetch a batch, sort it, open its lane packets, report to asyncio.

Does NOT decide what a datagram means to a client or a relay: `on_datagram` and `on_packet` do
(inbound.pyx, forward.pyx).

Stages of one batch, in the order of the functions: `receiver_serve` fetches -> `on_datagram` sorts by
first byte and id (`receiver_lookup`) and delivers or pends -> `_open_pending` removes header
protection for runs of packets under the same keys, opens, asks the replay window -> `on_packet` ->
`on_batch_end` -> one wake-up of asyncio for all events of the batch.
"""

from libc.stdlib cimport calloc

from shadowmesh._ext.aead cimport (
    MASK_SIZE,
    HEADER_SIZE,
    OPEN_AUTHENTICATION,
    OPEN_RESERVED,
    OVERHEAD,
    SHORTEST_PACKET,
    KeyContext,
    Opened,
    apply_mask,
    header_masks,
    open_packet,
)
from shadowmesh._ext.atomic cimport add_relaxed, load_relaxed
from shadowmesh._ext.bytes cimport load32, load64
from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop
from shadowmesh._ext.endpoint cimport endpoint_normalise
from shadowmesh._ext.header cimport header_id_at
from shadowmesh._ext.records cimport FAILED_OPENS_SHIFT, RECORD_CONTROL, Session, bucket_take
from shadowmesh._ext.replay cimport Verdict, Window, window_accept
from shadowmesh._ext.ring cimport (
    EVENT_CONTROL,
    EVENT_LONG_HEADER,
    ring_free,
    ring_init,
    ring_push,
)
from shadowmesh._ext.system cimport MSG_TRUNC, monotonic_ns, write
from shadowmesh._ext.tables cimport grace_step, table_find
from shadowmesh._ext.udp cimport (
    BATCH,
    BUFFER_SIZE,
    drain_errors,
    receive_fetch,
    receive_free,
    receive_new,
)


cdef enum:
    LONG_RING_SIZE = 0x80000      # 512 KiB: some 400 Initials
    CONTROL_RING_SIZE = 0x100000  # 1 MiB
    SHORTEST_LONG_HEADER = 7      # RFC 8999 section 5.1: first byte, version, two length bytes


cdef bint receiver_init(Receiver *receiver) noexcept nogil:
    """Allocate what the thread needs; the caller has zeroed the structure and fills the rest."""
    receiver.batch = receive_new()
    return (
        receiver.batch != NULL
        and ring_init(&receiver.long_headers, LONG_RING_SIZE)
        and ring_init(&receiver.control, CONTROL_RING_SIZE)
    )


cdef void receiver_free(Receiver *receiver) noexcept nogil:
    receive_free(receiver.batch)
    receiver.batch = NULL
    ring_free(&receiver.long_headers)
    ring_free(&receiver.control)


# ---- the loop --------------------------------------------------------------------------------


cdef void receiver_serve(Receiver *receiver) noexcept nogil:
    """Handle one batch of what is there."""
    cdef int fetched
    grace_step(receiver.grace, receiver.reader)
    fetched = receive_fetch(receiver.batch, receiver.udp.fd)
    if fetched > 0:
        receiver.udp.trouble = 0
        _handle_batch(receiver, <size_t>fetched)
    elif receiver.udp.trouble > 0 and drain_errors(receiver.udp.fd):
        receiver.udp.trouble = 0
    grace_step(receiver.grace, receiver.reader)


cdef void _handle_batch(Receiver *receiver, size_t fetched) noexcept nogil:
    cdef size_t i
    cdef Arrival arrival
    receiver.now = monotonic_ns()
    receiver.pending_count = 0
    for i in range(fetched):
        _handle_message(receiver, i, &arrival)
    receiver_finish(receiver)


cdef void receiver_finish(Receiver *receiver) noexcept nogil:
    """All datagrams of a batch are sorted: the rest of its stages."""
    cdef uint64_t one = 1
    _open_pending(receiver)
    receiver.on_batch_end(receiver)
    if receiver.pushed:
        receiver.pushed = False
        write(receiver.event_fd, &one, sizeof(one))


cdef void _handle_message(Receiver *receiver, size_t i, Arrival *arrival) noexcept nogil:
    """Every segment of a GRO'd message is a datagram by itself."""
    cdef size_t size = receiver.batch.messages[i].msg_len
    cdef size_t step = receiver.batch.steps[i]
    cdef size_t start = 0
    count(&receiver.counters, Statistic.UDP_RX_BYTES, size)
    # One limit with and without UDP_GRO, so that no stranger's datagram takes more of a ring.
    if receiver.batch.messages[i].msg_hdr.msg_flags & MSG_TRUNC or step > BUFFER_SIZE:
        count(&receiver.counters, Statistic.UDP_RX_DATAGRAMS, 1)
        drop(&receiver.counters, DropReason.TRUNCATED)
        return
    if step < size:
        count(&receiver.counters, Statistic.UDP_GRO_RECEIVES, 1)
    endpoint_normalise(&receiver.batch.sources[i])
    arrival.source = &receiver.batch.sources[i]
    arrival.relayed = False
    arrival.via = 0
    while True:
        count(&receiver.counters, Statistic.UDP_RX_DATAGRAMS, 1)
        receiver.on_datagram(receiver, <uint8_t *>receiver.batch.vectors[i].iov_base + start,
                             step if step < size - start else size - start, arrival)
        start += step
        if start >= size:
            return


# ---- sorting ---------------------------------------------------------------------------------


cdef Record *receiver_lookup(Receiver *receiver, uint8_t *data, size_t size) noexcept nogil:
    """What the id of a short-header datagram names; NULL after counting why not."""
    cdef Record *record
    cdef size_t at = header_id_at(data, size)
    if at == 0:
        drop(&receiver.counters, DropReason.SHORT)
        return NULL
    record = <Record *>table_find(receiver.ids, load64(data + at))
    if record == NULL:
        drop(&receiver.counters, DropReason.UNKNOWN_ID)
    return record


cdef Record *receiver_connection(Receiver *receiver, const uint8_t *data, size_t size) noexcept nogil:
    """The control connection that a long header names by an id of ours; NULL: whoever knocks knows none."""
    cdef Record *record = NULL
    cdef size_t at = header_id_at(data, size)
    if at != 0:
        record = <Record *>table_find(receiver.ids, load64(data + at))
    return record if record != NULL and record.kind == RECORD_CONTROL else NULL


cdef void receiver_pend(Receiver *receiver, Record *record, uint8_t *packet, size_t size,
                        const Arrival *arrival) noexcept nogil:
    """Note a lane packet, and open all that are noted when there is no room for more."""
    cdef Pending *pending
    if size < SHORTEST_PACKET:
        drop(&receiver.counters, DropReason.SHORT)
        return
    if receiver.pending_count == BATCH:
        _open_pending(receiver)
    pending = &receiver.pending[receiver.pending_count]
    pending.record = record
    pending.packet = packet
    pending.size = size
    pending.arrival = arrival[0]
    receiver.pending_count += 1


# ---- opening ---------------------------------------------------------------------------------


cdef void _open_pending(Receiver *receiver) noexcept nogil:
    """Header protection by runs of packets under the same keys, then each packet by itself."""
    cdef uint8_t *packets[BATCH]
    cdef uint8_t masks[BATCH * 16]
    cdef KeyContext *keys
    cdef size_t start = 0, run, i
    while start < receiver.pending_count:
        keys = receiver.pending[start].record.session.keys
        run = 0
        while start + run < receiver.pending_count:
            if receiver.pending[start + run].record.session.keys != keys:
                break
            packets[run] = receiver.pending[start + run].packet
            run += 1
        if header_masks(keys, packets, run, masks):
            for i in range(run):
                apply_mask(packets[i], masks + i * MASK_SIZE)
                _open_one(receiver, &receiver.pending[start + i])
        start += run
    receiver.pending_count = 0


cdef void _open_one(Receiver *receiver, Pending *pending) noexcept nogil:
    cdef Session *session = pending.record.session
    cdef Opened opened = OPEN_AUTHENTICATION
    if (load_relaxed(&session.failed_opens) >> FAILED_OPENS_SHIFT) == 0:
        opened = open_packet(session.keys, pending.packet, pending.size, pending.record.lane)
    if opened == OPEN_AUTHENTICATION:
        add_relaxed(&session.failed_opens, 1)
        drop(&receiver.counters, DropReason.AUTHENTICATION)
    elif opened == OPEN_RESERVED:
        drop(&receiver.counters, DropReason.RESERVED)
    elif _is_fresh(receiver, pending.record, load32(pending.packet + 9)):
        receiver.on_packet(receiver, pending, pending.packet + HEADER_SIZE, pending.size - OVERHEAD)


cdef bint _is_fresh(Receiver *receiver, Record *record, uint32_t number) noexcept nogil:
    """Replay window of the lane, allocated by its first authentic packet."""
    cdef Verdict verdict
    if record.window == NULL:
        record.window = <Window *>calloc(1, sizeof(Window))
        if record.window == NULL:
            drop(&receiver.counters, DropReason.NO_MEMORY)
            return False
    verdict = window_accept(record.window, number)
    if verdict == Verdict.DUPLICATE:
        drop(&receiver.counters, DropReason.DUPLICATE)
    elif verdict == Verdict.TOO_OLD:
        drop(&receiver.counters, DropReason.TOO_OLD)
    return verdict == Verdict.FRESH


# ---- reporting -------------------------------------------------------------------------------


cdef void deliver_long_header(Receiver *receiver, const uint8_t *data, size_t size,
                              const Arrival *arrival) noexcept nogil:
    """To the ring of long headers: the only thing that a flood from strangers can fill."""
    if size < SHORTEST_LONG_HEADER:
        drop(&receiver.counters, DropReason.SHORT)
    elif ring_push(&receiver.long_headers, EVENT_LONG_HEADER, 0, arrival, data, size):
        receiver.pushed = True
        count(&receiver.counters, Statistic.EVENTS, 1)
    else:
        drop(&receiver.counters, DropReason.LONG_RING_FULL)


cdef void deliver_control(Receiver *receiver, Record *record, const uint8_t *data, size_t size,
                          const Arrival *arrival) noexcept nogil:
    """Datagram of a control connection, through the token bucket of its id."""
    if not bucket_take(&record.bucket, receiver.now):
        drop(&receiver.counters, DropReason.CONTROL_RATE)
    else:
        deliver(receiver, EVENT_CONTROL, 0, data, size, arrival)


cdef bint deliver(Receiver *receiver, EventKind kind, uint64_t handle, const uint8_t *data, size_t size,
                  const Arrival *arrival) noexcept nogil:
    """To the ring of live sessions; False (counted) if it is full."""
    if not ring_push(&receiver.control, kind, handle, arrival, data, size):
        drop(&receiver.counters, DropReason.CONTROL_RING_FULL)
        return False
    receiver.pushed = True
    count(&receiver.counters, Statistic.EVENTS, 1)
    return True

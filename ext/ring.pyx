"""Events to asyncio: a byte ring per class of event, and the eventfd that says "look".

Does NOT rate-limit: token buckets stand before it.  A full ring refuses, and the producer counts that.

Two rings on purpose: long headers come from anybody, so they may only fill their own ring; control and
lane messages of live sessions are in the other and are taken out first.

One event in the ring: `Entry` (72 bytes) | data | padding to 8.  An entry never wraps; the rest of the
buffer before it is skipped, marked by SKIP.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from shadowmesh._ext.atomic cimport load_acquire, load_relaxed, store_release
from shadowmesh._ext.bytes cimport store64
from shadowmesh._ext.endpoint cimport endpoint_bytes
from shadowmesh._ext.system cimport read, write

from typing import NamedTuple


cdef enum:
    LONG_HEADERS_PER_POLL = 8    # aioquic needs up to 0.6 ms for an Initial, and what is under way goes first

cdef uint32_t SKIP = 0xFFFFFFFF


class Event(NamedTuple):
    kind: int
    handle: int
    via: bytes
    source: bytes
    data: bytes


cdef bint ring_init(Ring *ring, size_t size) noexcept nogil:
    """`size`: a power of 2, far more than the largest event (16 KiB)."""
    ring.buffer = <uint8_t *>malloc(size)
    ring.size = size
    ring.head = 0
    ring.tail = 0
    return ring.buffer != NULL


cdef void ring_free(Ring *ring) noexcept nogil:
    free(ring.buffer)
    ring.buffer = NULL


cdef Entry *_reserve(Ring *ring, size_t total) noexcept nogil:
    """Room for an entry of `total` bytes at ring.head, skipping the end of the buffer if need be."""
    cdef uint64_t used = ring.head - load_acquire(&ring.tail)
    cdef uint64_t position = ring.head & (ring.size - 1)
    cdef uint64_t rest = ring.size - position
    cdef Entry *entry = <Entry *>(ring.buffer + position)
    if rest >= total:
        return entry if used + total <= ring.size else NULL
    if used + rest + total > ring.size:
        return NULL
    entry.total = <uint32_t>rest
    entry.size = SKIP
    store_release(&ring.head, ring.head + rest)
    return <Entry *>ring.buffer


cdef bint ring_push(Ring *ring, EventKind kind, uint64_t handle, const Arrival *arrival,
                    const uint8_t *data, size_t size) noexcept nogil:
    """Producer: copy one event in.  False if there is no room; nothing is kept of it then."""
    cdef size_t total = (sizeof(Entry) + size + 7) & ~<size_t>7
    cdef Entry *entry = _reserve(ring, total)
    if entry == NULL:
        return False
    entry.total = <uint32_t>total
    entry.size = <uint32_t>size
    entry.kind = <uint32_t>kind
    entry.handle = handle
    entry.relayed = arrival.relayed
    entry.via = arrival.via
    entry.source = arrival.source[0]
    memcpy(<uint8_t *>entry + sizeof(Entry), data, size)
    store_release(&ring.head, ring.head + total)
    return True


cdef bint ring_empty(Ring *ring) noexcept nogil:
    return load_acquire(&ring.head) == load_relaxed(&ring.tail)


cdef Entry *ring_at(Ring *ring, uint64_t *position, uint64_t end) noexcept nogil:
    """Consumer: the event at `position`, which steps on; NULL at `end`.

    Its data, behind the entry, is the consumer's to write to until it moves `ring.tail` past it.
    """
    cdef Entry *entry
    while position[0] != end:
        entry = <Entry *>(ring.buffer + (position[0] & (ring.size - 1)))
        position[0] += entry.total
        if entry.size != SKIP:
            return entry
    return NULL


cdef object ring_pop(Ring *ring):
    """Consumer: the oldest event, or None."""
    cdef Entry *entry
    cdef uint8_t via[8]
    while not ring_empty(ring):
        entry = <Entry *>(ring.buffer + (ring.tail & (ring.size - 1)))
        if entry.size != SKIP:
            store64(via, entry.via)
            event = Event(
                <int>entry.kind,
                entry.handle,
                (<char *>via)[:8] if entry.relayed else b"",
                endpoint_bytes(&entry.source),
                (<char *>entry + sizeof(Entry))[:entry.size],
            )
            store_release(&ring.tail, ring.tail + entry.total)
            return event
        store_release(&ring.tail, ring.tail + entry.total)
    return None


cdef void drain_into(Ring *ring, list events):
    """Append all events of a ring that has no others to starve."""
    while (event := ring_pop(ring)) is not None:
        events.append(event)


cdef bint drain_some(Ring *ring, list events):
    """Append up to LONG_HEADERS_PER_POLL events; whether some stay."""
    cdef size_t taken = 0
    while taken < LONG_HEADERS_PER_POLL and (event := ring_pop(ring)) is not None:
        events.append(event)
        taken += 1
    return not ring_empty(ring)


cdef void drain_begin(int event_fd):
    """Clear the eventfd, before any ring is read: what is pushed from now on sets it.  -1: there is none."""
    cdef uint64_t value = 0
    if event_fd >= 0:
        read(event_fd, &value, sizeof(value))


cdef void drain_end(int event_fd):
    """Some events stay: have the next poll come at once."""
    cdef uint64_t value = 1
    if event_fd >= 0:
        write(event_fd, &value, sizeof(value))


cdef list drain(Ring *control, Ring *long_headers, int event_fd):
    """All control events, then up to LONG_HEADERS_PER_POLL long headers."""
    cdef list events = []
    drain_begin(event_fd)
    drain_into(control, events)
    if drain_some(long_headers, events):
        drain_end(event_fd)
    return events

"""Bounded single-producer single-consumer ring of events from a worker thread to asyncio."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shadowmesh._ext.endpoint cimport Endpoint


cpdef enum EventKind:
    EVENT_LONG_HEADER = 1
    EVENT_CONTROL = 2
    EVENT_LANE_MESSAGE = 3
    EVENT_ENDPOINT = 4
    EVENT_SOURCE = 5
    EVENT_WANTED = 6
    EVENT_PROBE = 7

cdef struct Arrival:        # how a datagram came in
    const Endpoint *source
    bint relayed            # through the channel `via`
    uint64_t via

cdef struct Entry:          # of one event in the ring
    uint32_t total          # this header, the data and padding
    uint32_t size           # bytes of data; SKIP: nothing up to the end of the buffer
    uint32_t kind
    uint32_t relayed
    uint64_t via
    uint64_t handle
    Endpoint source

cdef struct Ring:
    uint8_t *buffer
    uint64_t size           # a power of 2
    uint64_t head           # written by the producer
    uint64_t tail           # written by the consumer

cdef bint ring_init(Ring *ring, size_t size) noexcept nogil
cdef void ring_free(Ring *ring) noexcept nogil
cdef bint ring_push(Ring *ring, EventKind kind, uint64_t handle, const Arrival *arrival,
                    const uint8_t *data, size_t size) noexcept nogil
cdef bint ring_empty(Ring *ring) noexcept nogil
cdef Entry *ring_at(Ring *ring, uint64_t *position, uint64_t end) noexcept nogil
cdef object ring_pop(Ring *ring)
cdef void drain_into(Ring *ring, list events)
cdef bint drain_some(Ring *ring, list events)
cdef void drain_begin(int event_fd)
cdef void drain_end(int event_fd)
cdef list drain(Ring *control, Ring *long_headers, int event_fd)

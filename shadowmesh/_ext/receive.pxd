"""The receiving half that client and relay share: batches, events, opening of lane packets."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.records cimport Record
from shadowmesh._ext.ring cimport Arrival, EventKind, Ring
from shadowmesh._ext.tables cimport Grace, Table
from shadowmesh._ext.udp cimport ReceiveBatch
from shadowmesh._ext.workers cimport Watch


cdef struct Pending:          # a lane packet of this batch, waiting for its header mask
    Record *record
    uint8_t *packet
    size_t size
    Arrival arrival

cdef struct Receiver

ctypedef void (*datagram_function)(Receiver *receiver, uint8_t *data, size_t size,
                                   const Arrival *arrival) noexcept nogil
ctypedef void (*packet_function)(Receiver *receiver, const Pending *pending, uint8_t *payload,
                                 size_t size) noexcept nogil
ctypedef void (*batch_function)(Receiver *receiver) noexcept nogil

cdef struct Receiver:         # one thread's
    void *owner               # Inbound or Forward
    datagram_function on_datagram
    packet_function on_packet  # an authentic, fresh packet of a lane
    batch_function on_batch_end
    Watch udp
    int event_fd
    Grace *grace
    size_t reader
    Table *ids
    ReceiveBatch *batch
    Ring long_headers
    Ring control
    Counters counters
    uint64_t now              # nanoseconds, once per batch
    bint pushed
    Pending pending[64]
    size_t pending_count

cdef bint receiver_init(Receiver *receiver) noexcept nogil
cdef void receiver_free(Receiver *receiver) noexcept nogil
cdef void receiver_serve(Receiver *receiver) noexcept nogil
cdef void receiver_finish(Receiver *receiver) noexcept nogil
cdef Record *receiver_lookup(Receiver *receiver, uint8_t *data, size_t size) noexcept nogil
cdef Record *receiver_connection(Receiver *receiver, const uint8_t *data, size_t size) noexcept nogil
cdef void receiver_pend(Receiver *receiver, Record *record, uint8_t *packet, size_t size,
                        const Arrival *arrival) noexcept nogil
cdef void deliver_long_header(Receiver *receiver, const uint8_t *data, size_t size,
                              const Arrival *arrival) noexcept nogil
cdef void deliver_control(Receiver *receiver, Record *record, const uint8_t *data, size_t size,
                          const Arrival *arrival) noexcept nogil
cdef bint deliver(Receiver *receiver, EventKind kind, uint64_t handle, const uint8_t *data, size_t size,
                  const Arrival *arrival) noexcept nogil

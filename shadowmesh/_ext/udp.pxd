"""Batches of datagrams: buffers allocated once, one system call per batch."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from shadowmesh._ext.aead cimport KeyContext
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.system cimport iovec, mmsghdr


cdef enum:
    BATCH = 64                # blocks of one header protection call; packets opened together
    SEND_LIMIT = 256          # packets of a send batch
    BUFFER_SIZE = 16384       # jumbo frames (9216) and all that surrounds them
    GRO_BUFFER_SIZE = 0x10000
    GSO_SLOTS = 256           # destinations that are told apart, by hash, when GSO is refused
    GRO_MESSAGES = 8          # per call: one costs a tenth of the throughput, more than 8 bring nothing

cdef struct Traffic:       # written by one thread
    uint64_t packets
    uint64_t bytes

cdef struct ReceiveBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    Endpoint sources[BATCH]
    uint64_t controls[BATCH][4]
    size_t steps[BATCH]    # size of all segments of a message but the last
    unsigned int limit     # messages per call
    uint8_t *buffers

cdef struct Outgoing:
    Endpoint target
    uint8_t *data          # in the batch's own buffer or in a receive buffer
    size_t size
    KeyContext *keys       # NULL: nothing to protect
    uint8_t *packet        # the frame packet inside `data`, header not yet protected
    Traffic *traffic       # credited when the kernel took it; NULL: none
    size_t credit          # bytes to credit

cdef struct Message:        # of one sendmmsg entry
    Endpoint *target
    size_t start            # of its packets in `order` and `vectors`
    size_t packets
    size_t bytes
    size_t step             # size of all packets but the last
    bint open               # another packet may follow

cdef struct SendBatch:
    mmsghdr headers[SEND_LIMIT]
    iovec vectors[SEND_LIMIT]
    uint64_t controls[SEND_LIMIT][4]
    Outgoing outgoing[SEND_LIMIT]
    size_t message_of[SEND_LIMIT]
    size_t order[SEND_LIMIT]    # packets, message by message
    Message messages[SEND_LIMIT]
    size_t message_count
    size_t count                # packets
    size_t used                 # bytes of `buffers`
    size_t room
    bint gso                    # put several packets into one message
    bint gso_taken              # the kernel took the last such message; for display
    uint16_t singly[GSO_SLOTS]  # packets that go one by one until the next try, after a refusal
    uint8_t *buffers

cdef ReceiveBatch *receive_new() noexcept nogil
cdef void receive_free(ReceiveBatch *batch) noexcept nogil
cdef void receive_arrange(ReceiveBatch *batch, bint gro) noexcept nogil
cdef int receive_fetch(ReceiveBatch *batch, int fd) noexcept nogil
cdef bint drain_errors(int fd) noexcept nogil

cdef SendBatch *send_new(size_t room) noexcept nogil
cdef void send_free(SendBatch *batch) noexcept nogil
cdef bint send_uses_gso(const SendBatch *batch) noexcept nogil
cdef Outgoing *send_next(SendBatch *batch, size_t size) noexcept nogil
cdef void send_commit(SendBatch *batch, Outgoing *outgoing) noexcept nogil
cdef void send_flush(SendBatch *batch, int fd, Counters *counters) noexcept nogil

"""Batches of datagrams: buffers allocated once, one system call per batch."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.aead cimport KeyContext
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.system cimport iovec, mmsghdr


cdef enum:
    BATCH = 64             # messages per call; also the blocks of one header protection call
    BUFFER_SIZE = 16384    # jumbo frames (9216) and all that surrounds them, twice

cdef struct Traffic:       # written by one thread
    uint64_t packets
    uint64_t bytes

cdef struct ReceiveBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    Endpoint sources[BATCH]
    uint8_t *buffers

cdef struct Outgoing:
    Endpoint target
    uint8_t *data          # in the batch's own buffer or in a receive buffer
    size_t size
    KeyContext *keys       # NULL: nothing to protect
    uint8_t *packet        # the frame packet inside `data`, header not yet protected
    Traffic *traffic       # credited when the kernel took it
    size_t credit          # bytes to credit

cdef struct SendBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    Outgoing outgoing[BATCH]
    size_t count
    size_t buffer_size
    uint8_t *buffers

cdef ReceiveBatch *receive_new() noexcept nogil
cdef void receive_free(ReceiveBatch *batch) noexcept nogil
cdef int receive_fetch(ReceiveBatch *batch, int fd) noexcept nogil
cdef bint drain_errors(int fd) noexcept nogil

cdef SendBatch *send_new(size_t buffer_size) noexcept nogil
cdef void send_free(SendBatch *batch) noexcept nogil
cdef Outgoing *send_next(SendBatch *batch) noexcept nogil
cdef void send_flush(SendBatch *batch, int fd, Counters *counters) noexcept nogil

"""Datagrams of a UDP socket as one message for a stream, and back: relay legs over TCP.

Does NOT look into datagrams and knows nothing of the stream: io/tunnel.py moves the messages.

    bundle   one or more of:  size (2, big endian, 21..65507) | datagram

One system call collects up to four messages that wait in a socket, with UDP GRO of 64 KiB each; one, with
UDP GSO, sends a whole run of datagrams of equal size.  A bundle is full at 64 KiB, and little larger than
what four messages add to that, so that a relay can bound what a stranger's half message costs.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from shadowmesh._ext.bytes cimport load16, store16
from shadowmesh._ext.drops cimport Counters, DropReason, drop, drop_many, drops_of
from shadowmesh._ext.endpoint cimport Endpoint, endpoint_from, socket_family
from shadowmesh._ext.features cimport Features, features_choose
from shadowmesh._ext.system cimport MSG_TRUNC
from shadowmesh._ext.udp cimport (
    BUFFER_SIZE,
    GRO_BUFFER_SIZE,
    Outgoing,
    ReceiveBatch,
    SendBatch,
    receive_arrange,
    receive_fetch,
    receive_free,
    receive_new,
    send_commit,
    send_flush,
    send_free,
    send_new,
    send_next,
)

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize

__all__ = ["MAX_BUNDLE", "Bundler"]

cdef enum:
    SIZE_FIELD = 2
    SMALLEST = 21        # RFC 9000, 10.3: short header and tag; smaller ones only cost time
    LARGEST = 65507      # UDP payload, IPv4
    FULL = 0x10000       # bytes of a bundle to which no more is added
    ROOM = 0x40000       # bytes of datagrams that one call fetches
    SEGMENTS = 4 * 512   # datagrams in them: the kernel puts 64 to 128 into each of four messages
    LARGEST_BUNDLE = FULL + ROOM + SIZE_FIELD * SEGMENTS

MAX_BUNDLE = LARGEST_BUNDLE


cdef inline bint _whole(ReceiveBatch *batch, size_t i) noexcept nogil:
    return batch.messages[i].msg_len > 0 and not batch.messages[i].msg_hdr.msg_flags & MSG_TRUNC


cdef size_t _bundle_size(ReceiveBatch *batch, size_t messages) noexcept nogil:
    cdef size_t i, size = 0
    for i in range(messages):
        if _whole(batch, i):
            size += batch.messages[i].msg_len
            size += SIZE_FIELD * ((batch.messages[i].msg_len + batch.steps[i] - 1) // batch.steps[i])
    return size


cdef size_t _bundle_write(ReceiveBatch *batch, size_t messages, uint8_t *out,
                          Counters *counters) noexcept nogil:
    """Every segment of a GRO'd message is a datagram by itself; the size of all that the other end takes."""
    cdef size_t i, start, size, written = 0
    cdef uint8_t *data
    for i in range(messages):
        if not _whole(batch, i):
            drop(counters, DropReason.TRUNCATED)
            continue
        data = <uint8_t *>batch.vectors[i].iov_base
        start = 0
        while start < batch.messages[i].msg_len:
            size = min(batch.steps[i], batch.messages[i].msg_len - start)
            if size < SMALLEST:
                drop(counters, DropReason.SHORT)
            else:
                store16(out + written, <uint16_t>size)
                memcpy(out + written + SIZE_FIELD, data + start, size)
                written += SIZE_FIELD + size
            start += size
    return written


cdef bint _bundle_valid(const uint8_t *data, size_t left) noexcept nogil:
    cdef size_t size
    if left == 0:
        return False
    while left > 0:
        if left < SIZE_FIELD:
            return False
        size = load16(data)
        if size < SMALLEST or size > LARGEST or size > left - SIZE_FIELD:
            return False
        data += SIZE_FIELD + size
        left -= SIZE_FIELD + size
    return True


@cython.final
cdef class Bundler:
    cdef ReceiveBatch *received
    cdef SendBatch *sending
    cdef Counters counters
    cdef uint8_t *out

    def __cinit__(self):
        self.received = receive_new()
        self.sending = send_new(1)  # the datagrams stay in the message that they came in
        self.out = <uint8_t *>malloc(LARGEST_BUNDLE)
        if self.received == NULL or self.sending == NULL or self.out == NULL:
            raise MemoryError("no memory for bundles")
        self._arrange(False)

    def __dealloc__(self):
        receive_free(self.received)
        send_free(self.sending)
        free(self.out)

    def prepare(self, int fd):
        cdef Features chosen
        socket_family(fd)
        features_choose(None, fd, -1, &chosen)
        self.sending.gso = chosen.udp_gso
        self._arrange(chosen.udp_gro)

    cdef void _arrange(self, bint gro) noexcept:
        receive_arrange(self.received, gro)
        self.received.limit = ROOM // (GRO_BUFFER_SIZE if gro else BUFFER_SIZE)

    def collect(self, int fd):
        cdef size_t used
        with nogil:
            used = self._fill(fd)
        return PyBytes_FromStringAndSize(<char *>self.out, <Py_ssize_t>used)

    cdef size_t _fill(self, int fd) noexcept nogil:
        cdef size_t used = 0, size
        cdef size_t fetched = self.received.limit
        while used < FULL and fetched == self.received.limit:
            fetched = <size_t>receive_fetch(self.received, fd)
            size = _bundle_size(self.received, fetched)
            if size > LARGEST_BUNDLE - used:
                drop_many(&self.counters, DropReason.TRUNCATED, fetched)
                break
            used += _bundle_write(self.received, fetched, self.out + used, &self.counters)
        return used

    def scatter(self, int fd, sockaddr, const uint8_t[::1] bundle not None):
        cdef Endpoint target
        cdef size_t left = <size_t>bundle.shape[0]
        endpoint_from(sockaddr, socket_family(fd), &target)
        if left == 0 or not _bundle_valid(&bundle[0], left):
            raise ValueError("this is no bundle of datagrams")
        with nogil:
            self._send(fd, &target, &bundle[0], left)

    cdef void _send(self, int fd, const Endpoint *target, const uint8_t *data, size_t left) noexcept nogil:
        cdef Outgoing *outgoing
        cdef size_t size
        while left > 0:
            outgoing = send_next(self.sending, 0)
            if outgoing == NULL:
                send_flush(self.sending, fd, &self.counters)
                outgoing = send_next(self.sending, 0)
            size = load16(data)
            outgoing.data = <uint8_t *>data + SIZE_FIELD
            outgoing.size = size
            outgoing.traffic = NULL
            outgoing.target = target[0]
            send_commit(self.sending, outgoing)
            data += SIZE_FIELD + size
            left -= SIZE_FIELD + size
        send_flush(self.sending, fd, &self.counters)

    def drops(self):
        return drops_of(&self.counters, NULL)

"""recvmmsg and sendmmsg over buffers that are allocated at start, never per packet.

Does NOT look into datagrams, except that it protects the headers of frame packets, because that is
cheapest for a whole batch (measured: 64 AES blocks in one call cost as much as 5 single ones).

Contract of a batch: one thread owns it.  `receive_fetch` overwrites the datagrams of the fetch before.
Memory that an `Outgoing` points to stays valid until `send_flush`.
"""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENOBUFS, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from shadowmesh._ext.aead cimport MASK_SIZE, apply_mask, header_masks
from shadowmesh._ext.atomic cimport add_relaxed
from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop
from shadowmesh._ext.endpoint cimport SOCKADDR_ROOM
from shadowmesh._ext.system cimport (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_NOSIGNAL,
    msghdr,
    recvmmsg,
    recvmsg,
    sendmmsg,
    socklen_t,
)


# ---- receive ---------------------------------------------------------------------------------


cdef ReceiveBatch *receive_new() noexcept nogil:
    cdef ReceiveBatch *batch = <ReceiveBatch *>calloc(1, sizeof(ReceiveBatch))
    cdef size_t i
    if batch == NULL:
        return NULL
    batch.buffers = <uint8_t *>calloc(BATCH, BUFFER_SIZE)
    if batch.buffers == NULL:
        free(batch)
        return NULL
    for i in range(<size_t>BATCH):
        batch.vectors[i].iov_base = batch.buffers + i * BUFFER_SIZE
        batch.vectors[i].iov_len = BUFFER_SIZE
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = batch.sources[i].words
        batch.messages[i].msg_hdr.msg_namelen = SOCKADDR_ROOM
    return batch


cdef void receive_free(ReceiveBatch *batch) noexcept nogil:
    if batch != NULL:
        free(batch.buffers)
        free(batch)


cdef int receive_fetch(ReceiveBatch *batch, int fd) noexcept nogil:
    """Fetch up to BATCH datagrams that are there already; how many, 0 for none or an error.

    An error (an ICMP message about something sent before) is consumed by this call and says nothing
    about what will be received, so it isn't told apart.
    """
    cdef int fetched = recvmmsg(fd, batch.messages, BATCH, MSG_DONTWAIT, NULL)
    cdef int i
    if fetched <= 0:
        return 0
    for i in range(fetched):
        batch.sources[i].size = batch.messages[i].msg_hdr.msg_namelen
        batch.messages[i].msg_hdr.msg_namelen = SOCKADDR_ROOM
    return fetched


cdef bint drain_errors(int fd) noexcept nogil:
    """Take errors out of the error queue (only sockets with IP_RECVERR have one): they keep poll awake.

    At most BATCH of them: whoever makes them faster must not keep the thread here.  False: there was none.
    """
    cdef msghdr message
    cdef int i
    memset(&message, 0, sizeof(message))
    for i in range(BATCH):
        if recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            return i > 0
    return True


# ---- send ------------------------------------------------------------------------------------


cdef SendBatch *send_new(size_t buffer_size) noexcept nogil:
    """`buffer_size`: room of the batch's own buffer per message."""
    cdef SendBatch *batch = <SendBatch *>calloc(1, sizeof(SendBatch))
    cdef size_t i
    if batch == NULL:
        return NULL
    batch.buffer_size = buffer_size
    batch.buffers = <uint8_t *>calloc(BATCH, buffer_size)
    if batch.buffers == NULL:
        free(batch)
        return NULL
    for i in range(<size_t>BATCH):
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = batch.outgoing[i].target.words
    return batch


cdef void send_free(SendBatch *batch) noexcept nogil:
    if batch != NULL:
        free(batch.buffers)
        free(batch)


cdef Outgoing *send_next(SendBatch *batch) noexcept nogil:
    """The next free place, `data` at its own buffer; NULL if the batch is full (flush it first).

    It is sent once the caller has filled it and added 1 to `count`.
    """
    cdef Outgoing *outgoing
    if batch.count == BATCH:
        return NULL
    outgoing = &batch.outgoing[batch.count]
    outgoing.data = batch.buffers + batch.count * batch.buffer_size
    outgoing.keys = NULL
    return outgoing


cdef void _protect(SendBatch *batch) noexcept nogil:
    """Header protection, one AES call for each run of packets under the same keys."""
    cdef uint8_t *packets[BATCH]
    cdef uint8_t masks[BATCH * 16]
    cdef KeyContext *keys
    cdef size_t start = 0, run, i
    while start < batch.count:
        keys = batch.outgoing[start].keys
        run = 0
        while start + run < batch.count and batch.outgoing[start + run].keys == keys:
            packets[run] = batch.outgoing[start + run].packet
            run += 1
        if keys != NULL and header_masks(keys, packets, run, masks):
            for i in range(run):
                apply_mask(packets[i], masks + i * MASK_SIZE)
                # A channel header repeats the low bits of what it carries, so that it looks no different.
                batch.outgoing[start + i].data[0] = 0x40 | (packets[i][0] & 0x3F)
        start += run


cdef DropReason _reason(int error) noexcept nogil:
    if error == EMSGSIZE:
        return DropReason.TOO_BIG
    if error == EAGAIN or error == ENOBUFS:
        return DropReason.SEND_BUFFER_FULL
    return DropReason.SEND_FAILED


cdef size_t _send_some(SendBatch *batch, size_t first, int fd, Counters *counters) noexcept nogil:
    """One sendmmsg from message `first` on; how many messages are dealt with, sent or dropped."""
    cdef int sent = sendmmsg(fd, &batch.messages[first], <unsigned int>(batch.count - first),
                             MSG_DONTWAIT | MSG_NOSIGNAL)
    cdef int error
    cdef size_t i
    cdef Outgoing *outgoing
    if sent <= 0:
        error = errno
        if error == EINTR:
            return 0
        drop(counters, _reason(error))
        return 1
    for i in range(<size_t>sent):
        outgoing = &batch.outgoing[first + i]
        add_relaxed(&outgoing.traffic.packets, 1)
        add_relaxed(&outgoing.traffic.bytes, outgoing.credit)
        count(counters, Statistic.UDP_TX_BYTES, outgoing.size)
    count(counters, Statistic.UDP_TX_DATAGRAMS, <uint64_t>sent)
    return <size_t>sent


cdef void send_flush(SendBatch *batch, int fd, Counters *counters) noexcept nogil:
    """Protect and send all messages; the batch is empty afterwards.

    sendmmsg stops at a message that fails; that one is dropped and the rest is tried again, so that
    one peer without a route costs the others nothing.
    """
    cdef size_t done = 0, i
    cdef Outgoing *outgoing
    _protect(batch)
    for i in range(batch.count):
        outgoing = &batch.outgoing[i]
        batch.vectors[i].iov_base = outgoing.data
        batch.vectors[i].iov_len = outgoing.size
        batch.messages[i].msg_hdr.msg_namelen = <socklen_t>outgoing.target.size
    while done < batch.count:
        done += _send_some(batch, done, fd, counters)
    batch.count = 0

"""recvmmsg and sendmmsg, with UDP GRO and GSO, over buffers that are allocated at start, never per packet.

Does NOT look into datagrams, except that it protects the headers of frame packets, because that is
cheapest for a whole batch (measured: 64 AES blocks in one call cost as much as 5 single ones).

Contract of a batch: one thread owns it.  `receive_fetch` overwrites the datagrams of the fetch before.
Memory that an `Outgoing` points to stays valid until `send_flush`.
"""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from shadowmesh._ext.aead cimport MASK_SIZE, apply_mask, header_masks
from shadowmesh._ext.atomic cimport add_relaxed, load_flag, store_flag
from shadowmesh._ext.drops cimport DropReason, Statistic, count, drop, drop_many
from shadowmesh._ext.endpoint cimport (
    SOCKADDR_ROOM,
    Endpoint,
    endpoint_equal,
    endpoint_key,
)
from shadowmesh._ext.system cimport (
    CMSG_DATA,
    CMSG_FIRSTHDR,
    CMSG_LEN,
    CMSG_NXTHDR,
    CMSG_SPACE,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_NOSIGNAL,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    cmsghdr,
    msghdr,
    recvmmsg,
    recvmsg,
    sendmmsg,
    sendmsg,
    socklen_t,
)


cdef enum:
    GSO_SEGMENTS = 64      # UDP_MAX_SEGMENTS of older kernels
    GSO_BYTES = 65507      # of one message, IPv4
    LOOK_BACK = 8          # messages that are searched for one to the same endpoint
    GSO_RETRY = 4096       # packets to a destination after a refusal: a try costs less than one of them


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
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = batch.sources[i].words
        batch.messages[i].msg_hdr.msg_control = batch.controls[i]
        _rearm(batch, i)
    receive_arrange(batch, False)
    return batch


cdef void _rearm(ReceiveBatch *batch, size_t i) noexcept nogil:
    """What the kernel overwrote."""
    batch.messages[i].msg_hdr.msg_namelen = SOCKADDR_ROOM
    batch.messages[i].msg_hdr.msg_controllen = sizeof(batch.controls[i])


cdef void receive_arrange(ReceiveBatch *batch, bint gro) noexcept nogil:
    """Share the memory out: with UDP_GRO few messages of up to 64 KiB, else many of 16 KiB."""
    cdef size_t i
    cdef size_t size = GRO_BUFFER_SIZE if gro else BUFFER_SIZE
    batch.limit = GRO_MESSAGES if gro else BATCH
    for i in range(<size_t>batch.limit):
        batch.vectors[i].iov_base = batch.buffers + i * size
        batch.vectors[i].iov_len = size


cdef void receive_free(ReceiveBatch *batch) noexcept nogil:
    if batch != NULL:
        free(batch.buffers)
        free(batch)


cdef int receive_fetch(ReceiveBatch *batch, int fd) noexcept nogil:
    """Fetch up to BATCH datagrams that are there already; how many, 0 for none or an error.

    An error (an ICMP message about something sent before) is consumed by this call and says nothing
    about what will be received, so it isn't told apart.
    """
    cdef int fetched = recvmmsg(fd, batch.messages, batch.limit, MSG_DONTWAIT, NULL)
    cdef size_t i
    if fetched <= 0:
        return 0
    for i in range(<size_t>fetched):
        batch.sources[i].size = batch.messages[i].msg_hdr.msg_namelen
        batch.steps[i] = _step(&batch.messages[i])
        _rearm(batch, i)
    return fetched


cdef size_t _step(mmsghdr *message) noexcept nogil:
    """Size of the datagrams that the kernel put together here (UDP_GRO); of a single one its own."""
    cdef cmsghdr *control = CMSG_FIRSTHDR(&message.msg_hdr)
    cdef int size = 0
    while control != NULL:
        if control.cmsg_level == SOL_UDP and control.cmsg_type == UDP_GRO:
            memcpy(&size, CMSG_DATA(control), sizeof(size))
        control = CMSG_NXTHDR(&message.msg_hdr, control)
    return <size_t>size if size > 0 else message.msg_len


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


cdef SendBatch *send_new(size_t room) noexcept nogil:
    """`room`: bytes of the batch's own buffer, for all packets together."""
    cdef SendBatch *batch = <SendBatch *>calloc(1, sizeof(SendBatch))
    if batch == NULL:
        return NULL
    batch.room = room
    batch.gso_taken = True
    batch.buffers = <uint8_t *>calloc(1, room)
    if batch.buffers == NULL:
        free(batch)
        return NULL
    return batch


cdef void send_free(SendBatch *batch) noexcept nogil:
    if batch != NULL:
        free(batch.buffers)
        free(batch)


cdef bint send_uses_gso(const SendBatch *batch) noexcept nogil:
    """For display, by any thread: messages of several packets are made, and the last one was taken."""
    return batch.gso and load_flag(&batch.gso_taken)


cdef Outgoing *send_next(SendBatch *batch, size_t size) noexcept nogil:
    """The next free place with `data` at `size` bytes of buffer; NULL if the batch is full (flush it first).

    It is sent once the caller has filled it and called `send_commit`.
    """
    cdef Outgoing *outgoing
    if batch.count == SEND_LIMIT or batch.used + size > batch.room:
        return NULL
    outgoing = &batch.outgoing[batch.count]
    outgoing.data = batch.buffers + batch.used
    outgoing.keys = NULL
    return outgoing


cdef void send_commit(SendBatch *batch, Outgoing *outgoing) noexcept nogil:
    """Add what `send_next` gave; its buffer is kept if `data` still is there."""
    if outgoing.data == batch.buffers + batch.used:
        batch.used += outgoing.size
    batch.count += 1


# ---- protecting ------------------------------------------------------------------------------


cdef void _protect(SendBatch *batch) noexcept nogil:
    """Header protection, one AES call for each run of packets under the same keys."""
    cdef uint8_t *packets[BATCH]
    cdef uint8_t masks[BATCH * 16]
    cdef KeyContext *keys
    cdef size_t start = 0, run, i
    while start < batch.count:
        keys = batch.outgoing[start].keys
        run = 0
        while run < BATCH and start + run < batch.count and batch.outgoing[start + run].keys == keys:
            packets[run] = batch.outgoing[start + run].packet
            run += 1
        if keys != NULL and header_masks(keys, packets, run, masks):
            for i in range(run):
                apply_mask(packets[i], masks + i * MASK_SIZE)
                # A channel header repeats the low bits of what it carries, so that it looks no different.
                batch.outgoing[start + i].data[0] = 0x40 | (packets[i][0] & 0x3F)
        start += run


# ---- grouping --------------------------------------------------------------------------------


cdef inline bint _fits(const Message *message, const Outgoing *outgoing) noexcept nogil:
    return (
        message.open and outgoing.size <= message.step
        and message.packets < GSO_SEGMENTS and message.bytes + outgoing.size <= GSO_BYTES
    )


cdef bint _goes_singly(SendBatch *batch, const Endpoint *target) noexcept nogil:
    """Whether this packet is one of those that follow a refusal.

    By destination, because it is the device, the tunnel or the MTU on the way to it that refuses: one
    peer, or one client of a relay, must not slow all others down.  Two that share a slot share its fate.
    """
    cdef uint16_t *left = &batch.singly[endpoint_key(target) % GSO_SLOTS]
    if left[0] == 0:
        return False
    left[0] -= 1
    return True


cdef size_t _message_for(SendBatch *batch, Outgoing *outgoing) noexcept nogil:
    """The message that takes this packet: the newest to its endpoint, or a new one, so none overtakes."""
    cdef size_t i = batch.message_count
    cdef size_t end = i - LOOK_BACK if i > LOOK_BACK else 0
    cdef Message *message
    while batch.gso and i > end:
        i -= 1
        message = &batch.messages[i]
        if endpoint_equal(message.target, &outgoing.target):
            if _fits(message, outgoing):
                return i
            break
    message = &batch.messages[batch.message_count]
    message.target = &outgoing.target
    message.packets = 0
    message.bytes = 0
    message.step = outgoing.size
    message.open = batch.gso and not _goes_singly(batch, &outgoing.target)
    batch.message_count += 1
    return batch.message_count - 1


cdef void _group(SendBatch *batch) noexcept nogil:
    """Sort the packets into messages; the packets of a message get adjacent vectors."""
    cdef size_t i, number, place, start = 0
    cdef Message *message
    batch.message_count = 0
    for i in range(batch.count):
        number = _message_for(batch, &batch.outgoing[i])
        message = &batch.messages[number]
        message.packets += 1
        message.bytes += batch.outgoing[i].size
        message.open = message.open and batch.outgoing[i].size == message.step
        batch.message_of[i] = number
    for number in range(batch.message_count):
        batch.messages[number].start = start
        start += batch.messages[number].packets
        _fill_header(batch, number)
        batch.messages[number].packets = 0
    for i in range(batch.count):
        message = &batch.messages[batch.message_of[i]]
        place = message.start + message.packets
        message.packets += 1
        batch.order[place] = i
        batch.vectors[place].iov_base = batch.outgoing[i].data
        batch.vectors[place].iov_len = batch.outgoing[i].size


cdef void _fill_header(SendBatch *batch, size_t number) noexcept nogil:
    """With UDP_SEGMENT, if the message holds more than one packet."""
    cdef Message *message = &batch.messages[number]
    cdef msghdr *header = &batch.headers[number].msg_hdr
    cdef cmsghdr *control = <cmsghdr *>batch.controls[number]
    cdef uint16_t step = <uint16_t>message.step
    header.msg_name = message.target.words
    header.msg_namelen = <socklen_t>message.target.size
    header.msg_iov = &batch.vectors[message.start]
    header.msg_iovlen = message.packets
    header.msg_control = NULL
    header.msg_controllen = 0
    if message.packets > 1:
        control.cmsg_level = SOL_UDP
        control.cmsg_type = UDP_SEGMENT
        control.cmsg_len = CMSG_LEN(sizeof(step))
        memcpy(CMSG_DATA(control), &step, sizeof(step))
        header.msg_control = control
        header.msg_controllen = CMSG_SPACE(sizeof(step))


# ---- sending ---------------------------------------------------------------------------------


cdef DropReason _reason(int error) noexcept nogil:
    if error == EMSGSIZE:
        return DropReason.TOO_BIG
    if error == EAGAIN or error == ENOBUFS:
        return DropReason.SEND_BUFFER_FULL
    return DropReason.SEND_FAILED


cdef void _sent(Counters *counters, Outgoing *outgoing) noexcept nogil:
    if outgoing.traffic != NULL:
        add_relaxed(&outgoing.traffic.packets, 1)
        add_relaxed(&outgoing.traffic.bytes, outgoing.credit)
    count(counters, Statistic.UDP_TX_BYTES, outgoing.size)
    count(counters, Statistic.UDP_TX_DATAGRAMS, 1)


cdef void _send_singly(SendBatch *batch, const Message *message, int fd, Counters *counters) noexcept nogil:
    """Packet by packet, after the kernel refused the message.  If it takes them all, GSO was at fault.

    EIO: a device without checksum offload, or IPsec.  EINVAL, EMSGSIZE: packets larger than the MTU, which
    go as fragments where the socket allows that.
    """
    cdef msghdr header
    cdef size_t i, taken = 0
    count(counters, Statistic.UDP_GSO_REFUSED, 1)
    memset(&header, 0, sizeof(header))
    header.msg_name = message.target.words
    header.msg_namelen = <socklen_t>message.target.size
    header.msg_iovlen = 1
    for i in range(message.start, message.start + message.packets):
        header.msg_iov = &batch.vectors[i]
        if sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0:
            taken += 1
            _sent(counters, &batch.outgoing[batch.order[i]])
        else:
            drop(counters, _reason(errno))
    if taken == message.packets:
        batch.singly[endpoint_key(message.target) % GSO_SLOTS] = GSO_RETRY
        store_flag(&batch.gso_taken, False)


cdef size_t _send_some(SendBatch *batch, size_t first, int fd, Counters *counters) noexcept nogil:
    """One sendmmsg from message `first` on; how many messages are dealt with, sent or dropped."""
    cdef int sent = sendmmsg(fd, &batch.headers[first], <unsigned int>(batch.message_count - first),
                             MSG_DONTWAIT | MSG_NOSIGNAL)
    cdef int error = errno
    cdef size_t i, k
    cdef Message *message = &batch.messages[first]
    if sent <= 0:
        if error == EINTR:
            return 0
        if message.packets > 1 and (error == EIO or error == EINVAL or error == EMSGSIZE):
            _send_singly(batch, message, fd, counters)
        else:
            drop_many(counters, _reason(error), message.packets)
        return 1
    for i in range(first, first + <size_t>sent):
        message = &batch.messages[i]
        if message.packets > 1:
            count(counters, Statistic.UDP_GSO_SENDS, 1)
            store_flag(&batch.gso_taken, True)
        for k in range(message.start, message.start + message.packets):
            _sent(counters, &batch.outgoing[batch.order[k]])
    return <size_t>sent


cdef void send_flush(SendBatch *batch, int fd, Counters *counters) noexcept nogil:
    """Protect, group and send all packets; the batch is empty afterwards.

    sendmmsg stops at a message that fails; that one is dropped and the rest is tried again, so that
    one peer without a route costs the others nothing.
    """
    cdef size_t done = 0
    _protect(batch)
    _group(batch)
    while done < batch.message_count:
        done += _send_some(batch, done, fd, counters)
    batch.count = 0
    batch.used = 0

"""To the TAP: whole frames as they are, segments of one flow joined to super-frames again.

Does NOT judge what came from the network: segments are valid (segment.pyx) and from their sender's MAC.

One super-frame is in the making at a time, and whatever does not continue it writes it first: so frames
leave in the order in which they came, of all flows.  It is complete at the end of a receive batch,
because its payloads lie in the receive buffers: `delivery_flush`.

A frame has room before it for a virtio_net_hdr: at least 14 bytes of the packet that it came in.
"""

from libc.errno cimport EINVAL
from libc.stdint cimport uint16_t
from libc.string cimport memcmp, memcpy, memset

from shadowmesh._ext.atomic cimport store_flag
from shadowmesh._ext.bytes cimport load32, store16
from shadowmesh._ext.checksum cimport (
    checksum_finish,
    checksum_relength,
    ipv4_header_checksum,
)
from shadowmesh._ext.drops cimport Statistic, count
from shadowmesh._ext.segment cimport (
    SEGMENT_CHECKSUM,
    SEGMENT_HEADER_SIZE,
    TCP_ACK,
    TCP_CHECKSUM,
    TCP_CWR,
    TCP_FIN,
    TCP_FLAGS,
    TCP_PSH,
    TCP_RST,
    TCP_SEQUENCE,
    TCP_SYN,
    TCP_URG,
    UDP_CHECKSUM,
    UDP_LENGTH,
)
from shadowmesh._ext.tap cimport tap_refused, tap_write
from shadowmesh._ext.vnet cimport (
    VNET_GSO_TCPV4,
    VNET_GSO_TCPV6,
    VNET_GSO_UDP_L4,
    VNET_NEEDS_CSUM,
    VNET_SIZE,
    Vnet,
    vnet_store,
)


# ---- what is handed over ---------------------------------------------------------------------


cdef void deliver_frame(Delivery *delivery, uint8_t *frame, size_t size) noexcept nogil:
    """A frame that needs nothing."""
    delivery_flush(delivery)
    _begin(&delivery.joined, NULL, frame, size)
    delivery_flush(delivery)


cdef void deliver_segment(Delivery *delivery, uint8_t *segment, size_t size,
                          const Shape *shape) noexcept nogil:
    """A valid segment payload of `size` bytes, its kind included."""
    cdef Joined *joined = &delivery.joined
    cdef uint8_t *frame = segment + SEGMENT_HEADER_SIZE
    cdef size_t length = size - SEGMENT_HEADER_SIZE
    if segment[1] == SEGMENT_CHECKSUM or not _joinable(delivery, frame, length, shape):
        delivery_flush(delivery)
        _begin(joined, segment, frame, length)
        delivery_flush(delivery)
        return
    if not joined.open or not _continues(joined, frame, length, shape):
        delivery_flush(delivery)
        _begin(joined, segment, frame, length)
        joined.shape = shape[0]
        joined.step = length - shape.headers
        joined.open = True
    else:
        joined.vectors[joined.count].iov_base = frame + shape.headers
        joined.vectors[joined.count].iov_len = length - shape.headers
        joined.count += 1
        joined.size += length - shape.headers
    _after(joined, frame, length, shape)


cdef void _begin(Joined *joined, uint8_t *segment, uint8_t *frame, size_t size) noexcept nogil:
    joined.segment = segment
    joined.frame = frame
    joined.first = size
    joined.size = size
    joined.count = 1
    joined.open = False
    joined.ending = 0


cdef void _after(Joined *joined, const uint8_t *frame, size_t size, const Shape *shape) noexcept nogil:
    """Close it behind a short segment, a FIN or a PSH, and where no other fits."""
    cdef const uint8_t *transport = frame + shape.transport
    cdef size_t payload = size - shape.headers
    if shape.tcp:
        joined.next_sequence = load32(transport + TCP_SEQUENCE) + <uint32_t>payload
        if transport[TCP_FLAGS] & (TCP_FIN | TCP_PSH):
            joined.open = False
            joined.ending = transport[TCP_FLAGS] & (TCP_FIN | TCP_PSH)
    if payload < joined.step or joined.count == JOIN_LIMIT:
        joined.open = False


# ---- what may be joined ----------------------------------------------------------------------


cdef bint _joinable(const Delivery *delivery, const uint8_t *frame, size_t size,
                    const Shape *shape) noexcept nogil:
    """Data, and of TCP nothing but data: a bare ACK carries no byte that could be continued."""
    cdef uint8_t flags
    if not delivery.vnet or size == shape.headers:
        return False
    if not shape.tcp:
        return delivery.join_udp
    flags = frame[shape.transport + TCP_FLAGS]
    return delivery.join_tcp and flags & (TCP_SYN | TCP_RST | TCP_URG | TCP_CWR | TCP_ACK) == TCP_ACK


cdef bint _continues(const Joined *joined, const uint8_t *frame, size_t size,
                     const Shape *shape) noexcept nogil:
    """Same flow, same headers, not larger than the first, next in sequence, and the sum fits IP."""
    cdef size_t payload = size - shape.headers
    if (
        shape.headers != joined.shape.headers or shape.transport != joined.shape.transport
        or shape.network != joined.shape.network or shape.tcp != joined.shape.tcp
        or shape.ipv6 != joined.shape.ipv6 or payload > joined.step
        or joined.size + payload - shape.network > 0xFFFF
    ):
        return False
    if shape.tcp and load32(frame + shape.transport + TCP_SEQUENCE) != joined.next_sequence:
        return False
    return _same_network(joined.frame, frame, shape) and _same_transport(joined.frame, frame, shape)


cdef bint _same_network(const uint8_t *one, const uint8_t *other, const Shape *shape) noexcept nogil:
    """Ethernet and IP headers but length, id and header checksum."""
    cdef size_t ip = shape.network
    if memcmp(one, other, ip) != 0:
        return False
    if shape.ipv6:
        return memcmp(one + ip, other + ip, 4) == 0 and memcmp(one + ip + 6, other + ip + 6, 34) == 0
    return (
        memcmp(one + ip, other + ip, 2) == 0
        and memcmp(one + ip + 6, other + ip + 6, 4) == 0
        and memcmp(one + ip + 12, other + ip + 12, shape.transport - ip - 12) == 0
    )


cdef bint _same_transport(const uint8_t *one, const uint8_t *other, const Shape *shape) noexcept nogil:
    """Ports; of TCP also acknowledgement, flags but FIN and PSH, window, urgent pointer and options."""
    cdef const uint8_t *a = one + shape.transport
    cdef const uint8_t *b = other + shape.transport
    if memcmp(a, b, 4) != 0 or not shape.tcp:
        return memcmp(a, b, 4) == 0
    return (
        memcmp(a + 8, b + 8, 5) == 0
        and (a[TCP_FLAGS] ^ b[TCP_FLAGS]) & <uint8_t>~<uint8_t>(TCP_FIN | TCP_PSH) == 0
        and memcmp(a + 14, b + 14, 2) == 0
        and memcmp(a + 18, b + 18, shape.headers - shape.transport - 18) == 0
    )


# ---- writing ---------------------------------------------------------------------------------


cdef void delivery_flush(Delivery *delivery) noexcept nogil:
    """Write what waits, if anything does."""
    cdef Joined *joined = &delivery.joined
    cdef size_t frames = joined.count
    cdef int error
    if frames == 0:
        return
    joined.count = 0
    joined.open = False
    if frames > 1:
        memcpy(joined.saved, joined.segment, SEGMENT_HEADER_SIZE + joined.shape.headers)
        _patch_headers(joined)
    _set_head(delivery, frames)
    error = tap_write(delivery.tap_fd, joined.vectors, frames)
    if error == 0:
        count(delivery.counters, Statistic.TAP_TX_FRAMES, frames)
        if frames > 1:
            count(delivery.counters, Statistic.COALESCED_FRAMES, 1)
        return
    if frames > 1 and error == EINVAL:
        _stop_joining(delivery, frames)
    else:
        tap_refused(error, frames, delivery.counters)


cdef void _stop_joining(Delivery *delivery, size_t frames) noexcept nogil:
    """This kernel does not take such super-frames: these frames and all from now on go by themselves.

    Their headers are still there, each before its payload; those of the first have been saved.
    """
    cdef Joined *joined = &delivery.joined
    cdef size_t headers = joined.shape.headers
    cdef uint8_t *frame
    cdef size_t i
    count(delivery.counters, Statistic.COALESCE_REFUSED, 1)
    if joined.shape.tcp:
        store_flag(&delivery.join_tcp, False)
    else:
        store_flag(&delivery.join_udp, False)
    memcpy(joined.segment, joined.saved, SEGMENT_HEADER_SIZE + headers)
    joined.vectors[0].iov_base = joined.frame + headers
    joined.vectors[0].iov_len = joined.first - headers
    for i in range(frames):
        frame = <uint8_t *>joined.vectors[i].iov_base - headers
        _begin(joined, frame - SEGMENT_HEADER_SIZE, frame, headers + joined.vectors[i].iov_len)
        delivery_flush(delivery)


cdef void _patch_headers(Joined *joined) noexcept nogil:
    """Make the first frame's headers those of the super-frame: lengths, and FIN and PSH of the last."""
    cdef Shape *shape = &joined.shape
    cdef uint8_t *ip = joined.frame + shape.network
    cdef uint8_t *transport = joined.frame + shape.transport
    cdef size_t before = joined.first - shape.transport
    cdef size_t after = joined.size - shape.transport
    if shape.ipv6:
        store16(ip + 4, <uint16_t>after)
    else:
        store16(ip + 2, <uint16_t>(joined.size - shape.network))
        ipv4_header_checksum(ip, shape.transport - shape.network)
    if shape.tcp:
        transport[TCP_FLAGS] |= joined.ending
    else:
        store16(transport + UDP_LENGTH, <uint16_t>after)
    checksum_relength(transport + (TCP_CHECKSUM if shape.tcp else UDP_CHECKSUM), before, after)


cdef void _set_head(Delivery *delivery, size_t frames) noexcept nogil:
    """The virtio_net_hdr; a TAP without one gets the checksum finished instead."""
    cdef Joined *joined = &delivery.joined
    cdef uint8_t *segment = joined.segment
    cdef size_t head = VNET_SIZE if delivery.vnet else 0
    cdef Vnet vnet
    joined.vectors[0].iov_base = joined.frame - head
    joined.vectors[0].iov_len = joined.first + head
    if not delivery.vnet:
        if segment != NULL:
            checksum_finish(joined.frame, joined.first, segment[3], segment[4])
        return
    memset(&vnet, 0, sizeof(vnet))
    if segment != NULL:
        vnet.flags = VNET_NEEDS_CSUM
        vnet.hdr_len = segment[2]
        vnet.csum_start = segment[3]
        vnet.csum_offset = segment[4]
    if frames > 1:
        vnet.gso_size = <uint16_t>joined.step
        vnet.gso_type = _gso_type(&joined.shape)
    vnet_store(joined.frame - VNET_SIZE, &vnet)


cdef uint8_t _gso_type(const Shape *shape) noexcept nogil:
    if not shape.tcp:
        return VNET_GSO_UDP_L4
    return VNET_GSO_TCPV6 if shape.ipv6 else VNET_GSO_TCPV4

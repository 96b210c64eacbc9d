"""Segments: their header on the wire, its validation, and how a super-frame is cut into them.

Does NOT seal, send or join (coalesce.pyx).

    06 | flags | header length | checksum start | checksum offset | Ethernet frame

Cutting copies no payload: the headers of segment i are written directly before its payload, over the
tail of payload i - 1, which is sealed by then.  Hence one `Cut` per frame, and its segments in order.
"""

from libc.string cimport memcpy

from shadowmesh._ext.bytes cimport load16, load32, store16, store32
from shadowmesh._ext.checksum cimport checksum_relength, ipv4_header_checksum
from shadowmesh._ext.packets cimport ETHERNET_HEADER_SIZE, KIND_SEGMENT
from shadowmesh._ext.vnet cimport (
    VNET_GSO_ECN,
    VNET_GSO_TCPV4,
    VNET_GSO_TCPV6,
    VNET_GSO_UDP_L4,
    VNET_NEEDS_CSUM,
)


cdef enum:
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_VLAN = 0x8100
    VLAN_SIZE = 4
    IPV4_SIZE = 20
    IPV6_SIZE = 40
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    FRAGMENT_BITS = 0x3FFF     # RFC 791: more fragments, and the offset


# ---- shape -----------------------------------------------------------------------------------


cdef bint shape_network(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil:
    """Find the IP header behind at most one VLAN tag; False if there is none."""
    cdef uint16_t ethertype
    shape.network = ETHERNET_HEADER_SIZE
    if size < ETHERNET_HEADER_SIZE + VLAN_SIZE:
        return False
    ethertype = load16(frame + 12)
    if ethertype == ETHERTYPE_VLAN:
        ethertype = load16(frame + 16)
        shape.network += VLAN_SIZE
    shape.ipv6 = ethertype == ETHERTYPE_IPV6
    if not shape.ipv6 and ethertype != ETHERTYPE_IPV4:
        return False
    return size >= shape.network + <size_t>(IPV6_SIZE if shape.ipv6 else IPV4_SIZE)


cdef bint _shape_ip(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil:
    """One unfragmented IP packet that fills the frame, without extension headers."""
    cdef const uint8_t *ip = frame + shape.network
    cdef uint8_t protocol
    if shape.ipv6:
        shape.transport = shape.network + IPV6_SIZE
        protocol = ip[6]
        if ip[0] >> 4 != 6 or shape.transport + load16(ip + 4) != size:
            return False
    else:
        shape.transport = shape.network + <size_t>(ip[0] & 0x0F) * 4
        protocol = ip[9]
        if (
            ip[0] >> 4 != 4 or shape.transport < shape.network + IPV4_SIZE
            or shape.network + load16(ip + 2) != size or load16(ip + 6) & FRAGMENT_BITS != 0
        ):
            return False
    shape.tcp = protocol == PROTOCOL_TCP
    return shape.tcp or protocol == PROTOCOL_UDP


cdef bint _shape_transport(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil:
    """The transport header, all of it inside the frame."""
    cdef size_t needed = TCP_HEADER_SIZE if shape.tcp else UDP_HEADER_SIZE
    if size < shape.transport + needed:
        return False
    if shape.tcp:
        needed = <size_t>(frame[shape.transport + TCP_OFFSET] >> 4) * 4
        if needed < TCP_HEADER_SIZE:
            return False
    shape.headers = shape.transport + needed
    return shape.headers <= size


cdef bint shape_of(const uint8_t *frame, size_t size, Shape *shape) noexcept nogil:
    """True for a whole TCP or UDP packet whose lengths all agree with `size`: what may be joined."""
    return (
        shape_network(frame, size, shape)
        and _shape_ip(frame, size, shape)
        and _shape_transport(frame, size, shape)
        and (shape.tcp or shape.transport + load16(frame + shape.transport + UDP_LENGTH) == size)
    )


# ---- the header on the wire ------------------------------------------------------------------


cdef inline size_t _checksum_offset(const Shape *shape) noexcept nogil:
    return TCP_CHECKSUM if shape.tcp else UDP_CHECKSUM


cdef bint segment_valid(const uint8_t *segment, size_t size, Shape *shape) noexcept nogil:
    """Judge a segment payload from the network; `shape` is filled if it may be joined.

    The kernel takes wrong offsets without a word, so nothing that a peer claims gets there unproved.
    """
    cdef const uint8_t *frame = segment + SEGMENT_HEADER_SIZE
    cdef uint8_t flags
    cdef size_t length
    if size < SEGMENT_HEADER_SIZE + ETHERNET_HEADER_SIZE:
        return False
    length = size - SEGMENT_HEADER_SIZE
    flags = segment[1]
    if (
        segment[2] > length or segment[3] < ETHERNET_HEADER_SIZE
        or <size_t>segment[3] + segment[4] + 2 > segment[2]
    ):
        return False
    if flags == SEGMENT_CHECKSUM:
        return True
    if flags != SEGMENT_CHECKSUM | SEGMENT_TCP and flags != SEGMENT_CHECKSUM | SEGMENT_UDP:
        return False
    return (
        shape_of(frame, length, shape)
        and shape.tcp == (flags & SEGMENT_TCP != 0)
        and segment[2] == shape.headers
        and segment[3] == shape.transport
        and segment[4] == _checksum_offset(shape)
    )


cdef bint segment_write(uint8_t *frame, size_t size, const Vnet *vnet) noexcept nogil:
    """Write the segment header before a whole frame whose checksum the kernel left partial.

    False if one byte can't tell where the checksum is: finish it instead.
    """
    cdef uint8_t *segment = frame - SEGMENT_HEADER_SIZE
    cdef size_t reach = <size_t>vnet.csum_start + vnet.csum_offset + 2
    cdef Shape shape
    if reach > SEGMENT_REACH or reach > size or vnet.csum_start < ETHERNET_HEADER_SIZE:
        return False
    segment[0] = KIND_SEGMENT
    segment[1] = SEGMENT_CHECKSUM
    segment[2] = <uint8_t>reach
    segment[3] = <uint8_t>vnet.csum_start
    segment[4] = <uint8_t>vnet.csum_offset
    if (
        shape_of(frame, size, &shape) and shape.headers <= SEGMENT_REACH
        and vnet.csum_start == shape.transport and vnet.csum_offset == _checksum_offset(&shape)
    ):
        segment[1] |= SEGMENT_TCP if shape.tcp else SEGMENT_UDP
        segment[2] = <uint8_t>shape.headers
    return True


# ---- cutting ---------------------------------------------------------------------------------


cdef bint _cut_shape(Cut *cut, const uint8_t *frame, size_t size, const Vnet *vnet) noexcept nogil:
    """The shape by the kernel's word for where the transport header is: extension headers may come first."""
    cdef uint8_t kind = vnet.gso_type & <uint8_t>~<uint8_t>VNET_GSO_ECN
    cdef Shape *shape = &cut.shape
    if not shape_network(frame, size, shape) or not vnet.flags & VNET_NEEDS_CSUM:
        return False
    if kind != VNET_GSO_UDP_L4 and kind != (VNET_GSO_TCPV6 if shape.ipv6 else VNET_GSO_TCPV4):
        return False
    shape.tcp = kind != VNET_GSO_UDP_L4
    shape.transport = vnet.csum_start
    return (
        vnet.csum_offset == _checksum_offset(shape)
        and shape.transport >= shape.network + <size_t>(IPV6_SIZE if shape.ipv6 else IPV4_SIZE)
        and _shape_transport(frame, size, shape)
        and shape.headers <= SEGMENT_REACH
    )


cdef size_t _step(const Shape *shape, size_t gso_size, size_t room) noexcept nogil:
    """TCP permits smaller segments than the kernel asks for; a UDP datagram stays what it is."""
    cdef size_t fits = room - SEGMENT_HEADER_SIZE - shape.headers
    return fits if shape.tcp and fits < gso_size else gso_size


cdef bint cut_begin(Cut *cut, uint8_t *frame, size_t size, const Vnet *vnet, size_t room) noexcept nogil:
    """Prepare a super-frame with SEGMENT_HEADER_SIZE bytes of room before it; False: it can't be cut.

    `room`: largest payload of a packet (peers.pxd: more than all headers that a segment can have).
    """
    cdef Shape plain
    cdef uint8_t flags = SEGMENT_CHECKSUM
    if not _cut_shape(cut, frame, size, vnet) or vnet.gso_size == 0 or cut.shape.headers >= size:
        return False
    if size - cut.shape.transport > 0xFFFF:
        return False
    if shape_of(frame, size, &plain) and plain.transport == cut.shape.transport:
        flags |= SEGMENT_TCP if cut.shape.tcp else SEGMENT_UDP
    cut.headers[0] = KIND_SEGMENT
    cut.headers[1] = flags
    cut.headers[2] = <uint8_t>cut.shape.headers
    cut.headers[3] = <uint8_t>cut.shape.transport
    cut.headers[4] = <uint8_t>vnet.csum_offset
    memcpy(cut.headers + SEGMENT_HEADER_SIZE, frame, cut.shape.headers)
    cut.room = SEGMENT_HEADER_SIZE + cut.shape.headers
    cut.payload = frame + cut.shape.headers
    cut.left = size - cut.shape.headers
    cut.step = _step(&cut.shape, vnet.gso_size, room)
    cut.whole = size - cut.shape.transport
    cut.index = 0
    return True


cdef void _patch_ip(const Cut *cut, uint8_t *frame, size_t size) noexcept nogil:
    """Length; for IPv4 also the next id and the header checksum."""
    cdef uint8_t *ip = frame + cut.shape.network
    if cut.shape.ipv6:
        store16(ip + 4, <uint16_t>(size - cut.shape.network - IPV6_SIZE))
        return
    store16(ip + 2, <uint16_t>(size - cut.shape.network))
    store16(ip + 4, <uint16_t>(load16(ip + 4) + cut.index))
    ipv4_header_checksum(ip, cut.shape.transport - cut.shape.network)


cdef void _patch_transport(const Cut *cut, uint8_t *frame, size_t size, bint last) noexcept nogil:
    """TCP: sequence; CWR only in the first segment, FIN and PSH only in the last.  UDP: length."""
    cdef uint8_t *transport = frame + cut.shape.transport
    cdef size_t length = size - cut.shape.transport
    checksum_relength(transport + _checksum_offset(&cut.shape), cut.whole, length)
    if not cut.shape.tcp:
        store16(transport + UDP_LENGTH, <uint16_t>length)
        return
    store32(transport + TCP_SEQUENCE,
            load32(transport + TCP_SEQUENCE) + cut.index * <uint32_t>cut.step)
    if cut.index > 0:
        transport[TCP_FLAGS] &= <uint8_t>~<uint8_t>TCP_CWR
    if not last:
        transport[TCP_FLAGS] &= <uint8_t>~<uint8_t>(TCP_FIN | TCP_PSH)


cdef uint8_t *cut_next(Cut *cut, size_t *size) noexcept nogil:
    """The next segment payload of `size` bytes, from its kind on; NULL after the last."""
    cdef size_t piece = cut.step if cut.step < cut.left else cut.left
    cdef uint8_t *segment = cut.payload - cut.room
    if piece == 0:
        return NULL
    cut.left -= piece
    cut.payload += piece
    memcpy(segment, cut.headers, cut.room)
    size[0] = cut.room + piece
    _patch_ip(cut, segment + SEGMENT_HEADER_SIZE, cut.shape.headers + piece)
    _patch_transport(cut, segment + SEGMENT_HEADER_SIZE, cut.shape.headers + piece, cut.left == 0)
    cut.index += 1
    return segment

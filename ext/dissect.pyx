"""Ethernet, VLAN tags, IPv4 and IPv6 with extension headers, TCP, UDP and ICMP: the headers of one frame.

Does NOT judge (judge.pyx, origin.pyx).  A frame whose lengths contradict each other, or whose headers end
too early to be judged, is malformed, so that nobody behind us can read it otherwise than we did.

Sources: RFC 791, 8200 (IP), 6946 (atomic fragments), 7112 (all headers in the first fragment), 1858 and 3128
(fragments that would overwrite a TCP header), 792 and 4443 (ICMP), 4861 (neighbour discovery).
"""

from libc.string cimport memset

from shadowmesh._ext.bytes cimport load16, load32, load64
from shadowmesh._ext.packets cimport ETHERNET_HEADER_SIZE
from shadowmesh._ext.segment cimport (
    TCP_FIN,
    TCP_FLAGS,
    TCP_HEADER_SIZE,
    TCP_OFFSET,
    TCP_RST,
    TCP_SYN,
    UDP_HEADER_SIZE,
)


cdef enum:
    ETHERTYPE_VLAN = 0x8100
    ETHERTYPE_STACKED = 0x88A8
    VLAN_SIZE = 4
    VLAN_TAGS = 2              # more are malformed: nothing behind them could be judged
    IPV4_SIZE = 20
    IPV6_SIZE = 40
    IPV4_MAPPED = 0xFFFF
    EXTENSIONS = 8             # extension headers that are followed
    NEXT_HOP_BY_HOP = 0
    NEXT_ROUTING = 43
    NEXT_FRAGMENT = 44
    NEXT_AUTHENTICATION = 51
    NEXT_DESTINATION = 60
    ICMP_SIZE = 8
    ICMPV6_SIZE = 4
    QUOTED_SIZE = 8            # RFC 792: so much of a transport header is quoted at least
    SOLICITATION = 135
    ADVERTISEMENT = 136


cdef bint dissect_brief(Brief *brief, const uint8_t *frame, size_t size) noexcept nogil:
    """Most frames: an untagged, whole packet of UDP, or of TCP that neither opens nor ends a connection.

    Frames that `dissect` would take, to which it would give the same packet but for lengths and TCP flags if
    their briefs are equal.  False: another frame, of which only `dissect` can say what it is.
    """
    cdef const uint8_t *ip = frame + ETHERNET_HEADER_SIZE
    cdef const uint8_t *data
    cdef uint16_t ethertype
    cdef uint8_t protocol
    cdef size_t i, total, header
    if size < ETHERNET_HEADER_SIZE + IPV4_SIZE + UDP_HEADER_SIZE:
        return False
    ethertype = load16(frame + 12)
    if ethertype == ETHERTYPE_IPV4:
        if ip[0] != 0x45 or load16(ip + 6) & 0x3FFF:
            return False
        header = IPV4_SIZE
        total = load16(ip + 2)
        protocol = ip[9]
        brief.words[0] = load64(ip + 12)
        brief.words[1] = brief.words[2] = brief.words[3] = 0
    elif ethertype == ETHERTYPE_IPV6:
        if size < ETHERNET_HEADER_SIZE + IPV6_SIZE + UDP_HEADER_SIZE or ip[0] >> 4 != 6:
            return False
        header = IPV6_SIZE
        total = IPV6_SIZE + <size_t>load16(ip + 4)
        protocol = ip[6]
        for i in range(4):
            brief.words[i] = load64(ip + 8 + i * 8)
    else:
        return False
    if total > size - ETHERNET_HEADER_SIZE:
        return False
    data = ip + header
    if protocol == PROTOCOL_TCP:
        if (
            total < header + TCP_HEADER_SIZE or data[TCP_OFFSET] >> 4 < 5
            or <size_t>(data[TCP_OFFSET] >> 4) * 4 > total - header
            or data[TCP_FLAGS] & (TCP_SYN | TCP_FIN | TCP_RST)
        ):
            return False
    elif protocol != PROTOCOL_UDP or total < header + UDP_HEADER_SIZE:
        return False
    brief.ports = load32(data)
    brief.kind = <uint32_t>ethertype << 16 | protocol
    return True


cdef bint dissect(Packet *packet, const uint8_t *frame, size_t size) noexcept nogil:
    """False: malformed.  `size` counts from the destination MAC on."""
    cdef size_t at = 12
    cdef size_t tags = 0
    cdef uint16_t tag
    memset(packet, 0, sizeof(Packet))
    packet.vlan = packet.inner = NO_VLAN
    packet.protocol = NO_PROTOCOL
    if size < ETHERNET_HEADER_SIZE:
        return False
    packet.ethertype = load16(frame + at)
    while packet.ethertype == ETHERTYPE_VLAN or packet.ethertype == ETHERTYPE_STACKED:
        if tags == VLAN_TAGS or size < at + 2 + VLAN_SIZE:
            return False
        tag = load16(frame + at + 2) & 0x0FFF
        if tag != 0 and packet.vlan == NO_VLAN:
            packet.vlan = tag
        elif tag != 0:
            packet.inner = tag
        tags += 1
        at += VLAN_SIZE
        packet.ethertype = load16(frame + at)
    at += 2
    packet.resolution = packet.ethertype == ETHERTYPE_ARP
    return _network(packet, frame + at, size - at, False)


cdef bint dissect_quoted(Packet *packet, const Packet *error) noexcept nogil:
    """The packet that an ICMP error is about, cut off as it may be; False: it can't be told."""
    memset(packet, 0, sizeof(Packet))
    packet.vlan = error.vlan
    packet.inner = error.inner
    packet.ethertype = error.ethertype
    return _network(packet, error.quoted, error.quoted_size, True)


cdef bint _network(Packet *packet, const uint8_t *ip, size_t left, bint quoted) noexcept nogil:
    if packet.ethertype == ETHERTYPE_IPV4:
        packet.ip = True
        return _ipv4(packet, ip, left, quoted)
    if packet.ethertype == ETHERTYPE_IPV6:
        packet.ip = packet.ipv6 = True
        return _ipv6(packet, ip, left, quoted)
    packet.body = ip
    packet.body_size = left
    return True


cdef bint _ipv4(Packet *packet, const uint8_t *ip, size_t left, bint quoted) noexcept nogil:
    cdef size_t header, total, offset
    if left < IPV4_SIZE or ip[0] >> 4 != 4:
        return False
    header = <size_t>(ip[0] & 0x0F) * 4
    total = load16(ip + 2)
    if quoted and total > left:
        total = left
    if header < IPV4_SIZE or total < header or total > left:
        return False
    packet.protocol = ip[9]
    packet.source[1] = <uint64_t>IPV4_MAPPED << 32 | load32(ip + 12)
    packet.destination[1] = <uint64_t>IPV4_MAPPED << 32 | load32(ip + 16)
    packet.datagram = load16(ip + 4)
    offset = <size_t>(load16(ip + 6) & 0x1FFF) * 8
    if offset > 0:
        return _later(packet, offset)
    if load16(ip + 6) & 0x2000:
        packet.part = PART_FIRST
    return _transport(packet, ip + header, total - header, quoted)


cdef bint _ipv6(Packet *packet, const uint8_t *ip, size_t left, bint quoted) noexcept nogil:
    cdef size_t total, at = IPV6_SIZE, offset = 0
    cdef size_t i, _count
    cdef bint fragment = False
    if left < IPV6_SIZE or ip[0] >> 4 != 6:
        return False
    total = IPV6_SIZE + <size_t>load16(ip + 4)
    if quoted and total > left:
        total = left
    if total > left:
        return False
    for i in range(2):
        packet.source[i] = load64(ip + 8 + i * 8)
        packet.destination[i] = load64(ip + 24 + i * 8)
    packet.protocol = ip[6]
    for _count in range(<size_t>EXTENSIONS):
        if packet.protocol == NEXT_FRAGMENT:
            if fragment or total - at < 8:
                return False
            fragment = packet.fragment = True
            packet.protocol = ip[at]
            packet.datagram = load32(ip + at + 4)
            offset = load16(ip + at + 2) & 0xFFF8
            if offset > 0:
                return _later(packet, offset)
            if ip[at + 3] & 1:
                packet.part = PART_FIRST
            at += 8
        elif _is_extension(packet.protocol):
            if total - at < 8 or not _skip(packet, ip, &at, total):
                return False
        else:
            break
    if packet.protocol == NEXT_FRAGMENT or _is_extension(packet.protocol):
        return False
    if not _transport(packet, ip + at, total - at, quoted):
        return False
    packet.resolution = (
        packet.protocol == PROTOCOL_ICMPV6 and packet.part == PART_WHOLE and ip[7] == 255
        and (ip[at] == SOLICITATION or ip[at] == ADVERTISEMENT)
    )
    return True


cdef inline bint _is_extension(uint16_t protocol) noexcept nogil:
    return (
        protocol == NEXT_HOP_BY_HOP or protocol == NEXT_ROUTING or protocol == NEXT_AUTHENTICATION
        or protocol == NEXT_DESTINATION
    )


cdef bint _skip(Packet *packet, const uint8_t *ip, size_t *at, size_t total) noexcept nogil:
    """Over one extension header, which has at least 8 bytes here; False: it ends behind the packet."""
    cdef size_t length = ip[at[0] + 1]
    length = (length + 2) * 4 if packet.protocol == NEXT_AUTHENTICATION else (length + 1) * 8
    if length > total - at[0]:
        return False
    packet.protocol = ip[at[0]]
    at[0] += length
    return True


cdef bint _later(Packet *packet, size_t offset) noexcept nogil:
    """A fragment that reaches back into the TCP header is an attack (RFC 3128)."""
    packet.part = PART_LATER
    return packet.protocol != PROTOCOL_TCP or offset >= TCP_HEADER_SIZE


cdef bint _transport(Packet *packet, const uint8_t *data, size_t left, bint quoted) noexcept nogil:
    packet.body = data
    packet.body_size = left
    if packet.protocol == PROTOCOL_TCP:
        if left < <size_t>(QUOTED_SIZE if quoted else TCP_HEADER_SIZE):
            return False
        if not quoted:
            if data[TCP_OFFSET] >> 4 < 5 or <size_t>(data[TCP_OFFSET] >> 4) * 4 > left:
                return False
            packet.tcp_flags = data[TCP_FLAGS]
    elif packet.protocol == PROTOCOL_UDP:
        if left < UDP_HEADER_SIZE:
            return False
    elif packet.protocol == (PROTOCOL_ICMPV6 if packet.ipv6 else PROTOCOL_ICMP):
        return _icmp(packet, data, left)
    else:
        return True
    packet.ports = True
    packet.source_port = load16(data)
    packet.destination_port = load16(data + 2)
    return True


cdef bint _icmp(Packet *packet, const uint8_t *data, size_t left) noexcept nogil:
    if left < <size_t>(ICMPV6_SIZE if packet.ipv6 else ICMP_SIZE):
        return False
    packet.role = _role(data[0], packet.ipv6)
    if packet.role == ICMP_OTHER:
        return True
    if left < ICMP_SIZE:
        return False
    packet.echo = load16(data + 4)
    if packet.role == ICMP_ERROR:
        packet.quoted = data + ICMP_SIZE
        packet.quoted_size = left - ICMP_SIZE
    return True


cdef IcmpRole _role(uint8_t kind, bint ipv6) noexcept nogil:
    """Echo; and unreachable, too big, time exceeded and parameter problem (not redirect, not quench)."""
    if kind == (128 if ipv6 else 8):
        return ICMP_REQUEST
    if kind == (129 if ipv6 else 0):
        return ICMP_REPLY
    if 1 <= kind <= 4 if ipv6 else (kind == 3 or kind == 11 or kind == 12):
        return ICMP_ERROR
    return ICMP_OTHER

"""The guards of what a peer sends: its own addresses only, and DHCP and routing only with the right to it.

Does NOT look at MAC addresses of the frame itself (inbound.pyx), nor at what the firewall allows (judge.pyx).

A frame whose sender can't be told is refused, so that nobody behind us can read it otherwise than we did.
Everything that is neither IP nor ARP passes.

Sources: RFC 826, 5227 (ARP and its probes), 4861, 4862 (neighbour discovery, duplicate addresses), 6980 (none
of it in fragments), 6105 and 7113 (RA guard and how it was evaded), 7610 (DHCPv6 shield), 2131 and
8415 (ports of DHCP), 3590 and 3376 (multicast listeners without an address), 1042 (IP in LLC/SNAP).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from shadowmesh._ext.bytes cimport load16, load32, load48, load64
from shadowmesh._ext.convert cimport buffer_of, sized, unsigned
from shadowmesh._ext.dissect cimport (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PART_LATER,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Packet,
    dissect,
)
from shadowmesh._ext.drops cimport DropReason
from shadowmesh._ext.ownership cimport IPV4_MAPPED, neighbours_nobody, owned_set, owns4, owns6
from shadowmesh._ext.packets cimport ETHERNET_HEADER_SIZE
from shadowmesh._ext.resolve cimport REPLY_ROOM, resolve
from shadowmesh._ext.tables cimport Grace, grace_free, grace_new, grace_reclaim, table_free, table_init

from shadowmesh._ext.drops import DropReason as REASONS

cimport cython


cdef enum:
    PLAIN4_SIZE = 42           # Ethernet, IPv4 without options, 8 bytes of what it carries
    PLAIN6_SIZE = 62
    LEAST_ETHERTYPE = 0x600    # below, the field is a length, and LLC follows
    SNAP_SIZE = 8
    PROTOCOL_IGMP = 2
    PORT_DHCP_SERVER = 67
    PORT_DHCP_CLIENT = 68
    PORT_DHCPV6_CLIENT = 546
    ICMP_REDIRECT = 5
    ICMP_ROUTER = 9            # RFC 1256
    ARP_SIZE = 28
    LISTENER_REPORT = 131
    LISTENER_DONE = 132
    LISTENER_REPORT2 = 143
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    SOLICITATION = 135
    ADVERTISEMENT = 136
    REDIRECT = 137
    OPTION_SOURCE = 1          # link-layer addresses
    OPTION_TARGET = 2
    OPTIONS = 64               # of one message that are looked through
    ORIGINS_PEERS = 16         # of the class for tests; 0 is ourselves


cdef inline bint _plain4(const Owned *owned, Table *neighbours, const uint8_t *frame,
                         size_t size) noexcept nogil:
    """TCP, and UDP that is not to a DHCP client, from an address of the peer: nearly all there is.

    In a later fragment it is data that may look like that port; then it is looked at closely like the rest.
    """
    return (
        size >= PLAIN4_SIZE and frame[14] == 0x45
        and (
            frame[23] == PROTOCOL_TCP
            or (frame[23] == PROTOCOL_UDP and load16(frame + 36) != PORT_DHCP_CLIENT)
        )
        and owns4(owned, neighbours, load32(frame + 26))
    )


cdef inline bint _plain6(const Owned *owned, Table *neighbours, const uint8_t *frame,
                         size_t size) noexcept nogil:
    return (
        size >= PLAIN6_SIZE and frame[14] >> 4 == 6
        and (
            frame[20] == PROTOCOL_TCP
            or (frame[20] == PROTOCOL_UDP and load16(frame + 56) != PORT_DHCPV6_CLIENT)
        )
        and owns6(owned, neighbours, load64(frame + 22), load64(frame + 30))
    )


cdef int origin_judge(const Owned *owned, Table *neighbours, const uint8_t *frame, size_t size,
                      Claim *claim) noexcept nogil:
    """ORIGIN_FINE, or the reason why not.  `size` is 14 at least; `claim` is written if it is refused."""
    cdef uint16_t ethertype = load16(frame + 12)
    if ethertype == ETHERTYPE_IPV4 and _plain4(owned, neighbours, frame, size):
        return ORIGIN_FINE
    if ethertype == ETHERTYPE_IPV6 and _plain6(owned, neighbours, frame, size):
        return ORIGIN_FINE
    claim.mac = load48(frame + 6)
    claim.address[0] = claim.address[1] = 0
    return _closely(owned, neighbours, frame, size, claim)


cdef int _closely(const Owned *owned, Table *neighbours, const uint8_t *frame, size_t size,
                  Claim *claim) noexcept nogil:
    cdef Packet packet
    if not dissect(&packet, frame, size):
        return DropReason.MALFORMED_PACKET
    if packet.ethertype == ETHERTYPE_ARP:
        return _arp(owned, neighbours, packet.body, packet.body_size, claim)
    if not packet.ip:
        return DropReason.MALFORMED_PACKET if _hides_ip(&packet) else ORIGIN_FINE
    claim.address[0] = packet.source[0]
    claim.address[1] = packet.source[1]
    if not _may_send(owned, neighbours, &packet):
        return DropReason.SPOOFED_ADDRESS
    if packet.part == PART_LATER:
        return ORIGIN_FINE
    if packet.protocol == PROTOCOL_UDP:
        if not owned.dhcp and packet.destination_port == (
            PORT_DHCPV6_CLIENT if packet.ipv6 else PORT_DHCP_CLIENT
        ):
            return DropReason.DHCP_GUARD
    elif packet.protocol == PROTOCOL_ICMPV6 and packet.ipv6:
        return _icmpv6(owned, neighbours, &packet, claim)
    elif packet.protocol == PROTOCOL_ICMP and not packet.ipv6:
        if not owned.router and (packet.body[0] == ICMP_REDIRECT or packet.body[0] == ICMP_ROUTER):
            return DropReason.RA_GUARD
    return ORIGIN_FINE


cdef inline bint _hides_ip(const Packet *packet) noexcept nogil:
    """IP or ARP behind an LLC/SNAP header, which some systems read as if it stood alone."""
    cdef const uint8_t *llc = packet.body
    cdef uint16_t ethertype
    if packet.ethertype >= LEAST_ETHERTYPE or packet.body_size < SNAP_SIZE:
        return False
    ethertype = load16(llc + 6)
    return llc[0] == 0xAA and llc[1] == 0xAA and (
        ethertype == ETHERTYPE_IPV4 or ethertype == ETHERTYPE_ARP or ethertype == ETHERTYPE_IPV6
    )


cdef inline bint _owns(const Owned *owned, Table *neighbours, const uint64_t *address,
                       bint ipv6) noexcept nogil:
    if ipv6:
        return owns6(owned, neighbours, address[0], address[1])
    return owns4(owned, neighbours, <uint32_t>address[1])


cdef bint _may_send(const Owned *owned, Table *neighbours, const Packet *packet) noexcept nogil:
    """From an address of the peer's; without one, what asks for an address or for groups."""
    cdef uint8_t kind
    if packet.ipv6 and packet.source[0] == 0 and packet.source[1] == 0:
        if packet.protocol != PROTOCOL_ICMPV6 or packet.body == NULL:
            return False
        kind = packet.body[0]
        return (
            kind == SOLICITATION or kind == ROUTER_SOLICITATION or kind == LISTENER_REPORT
            or kind == LISTENER_DONE or kind == LISTENER_REPORT2
        )
    if not packet.ipv6 and <uint32_t>packet.source[1] == 0:
        return packet.protocol == PROTOCOL_IGMP or (
            packet.ports and packet.protocol == PROTOCOL_UDP and packet.destination_port == PORT_DHCP_SERVER
        )
    return _owns(owned, neighbours, packet.source, packet.ipv6)


cdef int _arp(const Owned *owned, Table *neighbours, const uint8_t *arp, size_t size,
              Claim *claim) noexcept nogil:
    """hardware 1, protocol 0x0800, sizes 6 and 4, operation | MAC, address of the sender | of the target."""
    cdef uint32_t sender
    if size < ARP_SIZE or load48(arp) != <uint64_t>0x000108000604:
        return DropReason.MALFORMED_PACKET
    sender = load32(arp + 14)
    claim.address[1] = <uint64_t>IPV4_MAPPED << 32 | sender
    if load48(arp + 8) != claim.mac:
        claim.mac = load48(arp + 8)
        return DropReason.SPOOFED_ADDRESS
    if sender != 0 and not owns4(owned, neighbours, sender):
        return DropReason.SPOOFED_ADDRESS
    return ORIGIN_FINE


cdef int _icmpv6(const Owned *owned, Table *neighbours, const Packet *packet,
                 Claim *claim) noexcept nogil:
    cdef uint8_t kind = packet.body[0]
    if kind < ROUTER_SOLICITATION or kind > REDIRECT:
        return ORIGIN_FINE
    if packet.fragment:
        return DropReason.RA_GUARD
    if not owned.router and (kind == ROUTER_ADVERTISEMENT or kind == REDIRECT):
        return DropReason.RA_GUARD
    return _discovery(owned, neighbours, packet, claim)


cdef int _discovery(const Owned *owned, Table *neighbours, const Packet *packet,
                    Claim *claim) noexcept nogil:
    """Whose address is meant, and the link-layer addresses in the options."""
    cdef uint8_t kind = packet.body[0]
    cdef size_t options = 24
    cdef uint64_t target[2]
    if kind == ROUTER_SOLICITATION:
        options = 8
    elif kind == ROUTER_ADVERTISEMENT:
        options = 16
    elif kind == REDIRECT:
        options = 40
    if packet.body_size < options:
        return DropReason.MALFORMED_PACKET
    if kind == ADVERTISEMENT or (kind == SOLICITATION and packet.source[0] == 0 and packet.source[1] == 0):
        target[0] = load64(packet.body + 8)
        target[1] = load64(packet.body + 16)
        if not owns6(owned, neighbours, target[0], target[1]):
            claim.address[0] = target[0]
            claim.address[1] = target[1]
            return DropReason.SPOOFED_ADDRESS
    return _options(packet.body + options, packet.body_size - options, kind == REDIRECT, claim)


cdef int _options(const uint8_t *option, size_t left, bint redirect, Claim *claim) noexcept nogil:
    """The target of a redirect is somebody else by its nature."""
    cdef size_t length, _count
    for _count in range(<size_t>OPTIONS):
        if left == 0:
            return ORIGIN_FINE
        if left < 8 or option[1] == 0 or <size_t>option[1] * 8 > left:
            break
        length = <size_t>option[1] * 8
        if option[0] == OPTION_SOURCE or (option[0] == OPTION_TARGET and not redirect):
            if load48(option + 2) != claim.mac:
                claim.mac = load48(option + 2)
                return DropReason.SPOOFED_ADDRESS
        option += length
        left -= length
    return DropReason.MALFORMED_PACKET


# ---- boundary --------------------------------------------------------------------------------


@cython.final
cdef class Origins:
    cdef Grace *grace
    cdef Table neighbours
    cdef void *owned[ORIGINS_PEERS]

    def __cinit__(self):
        self.grace = grace_new()
        if self.grace == NULL or not table_init(&self.neighbours, self.grace):
            raise MemoryError("no memory for a table")

    def __dealloc__(self):
        cdef size_t i
        for i in range(<size_t>ORIGINS_PEERS):
            free(self.owned[i])
        table_free(&self.neighbours, neighbours_nobody)
        grace_free(self.grace)

    def set_sources(self, peer, mac, prefixes, *, others=False, dhcp=False, router=False):
        cdef size_t number = unsigned(peer, ORIGINS_PEERS - 1, "peer")
        cdef const uint8_t[::1] address = sized(mac, 6, "MAC address")
        owned_set(&self.neighbours, &self.owned[number], number, load48(&address[0]), prefixes,
                  bool(others), bool(dhcp), bool(router))
        grace_reclaim(self.grace)

    def judge(self, peer, frame):
        cdef size_t number = unsigned(peer, ORIGINS_PEERS - 1, "peer")
        cdef const uint8_t[::1] view = buffer_of(frame, "frame")
        cdef Claim claim
        cdef int verdict
        if view.shape[0] < ETHERNET_HEADER_SIZE:
            raise ValueError("a frame has 14 bytes at least")
        if self.owned[number] == NULL:
            return "pass"
        verdict = origin_judge(<Owned *>self.owned[number], &self.neighbours, &view[0], view.shape[0], &claim)
        return "pass" if verdict == ORIGIN_FINE else REASONS(verdict).name.lower()

    def resolve(self, mac, frame):
        cdef const uint8_t[::1] view = buffer_of(frame, "frame")
        cdef const uint8_t[::1] address = sized(mac, 6, "MAC address")
        cdef uint8_t reply[REPLY_ROOM]
        cdef size_t size
        if view.shape[0] < ETHERNET_HEADER_SIZE:
            raise ValueError("a frame has 14 bytes at least")
        size = resolve(&self.neighbours, load48(&address[0]), &view[0], view.shape[0], reply)
        return reply[:size] if size else None

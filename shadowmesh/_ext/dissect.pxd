"""What the firewall and the guards need to know of an Ethernet frame."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    NO_VLAN = 0xFFFF
    NO_PROTOCOL = 0x200        # not IP: no rule that asks for a protocol matches
    PROTOCOL_ICMP = 1
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_ICMPV6 = 58
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IPV6 = 0x86DD

cdef enum FragmentPart:
    PART_WHOLE                 # not fragmented
    PART_FIRST                 # has the transport header
    PART_LATER                 # has none

cdef enum IcmpRole:
    ICMP_OTHER                 # or no ICMP
    ICMP_REQUEST               # echo
    ICMP_REPLY
    ICMP_ERROR                 # quotes the packet that it is about

cdef struct Packet:
    uint16_t ethertype         # behind the VLAN tags
    uint16_t vlan              # of the outer tag; NO_VLAN without one, or for a mere priority tag
    uint16_t inner             # of the inner tag
    uint16_t protocol          # of IP, behind the extension headers
    bint ip
    bint ipv6
    bint ports                 # TCP or UDP, and not a later fragment
    bint resolution            # ARP, or a neighbour solicitation or advertisement
    FragmentPart part
    bint fragment              # IPv6 with a fragment header, be it of a whole packet (RFC 6946)
    uint32_t datagram          # id that fragments of one datagram share
    uint16_t source_port
    uint16_t destination_port
    uint64_t source[2]         # big-endian; IPv4 as ::ffff:a.b.c.d
    uint64_t destination[2]
    uint8_t tcp_flags
    IcmpRole role
    uint16_t echo              # identifier of an echo
    const uint8_t *body        # behind the headers of Ethernet and IP; NULL in later fragments
    size_t body_size
    const uint8_t *quoted      # of an ICMP error: the packet that it is about
    size_t quoted_size

cdef struct Brief:             # what tells connections apart, of a frame that nothing else has to be known of
    uint64_t words[4]          # addresses as they stand in the frame; IPv4: both in the first
    uint32_t ports
    uint32_t kind              # ethertype << 16 | protocol; never 0

cdef bint dissect_brief(Brief *brief, const uint8_t *frame, size_t size) noexcept nogil
cdef bint dissect(Packet *packet, const uint8_t *frame, size_t size) noexcept nogil
cdef bint dissect_quoted(Packet *packet, const Packet *error) noexcept nogil

"""ARP requests and neighbour solicitations of our own host, answered in the place of the peer that is meant.

So nobody else hears of them.  Does NOT answer what is about an address of no peer: that may be a member
whom nobody has met yet, and it is flooded.  Nor what is in a VLAN: who is in it, is not known here.

Sources: RFC 826, 5227 (probes get an answer too: the address is taken), 4861 sections 4.3, 4.4 and 7.2.4.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

from shadowmesh._ext.bytes cimport load16, load32, load48, load64, store16, store32, store48
from shadowmesh._ext.checksum cimport checksum_finish, checksum_fold
from shadowmesh._ext.dissect cimport ETHERTYPE_ARP, ETHERTYPE_IPV6, PROTOCOL_ICMPV6
from shadowmesh._ext.ownership cimport IPV4_MAPPED, Neighbour, neighbour_find


cdef enum:
    ARP_FRAME = 42
    REQUEST = 1
    REPLY = 2
    IPV6 = 14                  # offsets in a frame without tags
    ICMPV6 = 54
    TARGET = 62
    OPTION = 78
    SOLICITATION = 135
    ADVERTISEMENT = 136
    HOP_LIMIT = 255
    IS_ROUTER = 0x80
    SOLICITED = 0x40
    OVERRIDE = 0x20
    TARGET_ADDRESS = 2


cdef size_t resolve(Table *neighbours, uint64_t mac, const uint8_t *frame, size_t size,
                    uint8_t *reply) noexcept nogil:
    """Write the answer to a frame of ours to a group; its size, or 0 if there is none."""
    cdef uint16_t ethertype = load16(frame + 12)
    if ethertype == ETHERTYPE_ARP and size >= ARP_FRAME:
        return _arp(neighbours, mac, frame, reply)
    if ethertype == ETHERTYPE_IPV6 and size >= OPTION:
        return _solicitation(neighbours, mac, frame, size, reply)
    return 0


cdef const Neighbour *_peer(Table *neighbours, uint64_t high, uint64_t low) noexcept nogil:
    cdef const Neighbour *found = neighbour_find(neighbours, high, low)
    if found != NULL and found.number == 0:
        return NULL
    return found


cdef size_t _arp(Table *neighbours, uint64_t mac, const uint8_t *frame, uint8_t *reply) noexcept nogil:
    cdef uint32_t sender = load32(frame + 28), target = load32(frame + 38)
    cdef const Neighbour *peer
    if load64(frame + 14) != (<uint64_t>0x000108000604 << 16 | REQUEST) or load48(frame + 22) != mac:
        return 0
    if sender == target:
        return 0  # an announcement asks for nothing
    peer = _peer(neighbours, 0, <uint64_t>IPV4_MAPPED << 32 | target)
    if peer == NULL:
        return 0
    memcpy(reply + 12, frame + 12, 8)
    store48(reply, mac)
    store48(reply + 6, peer.mac)
    store16(reply + 20, REPLY)
    store48(reply + 22, peer.mac)
    store32(reply + 28, target)
    store48(reply + 32, mac)
    store32(reply + 38, sender)
    return ARP_FRAME


cdef size_t _solicitation(Table *neighbours, uint64_t mac, const uint8_t *frame, size_t size,
                          uint8_t *reply) noexcept nogil:
    cdef const Neighbour *peer
    if (
        frame[IPV6] >> 4 != 6 or frame[20] != PROTOCOL_ICMPV6 or frame[21] != HOP_LIMIT
        or frame[ICMPV6] != SOLICITATION or frame[ICMPV6 + 1] != 0
        or load16(frame + 18) < OPTION - ICMPV6 or <size_t>load16(frame + 18) + ICMPV6 > size
    ):
        return 0
    peer = _peer(neighbours, load64(frame + TARGET), load64(frame + TARGET + 8))
    if peer == NULL:
        return 0
    return _advertise(peer, mac, frame, reply)


cdef size_t _advertise(const Neighbour *peer, uint64_t mac, const uint8_t *frame,
                       uint8_t *reply) noexcept nogil:
    """To who asked; whoever has no address yet (duplicate address detection) is told as one of all nodes."""
    cdef bint nobody = load64(frame + 22) == 0 and load64(frame + 30) == 0
    cdef uint64_t total = REPLY_ROOM - ICMPV6 + PROTOCOL_ICMPV6
    cdef size_t i
    memset(reply, 0, REPLY_ROOM)
    store48(reply, <uint64_t>0x333300000001 if nobody else mac)
    store48(reply + 6, peer.mac)
    store16(reply + 12, ETHERTYPE_IPV6)
    reply[IPV6] = 0x60
    store16(reply + 18, REPLY_ROOM - ICMPV6)
    reply[20] = PROTOCOL_ICMPV6
    reply[21] = HOP_LIMIT
    memcpy(reply + 22, frame + TARGET, 16)
    if nobody:
        store16(reply + 38, 0xFF02)
        reply[53] = 1
    else:
        memcpy(reply + 38, frame + 22, 16)
    reply[ICMPV6] = ADVERTISEMENT
    reply[ICMPV6 + 4] = <uint8_t>(
        OVERRIDE | (0 if nobody else SOLICITED) | (IS_ROUTER if peer.router else 0)
    )
    memcpy(reply + TARGET, frame + TARGET, 16)
    reply[OPTION] = TARGET_ADDRESS
    reply[OPTION + 1] = 1
    store48(reply + OPTION + 2, peer.mac)
    for i in range(22, <size_t>ICMPV6, 2):
        total += load16(reply + i)
    store16(reply + ICMPV6 + 2, checksum_fold(total))
    checksum_finish(reply, REPLY_ROOM, ICMPV6, 2)
    return REPLY_ROOM

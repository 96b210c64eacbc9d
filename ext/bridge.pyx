"""Bridging: what may come from and go to stations, and behind which member they are.

Does NOT keep stations (fdb.pyx), detect loops or open and block the port (shadowmesh/overlay/bridge.py).

Three kinds of MAC address: our own (of the TAP, and of the bridge that it is in), those of members, which
no station can have, and stations.  Stations are learned from authenticated frames only: far ones behind
the member whose session brought the frame, near ones from our TAP.  No frame that came from a member goes
back to any member (split horizon): nothing here sends, and what the bridge returns through the TAP has the
MAC of a member or of a far station, which is dropped (`looped`).

A port that does not forward carries only unicast frames between members' own MACs and ours.  One whose TAP
brings a frame of a station that is heard behind a member delivers no floods for a moment: if there is a loop,
what we would put into the bridge goes round, and before the next probe finds it this would be a storm.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport (
    add_relaxed,
    load_acquire,
    load_flag,
    load_pointer,
    load_relaxed,
    store_pointer,
    store_relaxed,
)
from shadowmesh._ext.bytes cimport load16, load48
from shadowmesh._ext.convert cimport sized, unsigned
from shadowmesh._ext.dissect cimport PROTOCOL_UDP, Packet, dissect
from shadowmesh._ext.drops cimport DropReason, drop
from shadowmesh._ext.fdb cimport (
    FDB_BUCKETS,
    FDB_CLAIMED,
    FDB_SHARE,
    FDB_WAYS,
    Seen,
    fdb_find,
    fdb_free,
    fdb_fresh,
    fdb_init,
    fdb_key,
    fdb_learn,
)
from shadowmesh._ext.packets cimport ETHERNET_HEADER_SIZE
from shadowmesh._ext.peers cimport PeerList, plain_dispose
from shadowmesh._ext.refusals cimport Claim, refuse
from shadowmesh._ext.tables cimport grace_retire, table_find


cdef enum:
    VLAN_SIZE = 4
    ETHERTYPE_VLAN = 0x8100        # IEEE 802.1Q customer tag
    ETHERTYPE_SERVICE_VLAN = 0x88A8
    PROBE_SIZE = 22                # MAC of the member that sent it, nonce

cdef uint64_t HOLD = 1000000000        # nanoseconds: as long as it takes until the next probe
cdef uint64_t HOLD_AGAIN = 30          # holds: who claims a station must not keep floods out for good

cdef uint64_t MAC_MASK = 0xFFFFFFFFFFFF
cdef uint64_t PROBE_GROUP = 0x03534D4C4F50  # a locally administered group address: bridges flood it
cdef uint64_t LINK_LOCAL = 0x0180C200000    # IEEE 802.1Q-2018 table 8-1, without the last four bits


cdef bint bridge_init(Bridge *bridge, Table *macs) noexcept nogil:
    """Of a zeroed structure; False: no memory."""
    bridge.macs = macs
    bridge.members = calloc(1, sizeof(PeerList))
    return (
        bridge.members != NULL
        and fdb_init(&bridge.far, FDB_BUCKETS, FDB_SHARE)
        and fdb_init(&bridge.near, FDB_BUCKETS, FDB_BUCKETS * FDB_WAYS)
    )


cdef void bridge_free(Bridge *bridge) noexcept nogil:
    """When no thread runs any more."""
    free(bridge.members)
    bridge.members = NULL
    fdb_free(&bridge.far)
    fdb_free(&bridge.near)


# ---- the writer ------------------------------------------------------------------------------


cdef int bridge_open(Bridge *bridge, object mac, object udp_port, object vlans) except -1:
    """Before the threads run."""
    cdef const uint8_t[::1] view = sized(mac, 6, "MAC address")
    cdef uint64_t port = unsigned(udp_port, 0xFFFF, "udp_port")
    cdef list numbers = [unsigned(vlan, 4094, "vlan") for vlan in vlans]
    if view[0] & 1:
        raise ValueError("a bridge's MAC address must not be a group address")
    for vlan in numbers:
        bridge.vlans[<size_t>vlan // 64] |= <uint64_t>1 << <size_t>vlan % 64
    bridge.filtered = bool(numbers)
    bridge.udp_port = <uint16_t>port
    bridge.mac = load48(&view[0])
    return 0


cdef int bridge_publish(Bridge *bridge, Grace *grace, Peer **peers, size_t limit,
                        const Peer *without) except -1:
    """Replace the list of members that may bridge."""
    cdef PeerList *old = <PeerList *>bridge.members
    cdef PeerList *made = <PeerList *>calloc(1, sizeof(PeerList) + limit * sizeof(Peer *))
    cdef size_t i
    if made == NULL:
        raise MemoryError("no memory for the list of bridging members")
    made.peers = <Peer **>(made + 1)
    for i in range(limit):
        if peers[i] != NULL and peers[i] != without and peers[i].bridging:
            made.peers[made.count] = peers[i]
            made.count += 1
    store_pointer(&bridge.members, made)
    grace_retire(grace, &old.retired, plain_dispose)
    return 0


cdef dict bridge_counters(Bridge *bridge):
    return {
        "near": load_relaxed(&bridge.near.used),
        "far": load_relaxed(&bridge.far.used),
        "not_learned": load_relaxed(&bridge.near.refused) + load_relaxed(&bridge.far.refused),
        "reflected": load_relaxed(&bridge.reflected),
    }


# ---- what a frame is -------------------------------------------------------------------------


cdef inline bint _is_tag(uint16_t ethertype) noexcept nogil:
    return ethertype == ETHERTYPE_VLAN or ethertype == ETHERTYPE_SERVICE_VLAN


cdef inline bint _tagged(const uint8_t *frame, size_t size) noexcept nogil:
    return size >= ETHERNET_HEADER_SIZE + VLAN_SIZE and _is_tag(load16(frame + 12))


cdef inline uint64_t _vlan(const uint8_t *frame, size_t size) noexcept nogil:
    """Of the outer tag that is no mere priority tag, as in dissect.pyx; 0 without one."""
    cdef size_t at = ETHERNET_HEADER_SIZE
    cdef uint16_t vlan
    while size >= at + VLAN_SIZE and _is_tag(load16(frame + at - 2)):
        vlan = load16(frame + at) & 0xFFF
        if vlan != 0:
            return vlan
        at += VLAN_SIZE
    return 0


cdef inline bint _link_local(const uint8_t *frame) noexcept nogil:
    """What concerns one link and no bridge forwards: STP, LACP, LLDP, PAUSE."""
    return load48(frame) >> 4 == LINK_LOCAL


cdef inline const uint8_t *_probe(const uint8_t *frame, size_t size) noexcept nogil:
    """The MAC in a loop probe, of the member that sent it; NULL if the frame is none."""
    cdef size_t header = ETHERNET_HEADER_SIZE
    if load48(frame) != PROBE_GROUP:
        return NULL
    if _tagged(frame, size):
        header += VLAN_SIZE
    if size < header + PROBE_SIZE or load16(frame + header - 2) != ETHERTYPE_PROBE:
        return NULL
    return frame + header


cdef inline bint _carried(const Bridge *bridge, uint64_t vlan) noexcept nogil:
    return not bridge.filtered or vlan == 0 or bridge.vlans[vlan // 64] >> vlan % 64 & 1


cdef Peer *bridge_origin(Bridge *bridge, const uint8_t *frame, size_t size) noexcept nogil:
    """The member that sent this loop probe, NULL if it is none of ours."""
    return <Peer *>table_find(bridge.macs, load48(_probe(frame, size)))


cdef Crossing _refuse(Counters *counters, DropReason reason) noexcept nogil:
    drop(counters, reason)
    return CROSSING_DROP


cdef Crossing _spoofed(Counters *counters, Peer *peer, uint64_t source) noexcept nogil:
    cdef Claim claim
    claim.mac = source
    claim.address[0] = claim.address[1] = 0
    refuse(counters, &peer.refusals, DropReason.SPOOFED_SOURCE, &claim)
    return CROSSING_DROP


# ---- from a member ---------------------------------------------------------------------------


cdef Crossing bridge_lets_in(Bridge *bridge, Peer *peer, const uint8_t *frame, size_t size, uint64_t now,
                             Counters *counters) noexcept nogil:
    """May this frame of `peer` go to the TAP?  `size` >= 14."""
    cdef uint64_t port = load_acquire(&bridge.port)
    cdef uint64_t source = load48(frame + 6)
    cdef uint64_t key
    if source != peer.mac:
        if not load_flag(&peer.bridging):
            return _spoofed(counters, peer, source)
        if _probe(frame, size) != NULL:
            if port == PORT_OFF or load48(_probe(frame, size)) != bridge.own:
                return _refuse(counters, DropReason.NOT_FOR_US)
            return CROSSING_PROBE
        if not _learn_far(bridge, port, peer, frame, size, now, counters):
            return CROSSING_DROP
    if frame[0] & 1 and _link_local(frame):
        return _refuse(counters, DropReason.LINK_LOCAL_GROUP)
    if port == PORT_OFF:
        if frame[0] & 1 or load48(frame) == bridge.own:
            return CROSSING_PASS
        return _refuse(counters, DropReason.NOT_FOR_US)
    key = fdb_key(_vlan(frame, size), load48(frame))
    if not _carried(bridge, key >> 48):
        return _refuse(counters, DropReason.VLAN_NOT_CARRIED)
    if load48(frame) == bridge.own or load48(frame) == bridge.mac:
        if port == PORT_FORWARDING or source == peer.mac:
            return CROSSING_PASS
        return _refuse(counters, DropReason.BRIDGE_BLOCKED)
    if port != PORT_FORWARDING or _held(bridge, frame, key, now):
        return _refuse(counters, DropReason.BRIDGE_BLOCKED)
    if not frame[0] & 1 and (table_find(bridge.macs, load48(frame)) != NULL
                             or _elsewhere(bridge, key, now)):
        return _refuse(counters, DropReason.NOT_FOR_US)
    return CROSSING_PASS


cdef bint _learn_far(Bridge *bridge, uint64_t port, Peer *peer, const uint8_t *frame, size_t size,
                     uint64_t now, Counters *counters) noexcept nogil:
    """A member that may bridge sends under a MAC that is not its own: False (and counted) if it may not."""
    cdef uint64_t source = load48(frame + 6)
    cdef uint64_t key = fdb_key(_vlan(frame, size), source)
    if frame[6] & 1 or source == 0 or table_find(bridge.macs, source) != NULL:
        _spoofed(counters, peer, source)
    elif source == bridge.own or source == bridge.mac or port != PORT_OFF and fdb_fresh(
        &bridge.near, key, now
    ):
        drop(counters, DropReason.LOOPED)
    elif fdb_learn(&bridge.far, key, peer.number << 48 | peer.mac, now) == FDB_CLAIMED:
        drop(counters, DropReason.CLAIMED_STATION)
    else:
        return True
    return False


cdef bint _held(Bridge *bridge, const uint8_t *frame, uint64_t key, uint64_t now) noexcept nogil:
    """Would the bridge flood this frame, just now that there may be a loop?"""
    cdef Seen seen
    return load_relaxed(&bridge.held_until) > now and (
        frame[0] & 1 or not fdb_find(&bridge.near, key, now, &seen)
    )


cdef bint _elsewhere(Bridge *bridge, uint64_t key, uint64_t now) noexcept nogil:
    """Is this station behind another member?  Where it was heard last decides."""
    cdef Seen far, near
    if not fdb_find(&bridge.far, key, now, &far):
        return False
    return not fdb_find(&bridge.near, key, now, &near) or near.heard < far.heard


# ---- from the TAP ----------------------------------------------------------------------------


cdef Crossing bridge_lets_out(Bridge *bridge, const uint8_t *frame, size_t size, uint64_t now,
                              Counters *counters) noexcept nogil:
    """May this frame from the TAP go to members?  `size` >= 14."""
    cdef uint64_t port = load_acquire(&bridge.port)
    cdef uint64_t source = load48(frame + 6)
    if frame[0] & 1 and _link_local(frame):
        return _refuse(counters, DropReason.LINK_LOCAL_GROUP)
    if port == PORT_OFF:
        return CROSSING_PASS if source == bridge.own else _refuse(counters, DropReason.FOREIGN_SOURCE)
    if _probe(frame, size) != NULL:
        return _probe_back(bridge, port, _probe(frame, size), counters)
    if not _carried(bridge, _vlan(frame, size)):
        return _refuse(counters, DropReason.VLAN_NOT_CARRIED)
    if source == bridge.own or source == bridge.mac:
        if _our_datagram(bridge, frame, size):
            return _refuse(counters, DropReason.OWN_DATAGRAM)
        if port == PORT_FORWARDING or table_find(bridge.macs, load48(frame)) != NULL:
            return CROSSING_PASS
        return _refuse(counters, DropReason.BRIDGE_BLOCKED)
    if port != PORT_FORWARDING:
        return _refuse(counters, DropReason.BRIDGE_BLOCKED)
    if frame[6] & 1 or source == 0:
        return _refuse(counters, DropReason.FOREIGN_SOURCE)
    if table_find(bridge.macs, source) != NULL:
        return _refuse(counters, DropReason.LOOPED)
    if fdb_fresh(&bridge.far, fdb_key(_vlan(frame, size), source), now):
        if now >= bridge.hold_again:  # no probe came back since: it was no loop, but a claim
            store_relaxed(&bridge.held_until, now + HOLD)
            bridge.hold_again = now + HOLD_AGAIN * HOLD
        return _refuse(counters, DropReason.LOOPED)
    fdb_learn(&bridge.near, fdb_key(_vlan(frame, size), source), 0, now)
    return CROSSING_PASS


cdef bint _our_datagram(const Bridge *bridge, const uint8_t *frame, size_t size) noexcept nogil:
    """Did our socket send this?  Through our own TAP it would be sealed and sent again, without end.

    A member's address in a network that the bridge has become part of seems to be next door.
    """
    cdef Packet packet
    return (
        dissect(&packet, frame, size) and packet.ports and packet.protocol == PROTOCOL_UDP
        and packet.source_port == bridge.udp_port
    )


cdef Crossing _probe_back(Bridge *bridge, uint64_t port, const uint8_t *origin,
                          Counters *counters) noexcept nogil:
    """Whoever sent it learns by our sending it back that its port and ours are one network."""
    if load48(origin) == bridge.own:
        add_relaxed(&bridge.reflected, 1)
        return _refuse(counters, DropReason.LOOPED)
    if port == PORT_BLOCKED:
        return _refuse(counters, DropReason.BRIDGE_BLOCKED)
    return CROSSING_PROBE


cdef Peer *bridge_find(Bridge *bridge, const uint8_t *frame, size_t size, uint64_t now) noexcept nogil:
    """The member behind which the destination was heard last; NULL: nowhere, or it may not bridge."""
    cdef Seen seen
    cdef Peer *peer
    cdef PeerList *members = <PeerList *>load_pointer(&bridge.members)
    if members.count == 0 or not fdb_find(
        &bridge.far, fdb_key(_vlan(frame, size), load48(frame)), now, &seen
    ):
        return NULL
    peer = <Peer *>table_find(bridge.macs, seen.place & MAC_MASK)
    if peer == NULL or peer.number != seen.place >> 48 or not load_flag(&peer.bridging):
        return NULL
    return peer

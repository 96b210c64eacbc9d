"""The firewall: which frames may go on, by compiled rules and by the connections that passed before.

Does NOT parse (dissect.pyx), keep flows (flows.pyx) or install rules (firewall.pyx); their language is
Python's (shadowmesh/overlay/firewall.py), and docs/firewall.md says what a frame meets, in this order:

1. malformed: dropped;
2. a connection that is known: it passes, whichever its direction, as long as the rules of now would still let
   it be opened (asked once after they changed);
3. the rules of the peer's class in this direction, the first that matches; else the default.

ARP, and neighbour solicitations and advertisements, meet only rules that name an ethertype, and pass
if none does.
"""

from libc.stdint cimport uint16_t, uint32_t

from shadowmesh._ext.atomic cimport add_relaxed
from shadowmesh._ext.dissect cimport (
    ICMP_ERROR,
    ICMP_REPLY,
    ICMP_REQUEST,
    PART_FIRST,
    PART_LATER,
    PROTOCOL_TCP,
    Brief,
    Packet,
    dissect,
    dissect_brief,
    dissect_quoted,
)
from shadowmesh._ext.firewall cimport (
    ANY_ETHERTYPE,
    ANY_PROTOCOL,
    ANY_VLAN,
    FLAG_ADDRESSES,
    FLAG_ETHERTYPE,
    FLAG_PORTS,
    Entry,
    Span,
)
from shadowmesh._ext.flows cimport (
    FLOW_CONNECTION,
    FLOW_DENIED,
    FLOW_FIN,
    FLOW_FRAGMENTS,
    FLOW_RESET,
    FlowKey,
    Flows,
    Seen,
    flow_again,
    flow_answer,
    flow_closing,
    flow_find,
    flow_forget,
    flow_generation,
    flow_hash,
    flow_keep,
    flow_open,
    flow_remember,
    flow_rule,
    flow_state,
)
from shadowmesh._ext.segment cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN


cdef enum:
    SECOND = 1000000000


cdef struct Frame:             # what is judged, and by what
    Policy *policy
    size_t direction
    uint64_t number            # of the peer
    uint64_t serial            # of the peer: never that of another one
    uint32_t now
    bint brief_known
    Brief brief                # if `brief_known`
    Packet packet


# ---- rules -----------------------------------------------------------------------------------


cdef inline bint _in_prefix(const uint64_t *address, const uint64_t *prefix,
                            const uint64_t *mask) noexcept nogil:
    return (address[0] ^ prefix[0]) & mask[0] == 0 and (address[1] ^ prefix[1]) & mask[1] == 0


cdef inline bint _matches(const Entry *entry, const Packet *packet) noexcept nogil:
    if entry.protocol != ANY_PROTOCOL and entry.protocol != packet.protocol:
        return False
    if entry.flags & FLAG_PORTS and (
        not packet.ports
        or packet.destination_port < entry.destination_low or packet.destination_port > entry.destination_high
        or packet.source_port < entry.source_low or packet.source_port > entry.source_high
    ):
        return False
    if entry.ethertype != ANY_ETHERTYPE and entry.ethertype != packet.ethertype:
        return False
    if entry.vlan != ANY_VLAN and entry.vlan != packet.vlan:
        return False
    if packet.resolution and not entry.flags & FLAG_ETHERTYPE:
        return False
    return not entry.flags & FLAG_ADDRESSES or (
        packet.ip
        and _in_prefix(packet.source, entry.source, entry.source_mask)
        and _in_prefix(packet.destination, entry.destination, entry.destination_mask)
    )


cdef size_t _first_match(const Frame *frame, size_t direction, const Packet *packet) noexcept nogil:
    """Number of the rule that decides: `rules` for the default, `rules + 1` for ARP and ND."""
    cdef const Policy *policy = frame.policy
    cdef const Span *span = policy.spans + policy.classes[frame.number]
    cdef const uint16_t *order = policy.order + span.first[direction]
    cdef const Entry *entry
    cdef size_t i
    for i in range(span.count[direction]):
        entry = policy.entries + order[i]
        if _matches(entry, packet):
            return entry.rule
    return policy.rules + 1 if packet.resolution else policy.rules


cdef inline bint _allows(const Policy *policy, size_t direction, size_t rule) noexcept nogil:
    if rule < policy.rules:
        return policy.allows[rule]
    return policy.allow_default[direction] if rule == policy.rules else True


cdef Verdict _by_rule(Frame *frame, size_t rule) noexcept nogil:
    add_relaxed(frame.policy.tally.hits[frame.direction] + rule, 1)
    return VERDICT_PASS if _allows(frame.policy, frame.direction, rule) else VERDICT_DENY


cdef Verdict _as_reply(Frame *frame, size_t rule) noexcept nogil:
    add_relaxed(frame.policy.tally.replies[frame.direction] + rule, 1)
    return VERDICT_PASS


# ---- connections -----------------------------------------------------------------------------


cdef void _key(const Frame *frame, size_t direction, const Packet *packet, FlowKey *key) noexcept nogil:
    """The same for both directions of a connection: ours first.  An echo also has who asked in it."""
    cdef const uint64_t *source = &packet.source[0]
    cdef const uint64_t *destination = &packet.destination[0]
    cdef const uint64_t *local = source if direction == DIRECTION_OUT else destination
    cdef const uint64_t *remote = destination if direction == DIRECTION_OUT else source
    cdef uint64_t here, there
    if packet.ports:
        here = packet.source_port if direction == DIRECTION_OUT else packet.destination_port
        there = packet.destination_port if direction == DIRECTION_OUT else packet.source_port
    else:
        here = packet.echo
        there = direction if packet.role == ICMP_REQUEST else 1 - direction
    key.words[0] = local[0]
    key.words[1] = local[1]
    key.words[2] = remote[0]
    key.words[3] = remote[1]
    key.words[4] = frame.serial << 32 | here << 16 | there
    key.words[5] = (
        <uint64_t>packet.vlan << 48 | <uint64_t>packet.inner << 32 | <uint64_t>packet.protocol << 16
        | <uint64_t>packet.ipv6 << 8 | FLOW_CONNECTION
    )
    flow_hash(frame.policy.flows, key)


cdef void _fragments_key(const Frame *frame, FlowKey *key) noexcept nogil:
    """Of one datagram in this direction: RFC 791 and RFC 8200 section 4.5 say by what it is known."""
    cdef const Packet *packet = &frame.packet
    cdef size_t i
    for i in range(2):
        key.words[i] = packet.source[i]
        key.words[2 + i] = packet.destination[i]
    key.words[4] = frame.serial << 32 | packet.datagram
    key.words[5] = (
        <uint64_t>packet.vlan << 48 | <uint64_t>packet.inner << 32
        | <uint64_t>(0 if packet.ipv6 else packet.protocol) << 16
        | <uint64_t>packet.ipv6 << 8 | FLOW_FRAGMENTS
    )
    flow_hash(frame.policy.flows, key)


cdef void _turn(const Packet *packet, Packet *turned) noexcept nogil:
    """The packet that this one would answer."""
    cdef size_t i
    turned[0] = packet[0]
    for i in range(2):
        turned.source[i] = packet.destination[i]
        turned.destination[i] = packet.source[i]
    turned.source_port = packet.destination_port
    turned.destination_port = packet.source_port


cdef bint _stands(const Frame *frame, size_t opener, const Packet *first, const Seen *seen,
                  size_t *rule) noexcept nogil:
    """May it go on?  `first`: as a packet of its opening direction; `rule` is the one that lets it.

    A generation comes again after 65,536 others: such an old rule must at least be one that there is.
    """
    rule[0] = flow_rule(seen.state)
    if flow_generation(seen.state) == frame.policy.generation and rule[0] <= frame.policy.rules:
        return not seen.state & FLOW_DENIED
    rule[0] = _first_match(frame, opener, first)
    return _allows(frame.policy, opener, rule[0])


cdef inline bint _is_tracked(const Packet *packet) noexcept nogil:
    return packet.ports or packet.role == ICMP_REQUEST or packet.role == ICMP_REPLY


cdef inline uint64_t _ending(const Packet *packet) noexcept nogil:
    return (
        <uint64_t>(FLOW_FIN if packet.tcp_flags & TCP_FIN else 0)
        | <uint64_t>(FLOW_RESET if packet.tcp_flags & TCP_RST else 0)
    )


cdef inline bint _opens(const Packet *packet) noexcept nogil:
    """TCP begins with its SYN: a connection under way can't be told from one that was denied."""
    if packet.protocol == PROTOCOL_TCP:
        return packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
    return packet.ports or packet.role == ICMP_REQUEST


cdef Verdict _connection(Frame *frame) noexcept nogil:
    cdef Packet *packet = &frame.packet
    cdef Policy *policy = frame.policy
    cdef Flows *own = policy.flows + frame.direction
    cdef Flows *other = policy.flows + (1 - frame.direction)
    cdef Packet turned
    cdef FlowKey key
    cdef Seen seen
    cdef uint64_t flags
    cdef size_t rule = 0
    cdef bint anew = packet.protocol == PROTOCOL_TCP and _opens(packet)
    cdef bint known, stands
    _key(frame, frame.direction, packet, &key)
    known = flow_find(own, &key, frame.now, &seen)
    if known and anew and flow_closing(&seen):
        flow_forget(own, seen.index)
        known = False
    if known:
        stands = _stands(frame, frame.direction, packet, &seen, &rule)
        flags = seen.state & (FLOW_FIN | FLOW_RESET) | _ending(packet)
        flags |= <uint64_t>(0 if stands else FLOW_DENIED)
        flow_keep(own, &seen, flow_state(frame.now, policy.generation, rule, flags))
        if stands:
            if frame.brief_known:
                flow_remember(policy.flows, frame.direction, &frame.brief, &key, &seen, False)
            return _by_rule(frame, rule)
    if flow_find(other, &key, frame.now, &seen) and not (anew and flow_closing(&seen)):
        _turn(packet, &turned)
        if _stands(frame, 1 - frame.direction, &turned, &seen, &rule):
            flow_answer(other, &seen, frame.now, _ending(packet))
            if frame.brief_known and not known:
                flow_remember(policy.flows, frame.direction, &frame.brief, &key, &seen, True)
            return _as_reply(frame, rule)
        known = True
    rule = _first_match(frame, frame.direction, packet)
    if not known and _opens(packet) and _allows(policy, frame.direction, rule):
        flow_open(own, &key, frame.number, flow_state(frame.now, policy.generation, rule, 0), frame.now)
    return _by_rule(frame, rule)


cdef bint _again(Frame *frame) noexcept nogil:
    """A frame like one before, in a connection that is as it was then: it passes, without being taken apart.

    What `_connection` would do, without its looking up and without the hash.
    """
    cdef Policy *policy = frame.policy
    cdef bint answers = False
    cdef size_t rule = flow_again(policy.flows, frame.direction, &frame.brief, <uint32_t>frame.serial,
                                  policy.generation, frame.now, &answers)
    if rule > policy.rules:  # FLOW_NONE is, too
        return False
    if answers:
        _as_reply(frame, rule)
    else:
        _by_rule(frame, rule)
    return True


cdef void _expect_fragments(Frame *frame) noexcept nogil:
    """The first fragment passed: so may the others of its datagram."""
    cdef Flows *own = frame.policy.flows + frame.direction
    cdef FlowKey key
    cdef Seen seen
    _fragments_key(frame, &key)
    if flow_find(own, &key, frame.now, &seen):
        flow_keep(own, &seen, flow_state(frame.now, 0, 0, 0))
    else:
        flow_open(own, &key, frame.number, flow_state(frame.now, 0, 0, 0), frame.now)


cdef Verdict _later_fragment(Frame *frame) noexcept nogil:
    cdef FlowKey key
    cdef Seen seen
    _fragments_key(frame, &key)
    if flow_find(frame.policy.flows + frame.direction, &key, frame.now, &seen):
        return VERDICT_PASS
    return _by_rule(frame, _first_match(frame, frame.direction, &frame.packet))


cdef Verdict _icmp_error(Frame *frame) noexcept nogil:
    """About a packet that went the other way, in a connection that may go on; else by the rules."""
    cdef size_t direction = 1 - frame.direction
    cdef Packet quoted, turned
    cdef FlowKey key
    cdef Seen seen
    cdef size_t rule = 0
    if dissect_quoted(&quoted, &frame.packet) and _is_tracked(&quoted):
        _key(frame, direction, &quoted, &key)
        if flow_find(frame.policy.flows + direction, &key, frame.now, &seen):
            if _stands(frame, direction, &quoted, &seen, &rule):
                return _as_reply(frame, rule)
        elif flow_find(frame.policy.flows + frame.direction, &key, frame.now, &seen):
            _turn(&quoted, &turned)
            if _stands(frame, frame.direction, &turned, &seen, &rule):
                return _as_reply(frame, rule)
    return _by_rule(frame, _first_match(frame, frame.direction, &frame.packet))


cdef Verdict wall_judge(Policy *policy, size_t direction, uint64_t number, uint64_t serial,
                        const uint8_t *frame, size_t size, uint64_t now) noexcept nogil:
    """One frame from or to the peer.  Only by the owner of the direction; `now` in ns.

    Frames to a group open nothing: whoever answers is not whom they went to.
    """
    cdef Frame judged
    cdef Verdict verdict
    cdef Packet *packet = &judged.packet
    judged.policy = policy
    judged.direction = direction
    judged.number = number
    judged.serial = serial
    judged.now = <uint32_t>(now // SECOND)
    judged.brief_known = dissect_brief(&judged.brief, frame, size) and not frame[0] & 1
    if judged.brief_known and _again(&judged):
        return VERDICT_PASS
    if not dissect(packet, frame, size):
        return VERDICT_MALFORMED
    if frame[0] & 1 or not packet.ip or packet.resolution:
        return _by_rule(&judged, _first_match(&judged, direction, packet))
    if packet.part == PART_LATER:
        return _later_fragment(&judged)
    if _is_tracked(packet):
        verdict = _connection(&judged)
    elif packet.role == ICMP_ERROR:
        verdict = _icmp_error(&judged)
    else:
        verdict = _by_rule(&judged, _first_match(&judged, direction, packet))
    if packet.part == PART_FIRST and verdict == VERDICT_PASS:
        _expect_fragments(&judged)
    return verdict

"""The flow table: bounded memory, one writer per word, readers without locks.

Does NOT decide what may pass (judge.pyx).

The owner of the direction in which connections are opened writes the entries; the owner of the other
direction reads them, and writes only `answers`.  An entry changes between two values of its signature: 0,
then the hash of what is in it now.  A reader looks at the signature before and after, so that it never
takes half an entry for a whole one; every word is read and written atomically.  An answer counts only for
the birth that it names, so one that comes late for an entry that was replaced is worth nothing.

Who is put out when a bucket is full (`_place`): what is over; then what nobody has answered, of the same
peer first; an answered flow only by one of the same peer, when that peer holds its share of the table.
That is a quarter, and beyond it a free place in a bucket where it has none, so that nothing that it opens
is unknown while there is room.  So a flood, answered or not, never costs another peer's established
connection; and what finds no place still passes by the rules, without replies being known.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport (
    fence_acquire,
    fence_release,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from shadowmesh._ext.dissect cimport PROTOCOL_TCP, PROTOCOL_UDP


cdef enum:
    FRAGMENTS_LIFE = 30        # seconds; RFC 791: 15 to reassemble, RFC 8200: 60
    CLOSING_LIFE = 10          # after RST, or FIN from both sides
    TCP_OPENING_LIFE = 240     # RFC 5382 REQ-5
    TCP_LIFE = 7440            # RFC 5382 REQ-5: 2 hours 4 minutes
    UDP_OPENING_LIFE = 120     # RFC 4787 REQ-5
    UDP_LIFE = 300             # RFC 4787 REQ-5, the recommended value
    ICMP_LIFE = 60             # RFC 5508 REQ-2
    BIRTH_MASK = 0xFFFFFF


cdef enum:                     # of an entry, to whoever wants its place; in the upper half of a word,
    WORTH_SAME = 0             # the same flow, which is over    the lower prefers what is idle longest
    WORTH_NOTHING = 1          # free, or over
    WORTH_LITTLE = 2           # nobody has answered it, and it is the new flow's own peer's
    WORTH_MORE = 3             # nobody has answered it
    WORTH_MUCH = 4             # answered, of a peer that has its share
    WORTH_KEEPING = 5


cdef bint flows_init(Flows *flows, size_t buckets, const uint64_t *factors) noexcept nogil:
    """`buckets`: a power of two.  False: no memory.  Pages are used as flows come."""
    cdef size_t i
    flows.buckets = buckets
    flows.shift = 64
    while buckets > 1:
        buckets //= 2
        flows.shift -= 1
    for i in range(<size_t>(2 * FLOW_WORDS + 1)):
        flows.factors[i] = factors[i] | 1
    flows.signatures = <uint64_t *>calloc(flows.buckets * FLOW_WAYS, sizeof(uint64_t))
    flows.entries = <Flow *>calloc(flows.buckets * FLOW_WAYS, sizeof(Flow))
    flows.answers = <uint64_t *>calloc(flows.buckets * FLOW_WAYS, sizeof(uint64_t))
    flows.recent = <Recent *>calloc(1 << RECENT_BITS, sizeof(Recent))
    return (
        flows.signatures != NULL and flows.entries != NULL and flows.answers != NULL
        and flows.recent != NULL
    )


cdef void flows_free(Flows *flows) noexcept nogil:
    free(flows.signatures)
    free(flows.entries)
    free(flows.answers)
    free(flows.recent)
    flows.recent = NULL
    flows.signatures = NULL
    flows.entries = NULL
    flows.answers = NULL


cdef void flow_hash(const Flows *flows, FlowKey *key) noexcept nogil:
    """Multilinear in secret factors over 32-bit halves: which flows share a bucket can't be guessed.

    The sums of flows whose ports count upwards lie at equal distances, and for some factors in few buckets:
    so the sum is mixed, one to one.
    Sources: Lemire, Kaser, "Strongly universal string hashing is fast" (2014), section 3; Steele, Lea, Flood,
    "Fast splittable pseudorandom number generators" (2014), figure 17, for the mixing.
    """
    cdef uint64_t sum = flows.factors[2 * FLOW_WORDS]
    cdef size_t i
    for i in range(<size_t>FLOW_WORDS):
        sum += flows.factors[2 * i] * (key.words[i] >> 32)
        sum += flows.factors[2 * i + 1] * <uint32_t>key.words[i]
    sum = (sum ^ sum >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    sum = (sum ^ sum >> 27) * <uint64_t>0x94D049BB133111EB
    sum ^= sum >> 31
    key.hash = sum if sum != 0 else 1


cdef inline size_t _bucket(const Flows *flows, uint64_t hash) noexcept nogil:
    return <size_t>(hash >> flows.shift) * FLOW_WAYS if flows.shift < 64 else 0


cdef bint flow_find(Flows *flows, const FlowKey *key, uint32_t now, Seen *seen) noexcept nogil:
    """The live flow of this key.  For both owners."""
    cdef size_t base = _bucket(flows, key.hash)
    cdef size_t way
    for way in range(<size_t>FLOW_WAYS):
        if load_acquire(flows.signatures + base + way) == key.hash and _copy(flows, key, base + way, seen):
            return not _over(seen, key.words[5], now)
    return False


cdef bint _copy(Flows *flows, const FlowKey *key, size_t index, Seen *seen) noexcept nogil:
    cdef Flow *flow = flows.entries + index
    cdef uint64_t differs = 0
    cdef size_t i
    for i in range(<size_t>FLOW_WORDS):
        differs |= load_relaxed(flow.words + i) ^ key.words[i]
    _snapshot(flows, index, seen)
    fence_acquire()
    return differs == 0 and load_relaxed(flows.signatures + index) == key.hash


cdef void _snapshot(Flows *flows, size_t index, Seen *seen) noexcept nogil:
    cdef Flow *flow = flows.entries + index
    seen.index = index
    seen.birth = load_relaxed(&flow.birth)
    seen.state = load_relaxed(&flow.state)
    seen.answer = load_relaxed(flows.answers + index)
    if (seen.answer >> 8 & BIRTH_MASK) != seen.birth & BIRTH_MASK:
        seen.answer = 0


cdef bint flow_closing(const Seen *seen) noexcept nogil:
    cdef uint64_t either = seen.state | seen.answer
    return either & FLOW_RESET != 0 or seen.state & seen.answer & FLOW_FIN != 0


cdef uint32_t _life(const Seen *seen, uint64_t last_word) noexcept nogil:
    """Seconds that a flow lives after its last packet; `last_word` of its key tells what it is."""
    cdef uint64_t protocol = last_word >> 16 & 0xFFFF
    if last_word & 0xFF == FLOW_FRAGMENTS:
        return FRAGMENTS_LIFE
    if protocol == PROTOCOL_TCP:
        if flow_closing(seen):
            return CLOSING_LIFE
        return TCP_LIFE if seen.answer != 0 else TCP_OPENING_LIFE
    if protocol == PROTOCOL_UDP:
        return UDP_LIFE if seen.answer != 0 else UDP_OPENING_LIFE
    return ICMP_LIFE


cdef uint32_t _idle(const Seen *seen, uint32_t now) noexcept nogil:
    """Seconds since its last packet.  The other thread's clock may be a batch ahead of ours."""
    cdef uint32_t last = <uint32_t>(seen.state >> 32)
    if <uint32_t>(seen.answer >> 32) > last:
        last = <uint32_t>(seen.answer >> 32)
    return now - last if now > last else 0


cdef bint _over(const Seen *seen, uint64_t last_word, uint32_t now) noexcept nogil:
    return _idle(seen, now) >= _life(seen, last_word)


# ---- the owner of the opening direction ------------------------------------------------------


cdef void flow_keep(Flows *flows, const Seen *seen, uint64_t state) noexcept nogil:
    """Note a packet of the opening direction.  Stored only when it is news: it costs a cache line."""
    if state != seen.state:
        store_relaxed(&flows.entries[seen.index].state, state)


cdef void flow_forget(Flows *flows, size_t index) noexcept nogil:
    cdef uint64_t number = flows.entries[index].birth >> 32
    store_release(flows.signatures + index, 0)
    flows.held[number] -= 1
    store_relaxed(&flows.used, flows.used - 1)


cdef bint flow_open(Flows *flows, const FlowKey *key, uint64_t number, uint64_t state,
                    uint32_t now) noexcept nogil:
    """A new flow; its key is in no live entry.  False: there is no place for it."""
    cdef size_t index
    cdef Flow *flow
    cdef size_t i
    _sweep(flows, now)
    index = _place(flows, key, number, now)
    if index == FLOW_NONE:
        store_relaxed(&flows.refused, flows.refused + 1)
        return False
    flow = flows.entries + index
    if flows.signatures[index] != 0:
        flow_forget(flows, index)
    fence_release()
    for i in range(<size_t>FLOW_WORDS):
        store_relaxed(flow.words + i, key.words[i])
    flows.births += 1
    store_relaxed(&flow.birth, number << 32 | (flows.births & BIRTH_MASK))
    store_relaxed(&flow.state, state)
    store_release(flows.signatures + index, key.hash)
    flows.held[number] += 1
    store_relaxed(&flows.used, flows.used + 1)
    return True


cdef void _sweep(Flows *flows, uint32_t now) noexcept nogil:
    """Look through one bucket for what is over: a whole round costs no packet more than this."""
    cdef size_t base, index
    cdef Seen seen
    flows.swept = (flows.swept + 1) & (flows.buckets - 1)
    base = flows.swept * FLOW_WAYS
    for index in range(base, base + FLOW_WAYS):
        if flows.signatures[index] != 0:
            _snapshot(flows, index, &seen)
            if _over(&seen, flows.entries[index].words[5], now):
                flow_forget(flows, index)


cdef size_t _place(Flows *flows, const FlowKey *key, uint64_t number, uint32_t now) noexcept nogil:
    """The best entry of the bucket to be used, FLOW_NONE if all are worth more than a new flow."""
    cdef size_t base = _bucket(flows, key.hash)
    cdef bint full = flows.held[number] >= flows.buckets * FLOW_WAYS // 4
    cdef size_t index, best = FLOW_NONE, unused = FLOW_NONE
    cdef uint64_t worth, least = <uint64_t>WORTH_KEEPING << 32
    cdef bint present = False
    for index in range(base, base + FLOW_WAYS):
        worth = _worth(flows, index, key, number, full, now)
        if worth < least:
            best = index
            least = worth
        if flows.signatures[index] == 0:
            unused = index
        else:
            present |= flows.entries[index].birth >> 32 == number
    return unused if best == FLOW_NONE and not present else best


cdef uint64_t _worth(Flows *flows, size_t index, const FlowKey *key, uint64_t number, bint full,
                     uint32_t now) noexcept nogil:
    """A peer that has its share already takes only what is its own, or a free place where it has none."""
    cdef Seen seen
    cdef bint own, over
    cdef uint64_t rank
    if flows.signatures[index] == 0:
        return <uint64_t>(WORTH_KEEPING if full else WORTH_NOTHING) << 32
    if flows.signatures[index] == key.hash:
        return <uint64_t>WORTH_SAME << 32
    _snapshot(flows, index, &seen)
    own = seen.birth >> 32 == number
    over = _over(&seen, flows.entries[index].words[5], now)
    if full and not own:
        rank = WORTH_KEEPING
    elif over:
        rank = WORTH_NOTHING
    elif seen.answer == 0:
        rank = WORTH_LITTLE if own else WORTH_MORE
    else:
        rank = WORTH_MUCH if full else WORTH_KEEPING
    return rank << 32 | <uint32_t>~_idle(&seen, now)


# ---- the owner of the other direction --------------------------------------------------------


cdef void flow_answer(Flows *flows, const Seen *seen, uint32_t now, uint64_t flags) noexcept nogil:
    """Note a packet that came back."""
    cdef uint64_t answer = <uint64_t>now << 32 | (seen.birth & BIRTH_MASK) << 8 | (seen.answer | flags) & 0xFF
    if answer != seen.answer:
        store_relaxed(flows.answers + seen.index, answer)


# ---- frames like one before ------------------------------------------------------------------


cdef inline Recent *_recent(Flows *own, const Brief *brief, uint32_t serial) noexcept nogil:
    cdef uint64_t mixed = brief.words[0] ^ brief.words[1] ^ brief.words[2] ^ brief.words[3]
    mixed ^= mixed >> 32 ^ brief.ports ^ serial
    return own.recent + (<uint32_t>(mixed * <uint64_t>0x9E3779B1) >> (32 - RECENT_BITS))


cdef size_t flow_again(Flows *tables, size_t direction, const Brief *brief, uint32_t serial,
                       uint64_t generation, uint32_t now, bint *answers) noexcept nogil:
    """The rule that let the connection be opened that this frame goes on with, which is noted in its entry.

    FLOW_NONE: it has to be looked at in full.  So it has after any change: of the rules, of the peer, of the
    entry; and when the entry may be over, or its end is near.
    """
    cdef const Recent *recent = _recent(tables + direction, brief, serial)
    cdef Flows *table
    cdef Seen seen
    cdef size_t i
    cdef uint64_t differs = recent.serial ^ serial | recent.brief.ports ^ brief.ports
    differs |= recent.brief.kind ^ brief.kind
    for i in range(4):
        differs |= recent.brief.words[i] ^ brief.words[i]
    if differs != 0:
        return FLOW_NONE
    answers[0] = recent.answers
    table = tables + (1 - direction if recent.answers else direction)
    if load_acquire(table.signatures + recent.index) != recent.hash:
        return FLOW_NONE
    _snapshot(table, recent.index, &seen)
    fence_acquire()
    if (
        load_relaxed(table.signatures + recent.index) != recent.hash
        or flow_generation(seen.state) != generation or seen.state & FLOW_DENIED or flow_closing(&seen)
        or _idle(&seen, now) >= CLOSING_LIFE
    ):
        return FLOW_NONE
    if not recent.answers:
        flow_keep(table, &seen, <uint64_t>now << 32 | <uint32_t>seen.state)
    elif seen.answer != 0:
        flow_answer(table, &seen, now, 0)
    else:
        return FLOW_NONE
    return flow_rule(seen.state)


cdef void flow_remember(Flows *tables, size_t direction, const Brief *brief, const FlowKey *key,
                        const Seen *seen, bint answers) noexcept nogil:
    """The connection of a frame that passed; `answers`: it is in the other table, and not in our own."""
    cdef Recent *recent = _recent(tables + direction, brief, <uint32_t>(key.words[4] >> 32))
    recent.brief = brief[0]
    recent.hash = key.hash
    recent.serial = <uint32_t>(key.words[4] >> 32)
    recent.index = <uint32_t>seen.index
    recent.answers = answers

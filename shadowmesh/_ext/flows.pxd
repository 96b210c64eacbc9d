"""Connections that the firewall let through: one table per direction in which they were opened."""

from libc.stdint cimport uint32_t, uint64_t

from shadowmesh._ext.dissect cimport Brief


cdef enum:
    FLOW_WORDS = 6
    FLOW_WAYS = 8              # entries of one bucket: their signatures fill a cache line
    FLOW_NONE = 0xFFFFFFFF
    RECENT_BITS = 6
    FLOW_PEERS = 4096          # peers are numbered below that
    FLOW_BUCKETS = 8192        # 65,536 flows of each opening direction: 10 MB both, as they are used

cdef enum FlowKind:
    FLOW_CONNECTION = 1
    FLOW_FRAGMENTS = 2         # the later fragments of one datagram

cdef enum FlowFlag:
    FLOW_FIN = 1
    FLOW_RESET = 2
    FLOW_DENIED = 4            # the rules changed: it may go on no more, and may not be opened from here

cdef struct FlowKey:
    uint64_t words[FLOW_WORDS]
    uint64_t hash              # of the words; never 0

cdef struct Flow:              # one cache line
    uint64_t words[FLOW_WORDS]
    uint64_t birth             # number of the peer << 32 | 24 bits that tell it from the one before
    uint64_t state             # second << 32 | generation << 16 | rule << 4 | flags; of the opening direction

cdef struct Recent:            # one cache line: where the connection is that a frame of this brief was of
    Brief brief
    uint64_t hash              # of the entry
    uint32_t serial            # of the peer
    uint32_t index             # of the entry
    bint answers               # it is in the table of the other direction

cdef struct Flows:             # written by the owner of the opening direction
    uint64_t *signatures       # hash of each entry, 0: free
    Flow *entries
    uint64_t *answers          # second << 32 | birth << 8 | flags; by the owner of the other direction
    uint64_t factors[2 * FLOW_WORDS + 1]
    size_t buckets             # a power of two
    unsigned int shift
    size_t swept               # the bucket that was looked through last
    uint64_t births
    uint64_t refused           # what found no place; for display
    uint64_t used              # entries that are not free; for display
    uint32_t held[FLOW_PEERS]  # entries of each peer
    Recent *recent             # 64 of them: of frames of this direction; only its owner looks

cdef struct Seen:              # a copy of an entry
    size_t index
    uint64_t birth
    uint64_t state
    uint64_t answer            # 0: there was no answer yet

cdef bint flows_init(Flows *flows, size_t buckets, const uint64_t *factors) noexcept nogil
cdef void flows_free(Flows *flows) noexcept nogil
cdef void flow_hash(const Flows *flows, FlowKey *key) noexcept nogil
cdef bint flow_find(Flows *flows, const FlowKey *key, uint32_t now, Seen *seen) noexcept nogil
cdef size_t flow_again(Flows *tables, size_t direction, const Brief *brief, uint32_t serial,
                       uint64_t generation, uint32_t now, bint *answers) noexcept nogil
cdef void flow_remember(Flows *tables, size_t direction, const Brief *brief, const FlowKey *key,
                        const Seen *seen, bint answers) noexcept nogil
cdef bint flow_closing(const Seen *seen) noexcept nogil
cdef void flow_forget(Flows *flows, size_t index) noexcept nogil
cdef bint flow_open(Flows *flows, const FlowKey *key, uint64_t number, uint64_t state,
                    uint32_t now) noexcept nogil
cdef void flow_keep(Flows *flows, const Seen *seen, uint64_t state) noexcept nogil
cdef void flow_answer(Flows *flows, const Seen *seen, uint32_t now, uint64_t flags) noexcept nogil


cdef inline uint64_t flow_state(uint32_t now, uint64_t generation, uint64_t rule,
                                uint64_t flags) noexcept nogil:
    return <uint64_t>now << 32 | generation << 16 | rule << 4 | flags


cdef inline uint64_t flow_generation(uint64_t state) noexcept nogil:
    return state >> 16 & 0xFFFF


cdef inline size_t flow_rule(uint64_t state) noexcept nogil:
    return <size_t>(state >> 4 & 0xFFF)

"""The rules of the firewall as the threads read them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from shadowmesh._ext.flows cimport FLOW_PEERS, Flows
from shadowmesh._ext.tables cimport Grace, Retired


cpdef enum WallLayout:         # of what Python compiles (shadowmesh/overlay/firewall.py)
    ENTRY_SIZE = 88
    SPAN_SIZE = 16
    RULE_LIMIT = 4000          # 12 bits in the state of a flow, less the two that stand for no rule
    ENTRY_LIMIT = 60000        # 16 bits in an order
    ANY_VLAN = 0xFFFE
    UNTAGGED = 0xFFFF
    ANY_PROTOCOL = 0xFFFF
    ANY_ETHERTYPE = 0
    FLAG_ALLOW = 1
    FLAG_PORTS = 2             # matches only what has ports
    FLAG_ADDRESSES = 4         # matches only IP
    FLAG_ETHERTYPE = 8         # the rule names an ethertype, so it is asked for ARP and ND too

cdef struct Entry:             # one combination of what a rule asks for; fields as in Packet
    uint64_t source[2]
    uint64_t source_mask[2]
    uint64_t destination[2]
    uint64_t destination_mask[2]
    uint16_t ethertype
    uint16_t vlan
    uint16_t protocol
    uint16_t flags
    uint16_t source_low
    uint16_t source_high
    uint16_t destination_low
    uint16_t destination_high
    uint16_t rule
    uint16_t unused[3]

cdef struct Span:              # of `order`, for each direction: what is asked for the peers of one class
    uint32_t first[2]
    uint32_t count[2]

cdef struct Tally:             # of policies with the same rules, one after another
    size_t users               # policies; only the thread that installs and disposes counts them
    uint64_t *hits[2]          # by direction of the packet and by rule
    uint64_t *replies[2]       # by direction of the packet and by the rule that let the connection be opened

cdef struct Policy:            # never changed once published, but for the counters
    Retired retired
    uint64_t generation        # 16 bits
    size_t rules               # index `rules` stands for the default, `rules + 1` for ARP and ND
    bint allow_default[2]
    Entry *entries
    uint16_t *order
    Span *spans
    uint8_t *allows            # by rule; those two are not in it
    uint16_t classes[FLOW_PEERS]  # by number of the peer; 0 for peers that no rule tells apart
    Tally *tally
    Flows *flows               # two: by opening direction

cdef struct Guard:             # the firewall of one plane
    void *policy               # Policy *, published atomically; NULL: everything passes
    Grace *grace
    uint64_t generation
    Flows flows[2]             # allocated with the first policy

cdef int guard_install(Guard *guard, size_t buckets, object compiled, bint same_rules) except -1
cdef void guard_clear(Guard *guard) noexcept nogil
cdef void guard_free(Guard *guard) noexcept nogil
cdef object guard_counters(Guard *guard)

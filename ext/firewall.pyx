"""The firewall: its rules from Python into the tables that the threads read, and its counters out.

Does NOT judge frames (judge.pyx); what it installs was compiled by shadowmesh/overlay/firewall.py.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from shadowmesh._ext.atomic cimport load_pointer, load_relaxed, store_pointer
from shadowmesh._ext.convert cimport buffer_of, unsigned
from shadowmesh._ext.flows cimport FLOW_BUCKETS, FLOW_WORDS, flows_free, flows_init
from shadowmesh._ext.judge cimport DIRECTION_IN, DIRECTION_OUT, wall_judge
from shadowmesh._ext.system cimport getrandom
from shadowmesh._ext.tables cimport grace_free, grace_new, grace_reclaim, grace_retire

cimport cython


cdef void _policy_dispose(void *record) noexcept nogil:
    cdef Policy *policy = <Policy *>record
    cdef Tally *tally = policy.tally
    cdef size_t i
    if tally != NULL:
        tally.users -= 1
        if tally.users == 0:
            for i in range(2):
                free(tally.hits[i])
                free(tally.replies[i])
            free(tally)
    free(policy.entries)
    free(policy.order)
    free(policy.spans)
    free(policy.allows)
    free(policy)


cdef void *_copied(object data, size_t unit, str name) except NULL:
    """A copy of bytes that are a whole number of units; one unit more, so that it is never empty."""
    cdef const uint8_t[::1] view = buffer_of(data, name)
    cdef void *made
    if <size_t>view.shape[0] % unit != 0:
        raise ValueError(f"{name} must have a multiple of {unit} bytes, not {view.shape[0]}")
    made = calloc(1, view.shape[0] + unit)
    if made == NULL:
        raise MemoryError("no memory for the firewall")
    if view.shape[0] > 0:
        memcpy(made, &view[0], view.shape[0])
    return made


cdef int _check(const Policy *policy, size_t entries, size_t order, size_t spans) except -1:
    """That no thread can be led out of an array, whatever was compiled."""
    cdef size_t i, direction
    cdef const Span *span
    if not 1 <= spans <= FLOW_PEERS or entries > ENTRY_LIMIT:
        raise ValueError("the firewall has no classes or too many entries")
    for i in range(entries):
        if policy.entries[i].rule >= policy.rules:
            raise ValueError("an entry of the firewall is of no rule")
    for i in range(order):
        if policy.order[i] >= entries:
            raise ValueError("an order of the firewall leads to no entry")
    for i in range(spans):
        span = policy.spans + i
        for direction in range(2):
            if span.first[direction] > order or span.count[direction] > order - span.first[direction]:
                raise ValueError("a span of the firewall leads out of the order")
    for i in range(<size_t>FLOW_PEERS):
        if policy.classes[i] >= spans:
            raise ValueError("a peer is of no class of the firewall")
    return 0


cdef int _new_tally(Policy *policy) except -1:
    cdef size_t i
    policy.tally = <Tally *>calloc(1, sizeof(Tally))
    if policy.tally == NULL:
        raise MemoryError("no memory for the firewall")
    policy.tally.users = 1
    for i in range(2):
        policy.tally.hits[i] = <uint64_t *>calloc(policy.rules + 2, sizeof(uint64_t))
        policy.tally.replies[i] = <uint64_t *>calloc(policy.rules + 2, sizeof(uint64_t))
        if policy.tally.hits[i] == NULL or policy.tally.replies[i] == NULL:
            raise MemoryError("no memory for the firewall")
    return 0


cdef int _fill(Policy *policy, object compiled) except -1:
    cdef const uint8_t[::1] classes = buffer_of(compiled.classes, "classes")
    cdef size_t rules = unsigned(compiled.rules, RULE_LIMIT, "rules")
    cdef size_t i
    if classes.shape[0] % 2 or classes.shape[0] > <Py_ssize_t>sizeof(policy.classes):
        raise ValueError("classes must have 2 bytes for each peer")
    policy.rules = rules
    policy.entries = <Entry *>_copied(compiled.entries, sizeof(Entry), "entries")
    policy.order = <uint16_t *>_copied(compiled.order, sizeof(uint16_t), "order")
    policy.spans = <Span *>_copied(compiled.spans, sizeof(Span), "spans")
    policy.allows = <uint8_t *>calloc(rules + 1, 1)
    if policy.allows == NULL:
        raise MemoryError("no memory for the firewall")
    if classes.shape[0] > 0:
        memcpy(policy.classes, &classes[0], classes.shape[0])
    policy.allow_default[<size_t>DIRECTION_IN] = bool(compiled.inbound)
    policy.allow_default[<size_t>DIRECTION_OUT] = bool(compiled.outbound)
    _check(policy, len(compiled.entries) // sizeof(Entry), len(compiled.order) // 2,
           len(compiled.spans) // sizeof(Span))
    for i in range(<size_t>len(compiled.entries) // sizeof(Entry)):
        policy.allows[policy.entries[i].rule] = policy.entries[i].flags & FLAG_ALLOW
    return 0


cdef int guard_install(Guard *guard, size_t buckets, object compiled, bint same_rules) except -1:
    """Put `compiled` (overlay.compilation.Compiled) in place of what is there; `same_rules`: count on."""
    cdef uint64_t factors[2 * FLOW_WORDS + 1]
    cdef Policy *before = <Policy *>load_pointer(&guard.policy)
    cdef Policy *policy = <Policy *>calloc(1, sizeof(Policy))
    cdef size_t i
    if policy == NULL:
        raise MemoryError("no memory for the firewall")
    try:
        _fill(policy, compiled)
        if same_rules and before != NULL and before.rules == policy.rules:
            policy.tally = before.tally
            policy.tally.users += 1
        else:
            _new_tally(policy)
        if guard.flows[0].signatures == NULL:
            if getrandom(factors, sizeof(factors), 0) != sizeof(factors):
                raise OSError("no random bytes")
            for i in range(2):
                if not flows_init(&guard.flows[i], buckets, factors):
                    flows_free(&guard.flows[0])
                    flows_free(&guard.flows[1])
                    raise MemoryError("no memory for the firewall")
    except BaseException:
        _policy_dispose(policy)
        raise
    guard.generation = (guard.generation + 1) & 0xFFFF
    policy.generation = guard.generation
    policy.flows = guard.flows
    _swap(guard, policy)
    return 0


cdef void _swap(Guard *guard, Policy *policy) noexcept nogil:
    cdef Policy *old = <Policy *>load_pointer(&guard.policy)
    store_pointer(&guard.policy, policy)
    if old != NULL:
        grace_retire(guard.grace, &old.retired, _policy_dispose)


cdef void guard_clear(Guard *guard) noexcept nogil:
    """Everything passes from now on.  The flows stay for the next rules."""
    _swap(guard, NULL)


cdef void guard_free(Guard *guard) noexcept nogil:
    """When no thread runs any more, before the grace is freed."""
    _swap(guard, NULL)
    flows_free(&guard.flows[0])
    flows_free(&guard.flows[1])


cdef object guard_counters(Guard *guard):
    """None without rules; else per direction (in, out) and rule: (decided, replies), and the flows."""
    cdef Policy *policy = <Policy *>load_pointer(&guard.policy)
    cdef size_t i
    if policy == NULL:
        return None
    return {
        "decided": [
            [load_relaxed(policy.tally.hits[direction] + i) for i in range(policy.rules + 2)]
            for direction in range(2)
        ],
        "replies": [
            [load_relaxed(policy.tally.replies[direction] + i) for i in range(policy.rules + 2)]
            for direction in range(2)
        ],
        "flows": [load_relaxed(&guard.flows[direction].used) for direction in range(2)],
        "untracked": [load_relaxed(&guard.flows[direction].refused) for direction in range(2)],
    }


# ---- boundary --------------------------------------------------------------------------------


@cython.final
cdef class Firewall:
    cdef Guard guard
    cdef size_t buckets

    def __cinit__(self, *, buckets=FLOW_BUCKETS):
        self.buckets = unsigned(buckets, 1 << 20, "buckets")
        if self.buckets == 0 or self.buckets & (self.buckets - 1):
            raise ValueError("buckets must be a power of two")
        self.guard.grace = grace_new()
        if self.guard.grace == NULL:
            raise MemoryError("no memory for the firewall")

    def __dealloc__(self):
        if self.guard.grace != NULL:
            guard_free(&self.guard)
            grace_free(self.guard.grace)

    def install(self, compiled, *, same_rules=False):
        guard_install(&self.guard, self.buckets, compiled, bool(same_rules))

    def judge(self, outbound, peer, frame, now, *, serial=None):
        cdef const uint8_t[::1] view = buffer_of(frame, "frame")
        cdef uint64_t number = unsigned(peer, FLOW_PEERS - 1, "peer")
        cdef uint64_t life = number if serial is None else unsigned(serial, 0xFFFFFFFF, "serial")
        cdef uint64_t second = unsigned(now, 0xFFFFFFFF, "now")
        cdef size_t direction = DIRECTION_OUT if outbound else DIRECTION_IN
        cdef Policy *policy = <Policy *>load_pointer(&self.guard.policy)
        cdef const uint8_t *data = &view[0] if view.shape[0] > 0 else NULL
        if policy == NULL:
            return "pass"
        return ("pass", "deny", "malformed")[
            <int>wall_judge(policy, direction, number, life, data, view.shape[0], second * 1000000000)
        ]

    def counters(self):
        grace_reclaim(self.guard.grace)
        return guard_counters(&self.guard)


if sizeof(Entry) != ENTRY_SIZE or sizeof(Span) != SPAN_SIZE:
    raise ImportError("firewall.pxd: the structures do not have the sizes that Python packs")

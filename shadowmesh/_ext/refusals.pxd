"""What the guards refused of one peer: counters by reason, and one example for the log."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport add_relaxed, load_acquire, store_release
from shadowmesh._ext.drops cimport Counters, DropReason, drop


cdef enum:
    REFUSALS = 6

cdef struct Claim:             # what a frame says of its sender
    uint64_t mac
    uint64_t address[2]        # IPv4 as ::ffff:a.b.c.d; 0: none

cdef struct Refusals:
    uint64_t counts[REFUSALS]  # inbound thread
    uint64_t taken             # 1: `reason` and `claim` are the writer's, until it has read them and stores 0
    DropReason reason
    Claim claim


cdef inline size_t refusal_index(DropReason reason) noexcept nogil:
    """The reasons of the guards stand one behind the other; SPOOFED_SOURCE comes before them."""
    if reason == DropReason.SPOOFED_SOURCE:
        return 0
    return <size_t>reason - <size_t>DropReason.SPOOFED_ADDRESS + 1


cdef inline void refuse(Counters *counters, Refusals *refusals, DropReason reason,
                        const Claim *claim) noexcept nogil:
    """Count; keep the claim if the last one was read."""
    drop(counters, reason)
    add_relaxed(&refusals.counts[refusal_index(reason)], 1)
    if load_acquire(&refusals.taken) == 0:
        refusals.reason = reason
        refusals.claim = claim[0]
        store_release(&refusals.taken, 1)


cdef dict refusals_of(Refusals *refusals)
cdef uint64_t refusals_total(const Refusals *refusals) noexcept nogil

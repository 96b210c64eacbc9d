"""Counters of one thread and their sum as a dict.

Does NOT decide what is dropped.  A counter has one writer and no lock; the reader may be a packet behind.
"""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport load_relaxed


cdef uint64_t _sum(uint64_t *first, uint64_t *second) noexcept:
    return load_relaxed(first) + (load_relaxed(second) if second != NULL else 0)


cdef dict drops_of(Counters *first, Counters *second):
    """All reasons by lower-case name, zero too; `second` may be NULL."""
    return {
        reason.name.lower(): _sum(&first.drops[reason], &second.drops[reason] if second != NULL else NULL)
        for reason in DropReason
    }


cdef dict statistics_of(Counters *first, Counters *second):
    return {
        what.name.lower(): _sum(&first.statistics[what], &second.statistics[what] if second != NULL else NULL)
        for what in Statistic
    }


if len(DropReason) != DROP_REASONS or len(Statistic) != STATISTICS:
    raise ImportError("drops.pxd: the arrays of Counters do not fit the enums")

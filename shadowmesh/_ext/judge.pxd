"""May this frame go on?"""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.firewall cimport Policy


cdef enum Direction:
    DIRECTION_IN = 0
    DIRECTION_OUT = 1

cdef enum Verdict:
    VERDICT_PASS
    VERDICT_DENY
    VERDICT_MALFORMED

cdef Verdict wall_judge(Policy *policy, size_t direction, uint64_t number, uint64_t serial,
                        const uint8_t *frame, size_t size, uint64_t now) noexcept nogil

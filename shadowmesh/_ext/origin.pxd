"""May a peer send this frame?"""

from libc.stdint cimport uint8_t

from shadowmesh._ext.ownership cimport Owned
from shadowmesh._ext.refusals cimport Claim
from shadowmesh._ext.tables cimport Table


cdef enum:
    ORIGIN_FINE = -1           # else a DropReason

cdef int origin_judge(const Owned *owned, Table *neighbours, const uint8_t *frame, size_t size,
                      Claim *claim) noexcept nogil

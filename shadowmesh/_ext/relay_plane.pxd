"""The forwarder threads of a relay, and what they share."""

from shadowmesh._ext.forward_thread cimport Forward
from shadowmesh._ext.tables cimport READERS, Grace, Table
from shadowmesh._ext.workers cimport Stop, Worker


cdef struct RelayPlane:        # everything that the threads point to: one allocation, never moved
    Grace *grace
    Table ids                  # id -> Record
    Table clients              # number -> Client; writer only
    Stop stop
    size_t threads
    Forward forwards[READERS]
    Worker workers[READERS]

cdef bint plane_init(RelayPlane *plane, const int *udp_fds, int event_fd) noexcept nogil
cdef int plane_start(RelayPlane *plane) noexcept nogil
cdef void plane_join(RelayPlane *plane) noexcept nogil
cdef void plane_free(RelayPlane *plane) noexcept nogil

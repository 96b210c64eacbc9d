"""The parts of a relay's data plane and how they are connected.

Does NOT change tables (forward.pyx) and processes no packets (forward_thread.pyx).
"""

from libc.stdlib cimport free

from shadowmesh._ext.clients cimport Client, client_dispose
from shadowmesh._ext.forward_thread cimport (
    forward_free,
    forward_init,
    forward_main,
    forward_start,
)
from shadowmesh._ext.records cimport Session, record_dispose, session_dispose
from shadowmesh._ext.tables cimport (
    grace_free,
    grace_new,
    table_free,
    table_init,
    table_next,
)
from shadowmesh._ext.workers cimport (
    stop_free,
    stop_init,
    stop_raise,
    worker_join,
    worker_start,
)


cdef bint plane_init(RelayPlane *plane, const int *udp_fds, int event_fd) noexcept nogil:
    """Allocate and connect all parts of a zeroed RelayPlane; False: no memory, `plane_free` cleans up."""
    cdef Forward *forward
    cdef size_t i
    plane.grace = grace_new()
    if (
        plane.grace == NULL
        or not table_init(&plane.ids, plane.grace)
        or not table_init(&plane.clients, plane.grace)
        or not stop_init(&plane.stop)
    ):
        return False
    for i in range(plane.threads):
        forward = &plane.forwards[i]
        forward.receiver.udp.fd = udp_fds[i]
        forward.receiver.event_fd = event_fd
        forward.stop = &plane.stop
        forward.receiver.grace = plane.grace
        forward.receiver.ids = &plane.ids
        if not forward_init(forward, i, plane.threads):
            return False
    return True


cdef int plane_start(RelayPlane *plane) noexcept nogil:
    """Start all threads, or none; 0 or an errno."""
    cdef int error = 0
    cdef size_t i
    for i in range(plane.threads):
        error = forward_start(&plane.forwards[i])
        if error == 0:
            error = worker_start(&plane.workers[i], forward_main, &plane.forwards[i], b"sm-forward")
        if error != 0:
            plane_join(plane)
            break
    return error


cdef void plane_join(RelayPlane *plane) noexcept nogil:
    cdef size_t i
    stop_raise(&plane.stop)
    for i in range(plane.threads):
        worker_join(&plane.workers[i])


cdef void plane_free(RelayPlane *plane) noexcept nogil:
    """Free everything.  The threads are joined."""
    cdef size_t position = 0
    cdef size_t i
    cdef Client *client
    cdef Session *session
    if plane == NULL:
        return
    while plane.clients.index != NULL:
        client = <Client *>table_next(&plane.clients, &position)
        if client == NULL:
            break
        while client.sessions != NULL:
            session = client.sessions
            client.sessions = session.next
            session_dispose(session)
    table_free(&plane.ids, record_dispose)
    table_free(&plane.clients, client_dispose)
    grace_free(plane.grace)
    for i in range(plane.threads):
        forward_free(&plane.forwards[i])
    stop_free(&plane.stop)
    free(plane)

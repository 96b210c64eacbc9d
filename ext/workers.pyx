"""Worker threads: plain pthreads, so that no interpreter state is involved in stopping them.

Does NOT know what a worker does.  A worker blocks in poll() on its descriptor and the stop eventfd;
an idle one uses no time at all.
"""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport store_release
from shadowmesh._ext.convert cimport unsigned
from shadowmesh._ext.system cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    F_DUPFD_CLOEXEC,
    F_GETFL,
    F_SETFL,
    O_NONBLOCK,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    SIG_SETMASK,
    close,
    eventfd,
    fcntl,
    poll,
    pollfd,
    pthread_create,
    pthread_join,
    pthread_setname_np,
    pthread_sigmask,
    sigfillset,
    sigset_t,
    write,
)
from shadowmesh._ext.tables cimport grace_step


cdef enum:
    TROUBLE_LIMIT = 16   # wake-ups with nothing but an error before a worker slows down
    TROUBLE_PAUSE_MS = 100


cdef bint stop_init(Stop *stop) noexcept nogil:
    stop.raised = 0
    stop.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    return stop.fd >= 0


cdef void stop_raise(Stop *stop) noexcept nogil:
    cdef uint64_t one = 1
    store_release(&stop.raised, 1)
    write(stop.fd, &one, sizeof(one))


cdef void stop_free(Stop *stop) noexcept nogil:
    close_descriptor(&stop.fd)


cdef int worker_start(Worker *worker, worker_function run, void *argument, const char *name) noexcept nogil:
    """Start a thread with all signals blocked (they are Python's main thread's); 0 or an errno."""
    cdef sigset_t every, before
    cdef int error
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    error = pthread_create(&worker.thread, NULL, run, argument)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    worker.running = error == 0
    if worker.running:
        pthread_setname_np(worker.thread, name)
    return error


cdef void worker_join(Worker *worker) noexcept nogil:
    """Wait for the end of a worker whose Stop is raised.  It may be called again."""
    if worker.running:
        pthread_join(worker.thread, NULL)
        worker.running = False


cdef void wait_readable(Stop *stop, int fd, Grace *grace, size_t reader,
                        unsigned int *trouble) noexcept nogil:
    """Block, holding no record, until `fd` is readable or the stop is raised.

    A descriptor that reports only errors (a device that was deleted) keeps poll awake: after
    TROUBLE_LIMIT such wake-ups in a row the worker rests in between.  The caller clears `trouble`
    whenever it read something.
    """
    cdef pollfd fds[2]
    fds[0].fd = stop.fd
    fds[0].events = POLLIN
    fds[1].fd = fd
    fds[1].events = POLLIN
    fds[1].revents = 0
    grace_step(grace, reader, 1)
    if trouble[0] >= TROUBLE_LIMIT:
        poll(fds, 1, TROUBLE_PAUSE_MS)
    poll(fds, 2, -1)
    if fds[1].revents & (POLLERR | POLLHUP | POLLNVAL):
        trouble[0] += 1
    grace_step(grace, reader, 1)


cdef int own_descriptor(object fd, str name, bint non_blocking) except -1:
    """A duplicate that stays valid whatever the caller does to `fd`; ValueError if it isn't open."""
    cdef int number = <int>unsigned(fd, 0x7FFFFFFF, name)
    cdef int own = fcntl(number, F_DUPFD_CLOEXEC, 0)
    if own < 0:
        raise ValueError(f"{name} {number} is not an open descriptor")
    if non_blocking:
        fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK)
    return own


cdef void close_descriptor(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1

"""Worker threads: plain pthreads, so that no interpreter state is involved in stopping them.

Does NOT know what a worker does.  A worker blocks in epoll_wait() on its descriptors and the stop eventfd; an
idle one uses no time at all.
"""

from libc.errno cimport errno
from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport store_release
from shadowmesh._ext.convert cimport unsigned
from shadowmesh._ext.system cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    F_DUPFD_CLOEXEC,
    F_GETFL,
    F_SETFL,
    O_NONBLOCK,
    SIG_SETMASK,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    eventfd,
    fcntl,
    monotonic_ns,
    pthread_create,
    pthread_join,
    pthread_setname_np,
    pthread_sigmask,
    sigfillset,
    sigset_t,
    write,
)


cdef enum:
    TROUBLE_LIMIT = 16   # wake-ups with nothing but an error before a descriptor rests
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


cdef int _register(const Waiter *waiter, int fd, Watch *watch) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = watch
    return 0 if epoll_ctl(waiter.epoll, EPOLL_CTL_ADD, fd, &event) == 0 else errno


cdef int waiter_init(Waiter *waiter, const Stop *stop, Watch *one, Watch *other) noexcept nogil:
    """Wait for the stop, for `one` and, if it isn't NULL, for `other`; 0 or an errno."""
    cdef int error
    waiter.watches[0] = one
    waiter.watches[1] = other
    waiter.rests_until[0] = waiter.rests_until[1] = 0
    waiter.count = 1 if other == NULL else 2
    waiter.epoll = epoll_create1(EPOLL_CLOEXEC)
    if waiter.epoll < 0:
        return errno
    error = _register(waiter, stop.fd, NULL)
    if error == 0:
        error = _register(waiter, one.fd, one)
    if error == 0 and other != NULL:
        error = _register(waiter, other.fd, other)
    return error


cdef void waiter_free(Waiter *waiter) noexcept nogil:
    close_descriptor(&waiter.epoll)


cdef uint64_t wait_any(Waiter *waiter, int timeout_ms) noexcept nogil:
    """Block, holding no record, until a watch is ready, the stop is raised or time is up; the time then.

    A descriptor that reports only errors (a device that was deleted) keeps epoll awake: after
    TROUBLE_LIMIT such wake-ups in a row it rests in between, and the others are watched without it.
    """
    cdef epoll_event events[3]
    cdef Watch *watch
    cdef uint64_t now
    cdef size_t i
    cdef int count
    for i in range(waiter.count):
        waiter.watches[i].ready = False
        if waiter.rests_until[i] > 0:
            timeout_ms = TROUBLE_PAUSE_MS
    count = epoll_wait(waiter.epoll, events, 3, timeout_ms)
    now = monotonic_ns()
    for i in range(<size_t>count if count > 0 else 0):
        watch = <Watch *>events[i].data.ptr
        if watch != NULL:
            watch.ready = True
            if events[i].events & (EPOLLERR | EPOLLHUP):
                watch.trouble += 1
    for i in range(waiter.count):
        _rest(waiter, i, now)
    return now


cdef void _rest(Waiter *waiter, size_t i, uint64_t now) noexcept nogil:
    """Leave a watch in trouble out, or take it in again."""
    cdef Watch *watch = waiter.watches[i]
    if waiter.rests_until[i] == 0 and watch.ready and watch.trouble >= TROUBLE_LIMIT:
        epoll_ctl(waiter.epoll, EPOLL_CTL_DEL, watch.fd, NULL)
        waiter.rests_until[i] = now + TROUBLE_PAUSE_MS * 1000000
    elif waiter.rests_until[i] > 0 and now >= waiter.rests_until[i]:
        _register(waiter, watch.fd, watch)
        waiter.rests_until[i] = 0


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

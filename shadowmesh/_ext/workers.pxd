"""Worker threads that never touch Python: start, wait for input, stop."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport load_acquire
from shadowmesh._ext.system cimport pthread_t


cdef struct Stop:
    int fd              # eventfd, readable from the stop on
    uint64_t raised

cdef struct Watch:          # a descriptor that a worker waits for
    int fd
    bint ready              # after a wait: there is something to read, or an error
    unsigned int trouble    # wake-ups in a row with nothing but an error; who reads something clears it

cdef struct Waiter:         # the stop and one or two watches, registered once for all waits
    int epoll
    Watch *watches[2]
    uint64_t rests_until[2]  # nanoseconds; 0: it is watched
    size_t count

cdef struct Worker:
    pthread_t thread
    bint running

ctypedef void *(*worker_function)(void *argument) noexcept nogil

cdef bint stop_init(Stop *stop) noexcept nogil
cdef void stop_raise(Stop *stop) noexcept nogil
cdef void stop_free(Stop *stop) noexcept nogil
cdef int worker_start(Worker *worker, worker_function run, void *argument, const char *name) noexcept nogil
cdef void worker_join(Worker *worker) noexcept nogil
cdef int waiter_init(Waiter *waiter, const Stop *stop, Watch *one, Watch *other) noexcept nogil
cdef void waiter_free(Waiter *waiter) noexcept nogil
cdef uint64_t wait_any(Waiter *waiter, int timeout_ms) noexcept nogil
cdef int own_descriptor(object fd, str name, bint non_blocking) except -1
cdef void close_descriptor(int *fd) noexcept nogil


cdef inline bint stopping(const Stop *stop) noexcept nogil:
    return load_acquire(&stop.raised) != 0

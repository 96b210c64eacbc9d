"""Worker threads that never touch Python: start, wait for input, stop."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport load_acquire
from shadowmesh._ext.system cimport pthread_t
from shadowmesh._ext.tables cimport Grace


cdef struct Stop:
    int fd              # eventfd, readable from the stop on
    uint64_t raised

cdef struct Worker:
    pthread_t thread
    bint running

ctypedef void *(*worker_function)(void *argument) noexcept nogil

cdef bint stop_init(Stop *stop) noexcept nogil
cdef void stop_raise(Stop *stop) noexcept nogil
cdef void stop_free(Stop *stop) noexcept nogil
cdef int worker_start(Worker *worker, worker_function run, void *argument, const char *name) noexcept nogil
cdef void worker_join(Worker *worker) noexcept nogil
cdef void wait_readable(Stop *stop, int fd, Grace *grace, size_t reader, unsigned int *trouble) noexcept nogil
cdef int own_descriptor(object fd, str name, bint non_blocking) except -1
cdef void close_descriptor(int *fd) noexcept nogil


cdef inline bint stopping(const Stop *stop) noexcept nogil:
    return load_acquire(&stop.raised) != 0

"""State of a forwarder thread of the relay."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.fair cimport Fair, Limits
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.ring cimport Ring
from shadowmesh._ext.tables cimport READERS
from shadowmesh._ext.udp cimport SendBatch
from shadowmesh._ext.workers cimport Stop, Waiter, Watch


cdef struct Forward

cdef struct Forward:
    Receiver receiver
    Stop *stop
    Waiter waiter
    SendBatch *batch
    Limits limits
    Fair fair
    Forward *first              # of all threads, one after another
    size_t threads
    size_t index                # of this one
    size_t clients              # that it owns; writers only
    Watch handed                # eventfd: something is in a ring of `others`
    Ring others[READERS]        # from each other thread: datagrams of clients that this one owns
    uint64_t to_wake            # threads, a bit each, to whom something was handed in this batch
    uint64_t handed_over        # datagrams; for display

cdef bint forward_init(Forward *forward, size_t index, size_t threads) noexcept nogil
cdef int forward_start(Forward *forward) noexcept nogil
cdef void forward_free(Forward *forward) noexcept nogil
cdef void *forward_main(void *argument) noexcept nogil

"""Which of the two threads serves the TAP."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.outbound cimport Outbound
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.workers cimport Stop, Waiter, Watch


cdef struct Duty:
    Stop *stop
    Receiver *receiver
    Outbound *outbound
    uint64_t apart            # whose the Outbound is: 0 the first thread's, 1 the second's
    Watch taken               # eventfd that tells the second thread that it has the Outbound
    Watch returned            # eventfd that tells the first thread that it has it back
    uint64_t busy[2]          # nanoseconds that each thread has worked, since the start
    Waiter both               # the first thread's: UDP and TAP
    Waiter receiving          # the first thread's while they are apart: UDP and `returned`
    Waiter asleep             # the second's: `taken`
    Waiter sending            # the second's while they are apart: TAP

cdef void duty_clear(Duty *duty) noexcept nogil
cdef bint duty_init(Duty *duty) noexcept nogil
cdef int duty_wire(Duty *duty) noexcept nogil
cdef void duty_free(Duty *duty) noexcept nogil
cdef void *first_main(void *argument) noexcept nogil
cdef void *second_main(void *argument) noexcept nogil

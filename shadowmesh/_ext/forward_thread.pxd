"""State of the relay's forwarder thread."""

from shadowmesh._ext.fair cimport Fair, Limits
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.udp cimport SendBatch
from shadowmesh._ext.workers cimport Stop, Waiter


cdef struct Forward:
    Receiver receiver
    Stop *stop
    Waiter waiter
    SendBatch *batch
    Limits limits
    Fair fair

cdef bint forward_init(Forward *forward) noexcept nogil
cdef void forward_free(Forward *forward) noexcept nogil
cdef void *forward_main(void *argument) noexcept nogil

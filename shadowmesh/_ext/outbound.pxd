"""State of the client's outbound thread."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.tables cimport Grace, Table
from shadowmesh._ext.udp cimport SendBatch
from shadowmesh._ext.workers cimport Stop


cdef struct Outbound:
    int tap_fd
    int udp_fd
    Stop *stop
    Grace *grace
    size_t reader
    Table *macs             # MAC as a number -> Peer
    void **flood            # PeerList *, published atomically
    uint64_t mac            # ours
    Counters counters
    SendBatch *batch
    uint8_t *payload        # kind byte, then the frame
    unsigned int trouble

cdef bint outbound_init(Outbound *outbound) noexcept nogil
cdef void outbound_free(Outbound *outbound) noexcept nogil
cdef void *outbound_main(void *argument) noexcept nogil

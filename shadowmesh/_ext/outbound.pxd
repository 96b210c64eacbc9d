"""State of the client's outbound thread."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.bridge cimport Bridge
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.peers cimport Peer
from shadowmesh._ext.ring cimport Ring
from shadowmesh._ext.records cimport Allowance
from shadowmesh._ext.tables cimport Grace, Table
from shadowmesh._ext.udp cimport SendBatch
from shadowmesh._ext.vnet cimport Vnet
from shadowmesh._ext.workers cimport Watch


cdef struct Outbound:
    Watch tap
    int udp_fd
    int event_fd
    Ring wanted             # frames to peers without a route, for asyncio
    Grace *grace
    size_t reader
    Table *macs             # MAC as a number -> Peer
    Table *neighbours       # address -> Neighbour
    Allowance allowance
    uint64_t groups         # bucket of our frames to groups
    Bridge *bridge
    void **flood            # PeerList *, published atomically
    uint64_t mac            # ours
    void **policy           # Policy * of the firewall, published atomically; NULL: there is none
    Peer **chosen           # of a flood: those to whom the firewall lets it go
    Counters counters
    SendBatch *batch
    bint vnet               # every read begins with a virtio_net_hdr
    Vnet header             # of the frame in hand; zero without `vnet`
    uint8_t *buffer
    uint64_t now            # ns, once per batch

cdef bint outbound_init(Outbound *outbound) noexcept nogil
cdef void outbound_free(Outbound *outbound) noexcept nogil
cdef void outbound_serve(Outbound *outbound, bint prompt) noexcept nogil

"""State of the client's inbound thread."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.bridge cimport Bridge
from shadowmesh._ext.coalesce cimport Delivery
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.fragment cimport Pool
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.records cimport Allowance, Record
from shadowmesh._ext.tables cimport Retired, Table


cdef struct Source:          # an address that direct long headers are taken from
    Retired retired
    Endpoint endpoint

cdef struct Run:             # packets of one lane in a row that came the same way
    Record *record           # NULL: none
    const Endpoint *source   # of the receive batch in hand, so the same pointer is the same address
    bint relayed
    uint64_t via

cdef struct Inbound:
    Receiver receiver
    Delivery delivery
    Pool pool                # frames that come in fragments
    Run run
    uint64_t mac             # ours
    Bridge *bridge
    Table *sources           # endpoint_key -> Source
    Allowance allowance      # of each peer
    Table *neighbours        # address -> Neighbour, of all peers and ourselves
    void **policy            # Policy * of the firewall, published atomically; NULL: there is none

cdef bint inbound_init(Inbound *inbound) noexcept nogil
cdef void inbound_free(Inbound *inbound) noexcept nogil

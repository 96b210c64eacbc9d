"""The parts of the client's data plane and how they are connected.

Does NOT change tables (engine.pyx) and processes no packets (inbound.pyx, outbound.pyx).
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport load_flag, store_flag, store_pointer
from shadowmesh._ext.bridge cimport bridge_free, bridge_init, bridge_publish
from shadowmesh._ext.duty cimport duty_clear, duty_free, duty_init, duty_wire, first_main, second_main
from shadowmesh._ext.firewall cimport guard_free
from shadowmesh._ext.inbound cimport inbound_free, inbound_init
from shadowmesh._ext.outbound cimport outbound_free, outbound_init
from shadowmesh._ext.ownership cimport neighbours_nobody
from shadowmesh._ext.peers cimport PeerList, peer_dispose, peer_list_new, plain_dispose, peer_new
from shadowmesh._ext.records cimport record_dispose, session_dispose
from shadowmesh._ext.tables cimport grace_free, grace_new, grace_retire, table_free, table_init
from shadowmesh._ext.udp cimport receive_arrange, send_uses_gso
from shadowmesh._ext.workers cimport (
    stop_free,
    stop_init,
    stop_raise,
    worker_join,
    worker_start,
)


cdef enum:
    OUTBOUND_READER = 0
    INBOUND_READER = 1


cdef bint _init(Plane *plane) noexcept nogil:
    """Allocate all parts of a zeroed Plane; False: no memory, and `plane_free` cleans up."""
    plane.stop.fd = -1
    duty_clear(&plane.duty)
    plane.grace = grace_new()
    plane.leg = peer_new(LEG, 0, 0)
    plane.flood = peer_list_new(plane.peers, 0, NULL)
    plane.guard.grace = plane.grace
    return (
        plane.grace != NULL
        and plane.leg != NULL
        and plane.flood != NULL
        and table_init(&plane.ids, plane.grace)
        and table_init(&plane.sources, plane.grace)
        and table_init(&plane.macs, plane.grace)
        and table_init(&plane.neighbours, plane.grace)
        and table_init(&plane.sessions, plane.grace)
        and bridge_init(&plane.bridge, &plane.macs)
        and stop_init(&plane.stop)
        and duty_init(&plane.duty)
        and inbound_init(&plane.inbound)
        and outbound_init(&plane.outbound)
    )


cdef Plane *plane_new() noexcept nogil:
    """NULL without memory."""
    cdef Plane *plane = <Plane *>calloc(1, sizeof(Plane))
    if plane != NULL and not _init(plane):
        plane_free(plane)
        return NULL
    return plane


cdef void plane_wire(Plane *plane, int udp_fd, int tap_fd, int event_fd, uint64_t mac) noexcept nogil:
    """Connect the parts with each other and with the descriptors."""
    plane.inbound.receiver.udp.fd = udp_fd
    plane.inbound.receiver.event_fd = event_fd
    plane.inbound.receiver.grace = plane.grace
    plane.inbound.receiver.reader = INBOUND_READER
    plane.inbound.receiver.ids = &plane.ids
    plane.inbound.sources = &plane.sources
    plane.inbound.bridge = &plane.bridge
    plane.inbound.delivery.tap_fd = tap_fd
    plane.inbound.mac = mac
    plane.inbound.policy = &plane.guard.policy
    plane.inbound.neighbours = &plane.neighbours
    plane.inbound.pool.sessions = &plane.sessions
    plane.outbound.udp_fd = udp_fd
    plane.outbound.event_fd = event_fd
    plane.outbound.tap.fd = tap_fd
    plane.outbound.grace = plane.grace
    plane.outbound.reader = OUTBOUND_READER
    plane.outbound.macs = &plane.macs
    plane.outbound.bridge = &plane.bridge
    plane.bridge.own = mac
    plane.outbound.flood = &plane.flood
    plane.outbound.neighbours = &plane.neighbours
    plane.outbound.mac = mac
    plane.outbound.policy = &plane.guard.policy
    plane.duty.stop = &plane.stop
    plane.duty.receiver = &plane.inbound.receiver
    plane.duty.outbound = &plane.outbound


cdef int plane_publish_flood(Plane *plane, const Peer *without) except -1:
    """Replace the lists of peers: of all, and of those that may bridge.

    The only step of adding or removing a peer that needs memory late.
    """
    cdef PeerList *old = <PeerList *>plane.flood
    cdef PeerList *made = peer_list_new(plane.peers, PEER_LIMIT, without)
    if made == NULL:
        raise MemoryError("no memory for the flood list")
    try:
        bridge_publish(&plane.bridge, plane.grace, plane.peers, PEER_LIMIT, without)
    except MemoryError:
        free(made)
        raise
    store_pointer(&plane.flood, made)
    grace_retire(plane.grace, &old.retired, plain_dispose)
    return 0


cdef int plane_let_bridge(Plane *plane, Peer *peer, bint allowed) except -1:
    """Whether this peer may have stations behind it."""
    if peer.bridging != allowed:
        store_flag(&peer.bridging, allowed)
        bridge_publish(&plane.bridge, plane.grace, plane.peers, PEER_LIMIT, NULL)
    return 0


cdef void plane_use(Plane *plane, const Features *features) noexcept nogil:
    """Before the threads run: what they may use."""
    plane.outbound.vnet = features.vnet_hdr
    plane.inbound.delivery.vnet = features.vnet_hdr
    plane.inbound.delivery.join_tcp = features.join_tcp
    plane.inbound.delivery.join_udp = features.join_udp
    plane.outbound.batch.gso = features.udp_gso
    receive_arrange(plane.inbound.receiver.batch, features.udp_gro)


cdef void plane_features(const Plane *plane, Features *features) noexcept nogil:
    """Correct what was chosen at the start by what the threads gave up since."""
    features.join_tcp = load_flag(&plane.inbound.delivery.join_tcp)
    features.join_udp = load_flag(&plane.inbound.delivery.join_udp)
    features.udp_gso = send_uses_gso(plane.outbound.batch)


cdef int plane_start(Plane *plane) noexcept nogil:
    """Start both threads; 0 or an errno, and then `plane_join` stops the one that runs."""
    cdef int error = duty_wire(&plane.duty)
    if error == 0:
        error = worker_start(&plane.first, first_main, &plane.duty, b"sm-inbound")
    if error == 0:
        error = worker_start(&plane.second, second_main, &plane.duty, b"sm-outbound")
    return error


cdef void plane_join(Plane *plane) noexcept nogil:
    """Stop the threads and wait for them; they end within one batch."""
    stop_raise(&plane.stop)
    worker_join(&plane.first)
    worker_join(&plane.second)


cdef void plane_free(Plane *plane) noexcept nogil:
    """Free everything.  The threads are joined."""
    if plane == NULL:
        return
    table_free(&plane.ids, record_dispose)
    table_free(&plane.sources, plain_dispose)
    table_free(&plane.sessions, session_dispose)
    table_free(&plane.neighbours, neighbours_nobody)
    table_free(&plane.macs, peer_dispose)
    if plane.grace != NULL:
        guard_free(&plane.guard)
    grace_free(plane.grace)
    free(plane.flood)
    bridge_free(&plane.bridge)
    free(plane.leg)
    free(plane.own)
    inbound_free(&plane.inbound)
    outbound_free(&plane.outbound)
    duty_free(&plane.duty)
    stop_free(&plane.stop)
    free(plane)

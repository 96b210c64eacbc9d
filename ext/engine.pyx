"""The client's data plane: tables, threads and the Python interface to both.

Does NOT process packets (inbound.pyx, outbound.pyx) and decides nothing: Python installs decisions,
the threads follow them.

Methods in this order: life (start, stop, poll) | peers and routes | what is received | counters.
Every change is made in one order: check all arguments, allocate, publish by one pointer store, retire
what was replaced.  All of it under the GIL, which is the one writer that the tables need.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport load_acquire, load_relaxed, store_release
from shadowmesh._ext.bridge cimport PORT_FORWARDING, bridge_counters, bridge_open
from shadowmesh._ext.bytes cimport load48
from shadowmesh._ext.convert cimport id_of, sized, unsigned
from shadowmesh._ext.drops cimport drops_of, statistics_of
from shadowmesh._ext.duty cimport duty_free
from shadowmesh._ext.endpoint cimport Endpoint, endpoint_equal, endpoint_from, endpoint_key, socket_family
from shadowmesh._ext.features cimport Features, features_choose, features_dict
from shadowmesh._ext.firewall cimport guard_clear, guard_counters, guard_install
from shadowmesh._ext.flows cimport FLOW_BUCKETS
from shadowmesh._ext.inbound cimport Source
from shadowmesh._ext.lanes cimport SendKeys, SendLane
from shadowmesh._ext.ownership cimport Owned, owned_set, owned_withdraw
from shadowmesh._ext.peers cimport (
    BUDGET_DEFAULT,
    BUDGET_LARGEST,
    BUDGET_LEAST,
    Peer,
    peer_clear_route,
    peer_dispose,
    peer_new,
    peer_set_endpoint,
    peer_set_lane,
    plain_dispose,
)
from shadowmesh._ext.plane cimport (
    LEG,
    PEER_LIMIT,
    Plane,
    plane_features,
    plane_free,
    plane_join,
    plane_let_bridge,
    plane_new,
    plane_publish_flood,
    plane_start,
    plane_use,
    plane_wire,
)
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.records cimport (
    RECORD_CHANNEL,
    RECORD_CONTROL,
    Allowance,
    Record,
    RecordKind,
    Session,
    allowance_of,
    lane_ids_of,
    record_prepare,
    record_remove,
    session_install,
    session_retire,
)
from shadowmesh._ext.refusals cimport refusals_of, refusals_total
from shadowmesh._ext.ring cimport drain, drain_into
from shadowmesh._ext.tables cimport (
    TABLE_OK,
    grace_reclaim,
    grace_retire,
    grace_turns,
    table_find,
    table_install,
    table_remove,
    table_reserve,
)
from shadowmesh._ext.workers cimport close_descriptor, own_descriptor, stop_free

from shadowmesh._ext.drops import DropReason
from shadowmesh._ext.ring import Event, EventKind

cimport cython

__all__ = [
    "EVENT_CONTROL",
    "EVENT_LANE_MESSAGE",
    "EVENT_LONG_HEADER",
    "EVENT_PROBE",
    "EVENT_SOURCE",
    "EVENT_WANTED",
    "DropReason",
    "Engine",
    "Event",
    "SendKeys",
]

EVENT_LONG_HEADER = int(EventKind.EVENT_LONG_HEADER)
EVENT_CONTROL = int(EventKind.EVENT_CONTROL)
EVENT_LANE_MESSAGE = int(EventKind.EVENT_LANE_MESSAGE)
EVENT_SOURCE = int(EventKind.EVENT_SOURCE)
EVENT_WANTED = int(EventKind.EVENT_WANTED)
EVENT_PROBE = int(EventKind.EVENT_PROBE)
# A cimported class is no attribute of the module, and Python looks for it here.
globals()["SendKeys"] = SendKeys


@cython.final
cdef class Engine:
    cdef Plane *plane
    cdef int udp_fd
    cdef int tap_fd
    cdef int event_fd
    cdef int callers_event_fd
    cdef int family
    cdef Features chosen
    cdef bint started
    cdef bint stopped

    def __cinit__(self, udp_fd, tap_fd, event_fd, mac, *, features=None, broadcast=None):
        cdef const uint8_t[::1] address
        cdef Allowance allowance = Allowance(0, 0)
        # First of all: __dealloc__ closes these after any failure below, and 0 is somebody's descriptor.
        self.udp_fd = self.tap_fd = self.event_fd = -1
        address = sized(mac, 6, "MAC address")
        if address[0] & 1:
            raise ValueError("our MAC address must not be a group address")
        self.udp_fd = own_descriptor(udp_fd, "udp_fd", False)
        self.tap_fd = own_descriptor(tap_fd, "tap_fd", True)
        self.event_fd = own_descriptor(event_fd, "event_fd", True)
        self.callers_event_fd = event_fd
        self.family = socket_family(self.udp_fd)
        features_choose(features, self.udp_fd, self.tap_fd, &self.chosen)
        if broadcast is not None:
            rate, burst = broadcast
            allowance = allowance_of(rate, burst)
        self.plane = plane_new()
        if self.plane == NULL:
            raise MemoryError("no memory for the data plane")
        plane_wire(self.plane, self.udp_fd, self.tap_fd, self.event_fd, load48(&address[0]))
        plane_use(self.plane, &self.chosen)
        self.plane.inbound.allowance = self.plane.outbound.allowance = allowance

    def __dealloc__(self):
        # Without the GIL, because in a build with line tracing the threads take it for every line.
        if self.plane != NULL and self.started and not self.stopped:
            with nogil:
                plane_join(self.plane)
        plane_free(self.plane)
        self._close()

    cdef void _close(self) noexcept:
        close_descriptor(&self.udp_fd)
        close_descriptor(&self.tap_fd)
        close_descriptor(&self.event_fd)

    # ---- life

    def start(self):
        cdef int error
        if self.started or self.stopped:
            raise ValueError("an engine is started once")
        self.started = True
        error = plane_start(self.plane)
        if error != 0:
            self.stop()
            raise OSError(error, "a thread of the data plane could not be started")

    def stop(self):
        if self.stopped:
            return
        self.stopped = True
        if self.started:
            with nogil:
                plane_join(self.plane)
        grace_reclaim(self.plane.grace)
        duty_free(&self.plane.duty)
        stop_free(&self.plane.stop)
        self._close()

    def fileno(self):
        return self.callers_event_fd

    def poll(self):
        cdef Receiver *receiver = &self.plane.inbound.receiver
        grace_reclaim(self.plane.grace)
        events = drain(&receiver.control, &receiver.long_headers, self.event_fd)
        drain_into(&self.plane.outbound.wanted, events)
        return events

    def turns(self):
        return grace_turns(self.plane.grace, 2)  # the readers of plane.pyx

    # ---- peers and routes

    cdef Peer *_peer(self, object peer) except NULL:
        cdef uint64_t number = unsigned(peer, PEER_LIMIT - 1, "peer")
        if self.plane.peers[number] == NULL:
            raise KeyError(f"peer {number} is not added")
        return self.plane.peers[number]

    def add_peer(self, peer, mac):
        cdef uint64_t number = unsigned(peer, PEER_LIMIT - 1, "peer")
        cdef const uint8_t[::1] view = sized(mac, 6, "MAC address")
        cdef uint64_t address = load48(&view[0])
        cdef Peer *made
        if number == 0 or self.plane.peers[number] != NULL:
            raise ValueError("peer 0 is reserved" if number == 0 else f"peer {number} is added already")
        if view[0] & 1 or address == self.plane.outbound.mac or table_find(&self.plane.macs, address) != NULL:
            raise ValueError("a peer's MAC address must be unicast, its own and not ours")
        if not table_reserve(&self.plane.macs, 1):
            raise MemoryError("no memory for a peer")
        made = peer_new(number, address, self.plane.serials + 1)
        if made == NULL:
            raise MemoryError("no memory for a peer")
        self.plane.peers[number] = made
        try:
            plane_publish_flood(self.plane, NULL)
        except MemoryError:
            self.plane.peers[number] = NULL
            free(made)
            raise
        table_install(&self.plane.macs, address, made)
        self.plane.serials += 1

    def remove_peer(self, peer):
        cdef Peer *found = self._peer(peer)
        plane_publish_flood(self.plane, found)
        table_remove(&self.plane.macs, found.mac)
        self.plane.peers[found.number] = NULL
        while found.sessions != NULL:
            self._retire(found.sessions)
        peer_clear_route(self.plane.grace, found)
        owned_withdraw(&self.plane.neighbours, <Owned *>found.owned)
        grace_retire(self.plane.grace, &found.retired, peer_dispose)

    def set_lane(self, peer, SendKeys keys not None, lane, receiver_id, *, first_number=0):
        cdef Peer *found = self._peer(peer)
        cdef SendLane *made = keys.claim(lane, receiver_id, first_number)
        peer_set_lane(self.plane.grace, found, made)

    def set_endpoint(self, peer, sockaddr, channel, *, budget=BUDGET_DEFAULT):
        cdef bint relayed = channel != b""
        cdef uint64_t payload = unsigned(budget, BUDGET_LARGEST, "budget")
        cdef uint64_t id = id_of(channel) if relayed else 0
        cdef Peer *found = self._peer(peer)
        cdef Endpoint endpoint
        if payload < BUDGET_LEAST:
            raise ValueError(f"budget must be at least {<int>BUDGET_LEAST}, not {payload}")
        endpoint_from(sockaddr, self.family, &endpoint)
        if not peer_set_endpoint(self.plane.grace, found, &endpoint, relayed, id, payload):
            raise MemoryError("no memory for a route")

    def clear_route(self, peer):
        peer_clear_route(self.plane.grace, self._peer(peer))

    def set_own_addresses(self, addresses):
        owned_set(&self.plane.neighbours, &self.plane.own, LEG, self.plane.outbound.mac, addresses, 0, 0, 0)

    def set_sources(self, peer, prefixes, *, others=False, dhcp=False, router=False):
        cdef Peer *found = self._peer(peer)
        owned_set(&self.plane.neighbours, &found.owned, found.number, found.mac, prefixes,
                  bool(others), bool(dhcp), bool(router))

    def set_firewall(self, compiled, *, same_rules=False):
        if compiled is None:
            guard_clear(&self.plane.guard)
        else:
            guard_install(&self.plane.guard, FLOW_BUCKETS, compiled, bool(same_rules))

    # ---- bridges

    def set_bridging(self, peer, allowed):
        plane_let_bridge(self.plane, self._peer(peer), bool(allowed))

    def open_bridge(self, mac, udp_port, vlans=()):
        if self.started or self.stopped:
            raise ValueError("a bridge is opened before the start")
        bridge_open(&self.plane.bridge, mac, udp_port, vlans)

    def set_port(self, state):
        store_release(&self.plane.bridge.port, unsigned(state, PORT_FORWARDING, "state"))

    # ---- what is received

    def install_receive(self, session, peer, ids, material):
        cdef list keys = lane_ids_of(ids)
        cdef uint64_t handle = unsigned(session, 0xFFFFFFFFFFFFFFFF, "session")
        cdef Peer *found = self.plane.leg if peer == LEG else self._peer(peer)
        cdef Session *made
        if table_find(&self.plane.sessions, handle) != NULL:
            raise ValueError(f"session {handle} is installed already")
        if not table_reserve(&self.plane.sessions, 1):
            raise MemoryError("no memory for a session")
        made = session_install(&self.plane.ids, handle, found, keys, material)
        table_install(&self.plane.sessions, handle, made)
        made.next = found.sessions
        found.sessions = made

    cdef void _retire(self, Session *session) noexcept:
        cdef Session **place = &(<Peer *>session.owner).sessions
        while place[0] != session:
            place = &place[0].next
        place[0] = session.next
        table_remove(&self.plane.sessions, session.handle)
        session_retire(&self.plane.ids, session)

    def retire_receive(self, session):
        cdef uint64_t handle = unsigned(session, 0xFFFFFFFFFFFFFFFF, "session")
        cdef Session *found = <Session *>table_find(&self.plane.sessions, handle)
        if found == NULL:
            raise KeyError(f"session {handle} is not installed")
        self._retire(found)

    cdef int _install(self, RecordKind kind, object wire_id) except -1:
        cdef uint64_t key = id_of(wire_id)
        cdef Record *record = record_prepare(&self.plane.ids, kind, key)
        table_install(&self.plane.ids, key, record)
        return 0

    def install_channel(self, wire_id):
        self._install(RECORD_CHANNEL, wire_id)

    def install_control(self, wire_id):
        self._install(RECORD_CONTROL, wire_id)

    def remove(self, wire_id):
        record_remove(&self.plane.ids, id_of(wire_id))

    def allow_source(self, sockaddr):
        cdef Endpoint endpoint
        cdef Source *source
        endpoint_from(sockaddr, self.family, &endpoint)
        if table_find(&self.plane.sources, endpoint_key(&endpoint)) != NULL:
            return
        source = <Source *>calloc(1, sizeof(Source))
        if source == NULL:
            raise MemoryError("no memory for a source")
        source.endpoint = endpoint
        if table_install(&self.plane.sources, endpoint_key(&endpoint), source) != TABLE_OK:
            free(source)
            raise MemoryError("no memory for a source")

    def forbid_source(self, sockaddr):
        cdef Endpoint endpoint
        cdef Source *source
        endpoint_from(sockaddr, self.family, &endpoint)
        source = <Source *>table_find(&self.plane.sources, endpoint_key(&endpoint))
        if source == NULL or not endpoint_equal(&source.endpoint, &endpoint):
            raise KeyError("this source is not allowed")
        table_remove(&self.plane.sources, endpoint_key(&endpoint))
        grace_retire(self.plane.grace, &source.retired, plain_dispose)

    # ---- counters

    def counters(self):
        grace_reclaim(self.plane.grace)
        return statistics_of(&self.plane.inbound.receiver.counters, &self.plane.outbound.counters)

    def drops(self):
        return drops_of(&self.plane.inbound.receiver.counters, &self.plane.outbound.counters)

    def firewall_counters(self):
        return guard_counters(&self.plane.guard)

    def bridge_counters(self):
        return bridge_counters(&self.plane.bridge)

    def features(self):
        plane_features(self.plane, &self.chosen)
        return features_dict(&self.chosen)

    def peer_refusals(self, peer):
        return refusals_of(&self._peer(peer).refusals)

    def peer_counters(self, peer):
        cdef Peer *found = self._peer(peer)
        cdef Session *session = found.sessions
        cdef uint64_t failed = 0
        cdef bint current = load_acquire(&found.path_way) == found.way
        while session != NULL:
            failed = max(failed, load_relaxed(&session.failed_opens))
            session = session.next
        return {
            "tx_frames": load_relaxed(&found.sent.packets),
            "tx_bytes": load_relaxed(&found.sent.bytes),
            "rx_frames": load_relaxed(&found.received.packets),
            "rx_bytes": load_relaxed(&found.received.bytes),
            "next_number": load_relaxed(&found.lane.number) if found.lane != NULL else 0,
            "last_received": load_relaxed(&found.last_received) / 1e9,
            "path_received": load_relaxed(&found.path_received) / 1e9 if current else 0.0,
            "failed_opens": failed,
            "refused": refusals_total(&found.refusals),
            "last_unicast": max(load_relaxed(&found.last_addressed), load_relaxed(&found.last_hailed)) / 1e9,
            "stations": load_relaxed(&self.plane.bridge.far.held[<size_t>found.number]),
        }

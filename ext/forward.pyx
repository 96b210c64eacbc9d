"""The relay's data plane: tables, forwarder thread and the Python interface to both.

Does NOT process packets (forward_thread.pyx) and does not admit anybody: Python installs clients and
channels.

Methods in this order: life (start, stop, poll) | clients | ids | counters.  Changes as in engine.pyx:
check, allocate, publish, retire, under the GIL.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport load_pointer, load_relaxed, store_pointer
from shadowmesh._ext.clients cimport (
    Client,
    client_dispose,
    client_endpoint,
    client_new,
)
from shadowmesh._ext.convert cimport id_of, unsigned
from shadowmesh._ext.drops cimport drops_of, statistics_of
from shadowmesh._ext.endpoint cimport (
    Endpoint,
    endpoint_bytes,
    endpoint_from,
    socket_family,
)
from shadowmesh._ext.fair cimport limits_set
from shadowmesh._ext.features cimport Features, features_choose, features_dict
from shadowmesh._ext.forward_thread cimport (
    Forward,
    forward_free,
    forward_init,
    forward_main,
)
from shadowmesh._ext.lanes cimport SendKeys, SendLane, lane_dispose
from shadowmesh._ext.receive cimport Receiver
from shadowmesh._ext.records cimport (
    RECORD_CHANNEL,
    RECORD_CONTROL,
    Record,
    Session,
    lane_ids_of,
    record_dispose,
    record_prepare,
    record_remove,
    record_retire,
    session_dispose,
    session_install,
    session_retire,
)
from shadowmesh._ext.ring cimport drain
from shadowmesh._ext.tables cimport (
    Grace,
    Table,
    grace_free,
    grace_new,
    grace_reclaim,
    grace_retire,
    table_find,
    table_free,
    table_init,
    table_install,
    table_next,
    table_remove,
    table_reserve,
)
from shadowmesh._ext.udp cimport receive_arrange, send_uses_gso
from shadowmesh._ext.workers cimport (
    Stop,
    Worker,
    close_descriptor,
    own_descriptor,
    stop_free,
    stop_init,
    stop_raise,
    waiter_free,
    waiter_init,
    worker_join,
    worker_start,
)

from shadowmesh._ext.drops import DropReason
from shadowmesh._ext.ring import Event, EventKind

cimport cython

__all__ = [
    "EVENT_CONTROL",
    "EVENT_ENDPOINT",
    "EVENT_LONG_HEADER",
    "DropReason",
    "Event",
    "Forwarder",
    "SendKeys",
]

EVENT_LONG_HEADER = int(EventKind.EVENT_LONG_HEADER)
EVENT_CONTROL = int(EventKind.EVENT_CONTROL)
EVENT_ENDPOINT = int(EventKind.EVENT_ENDPOINT)
# A cimported class is no attribute of the module, and Python looks for it here.
globals()["SendKeys"] = SendKeys


cdef enum:
    MOST_PACKETS = 1000000000  # per second: a step of one nanosecond; bytes a hundred times that


cdef struct RelayPlane:        # everything that the thread points to: one allocation, never moved
    Grace *grace
    Table ids                  # id -> Record
    Table clients              # number -> Client; writer only
    Stop stop
    Forward forward
    Worker worker


cdef bint plane_init(RelayPlane *plane, int udp_fd, int event_fd) noexcept nogil:
    """Allocate and connect all parts of a zeroed RelayPlane; False: no memory, `plane_free` cleans up."""
    plane.grace = grace_new()
    plane.forward.receiver.udp.fd = udp_fd
    plane.forward.receiver.event_fd = event_fd
    plane.forward.stop = &plane.stop
    plane.forward.receiver.grace = plane.grace
    plane.forward.receiver.ids = &plane.ids
    return (
        plane.grace != NULL
        and table_init(&plane.ids, plane.grace)
        and table_init(&plane.clients, plane.grace)
        and stop_init(&plane.stop)
        and forward_init(&plane.forward)
    )


cdef void plane_join(RelayPlane *plane) noexcept nogil:
    stop_raise(&plane.stop)
    worker_join(&plane.worker)


cdef void plane_free(RelayPlane *plane) noexcept nogil:
    """Free everything.  The thread is joined."""
    cdef size_t position = 0
    cdef Client *client
    cdef Session *session
    if plane == NULL:
        return
    while plane.clients.index != NULL:
        client = <Client *>table_next(&plane.clients, &position)
        if client == NULL:
            break
        while client.sessions != NULL:
            session = client.sessions
            client.sessions = session.next
            session_dispose(session)
    table_free(&plane.ids, record_dispose)
    table_free(&plane.clients, client_dispose)
    grace_free(plane.grace)
    forward_free(&plane.forward)
    stop_free(&plane.stop)
    free(plane)


@cython.final
cdef class Forwarder:
    cdef RelayPlane *plane
    cdef int udp_fd
    cdef int event_fd
    cdef int callers_event_fd
    cdef int family
    cdef Features chosen
    cdef bint started
    cdef bint stopped

    def __cinit__(self, udp_fd, event_fd, *, features=None):
        self.udp_fd = self.event_fd = -1
        self.udp_fd = own_descriptor(udp_fd, "udp_fd", False)
        self.event_fd = own_descriptor(event_fd, "event_fd", True)
        self.callers_event_fd = event_fd
        self.family = socket_family(self.udp_fd)
        self.plane = <RelayPlane *>calloc(1, sizeof(RelayPlane))
        if self.plane != NULL:
            self.plane.stop.fd = self.plane.forward.waiter.epoll = -1
        if self.plane == NULL or not plane_init(self.plane, self.udp_fd, self.event_fd):
            raise MemoryError("no memory for the data plane")
        features_choose(features, self.udp_fd, -1, &self.chosen)
        self.plane.forward.batch.gso = self.chosen.udp_gso
        receive_arrange(self.plane.forward.receiver.batch, self.chosen.udp_gro)

    def __dealloc__(self):
        # Without the GIL, because in a build with line tracing the threads take it for every line.
        if self.plane != NULL and self.started and not self.stopped:
            with nogil:
                plane_join(self.plane)
        plane_free(self.plane)
        self._close()

    cdef void _close(self) noexcept:
        close_descriptor(&self.udp_fd)
        close_descriptor(&self.event_fd)

    # ---- life

    def start(self):
        cdef int error
        if self.started or self.stopped:
            raise ValueError("a forwarder is started once")
        error = waiter_init(&self.plane.forward.waiter, &self.plane.stop,
                            &self.plane.forward.receiver.udp, NULL)
        if error == 0:
            error = worker_start(&self.plane.worker, forward_main, &self.plane.forward, b"sm-forward")
        if error != 0:
            raise OSError(error, "the forwarder thread could not be started")
        self.started = True

    def stop(self):
        if self.stopped:
            return
        self.stopped = True
        if self.started:
            with nogil:
                plane_join(self.plane)
        grace_reclaim(self.plane.grace)
        waiter_free(&self.plane.forward.waiter)
        stop_free(&self.plane.stop)
        self._close()

    def fileno(self):
        return self.callers_event_fd

    def poll(self):
        cdef Receiver *receiver = &self.plane.forward.receiver
        grace_reclaim(self.plane.grace)
        return drain(&receiver.control, &receiver.long_headers, self.event_fd)

    def set_limits(self, *, packet_rate=0, byte_rate=0):
        cdef uint64_t packets = unsigned(packet_rate, MOST_PACKETS, "packet_rate")
        cdef uint64_t octets = unsigned(byte_rate, 100 * <uint64_t>MOST_PACKETS, "byte_rate")
        limits_set(&self.plane.forward.limits, packets, octets)

    # ---- clients

    cdef Client *_client(self, object client) except NULL:
        cdef uint64_t number = unsigned(client, 0xFFFFFFFFFFFFFFFF, "client")
        cdef Client *found = <Client *>table_find(&self.plane.clients, number)
        if found == NULL:
            raise KeyError(f"client {number} is not added")
        return found

    def add_client(self, client, sockaddr):
        cdef uint64_t number = unsigned(client, 0xFFFFFFFFFFFFFFFF, "client")
        cdef Endpoint endpoint
        cdef Client *made
        endpoint_from(sockaddr, self.family, &endpoint)
        if table_find(&self.plane.clients, number) != NULL:
            raise ValueError(f"client {number} is added already")
        if not table_reserve(&self.plane.clients, 1):
            raise MemoryError("no memory for a client")
        made = client_new(number, &endpoint)
        if made == NULL:
            raise MemoryError("no memory for a client")
        table_install(&self.plane.clients, number, made)

    def remove_client(self, client):
        cdef Client *found = self._client(client)
        cdef Session *session
        cdef Record *record
        cdef SendLane *lane = <SendLane *>load_pointer(&found.lane)
        cdef size_t position = 0
        while True:
            record = <Record *>table_next(&self.plane.ids, &position)
            if record == NULL:
                break
            if record.source == found or record.target == found:
                record_retire(&self.plane.ids, record)
        while found.sessions != NULL:
            session = found.sessions
            found.sessions = session.next
            session_retire(&self.plane.ids, session)
        table_remove(&self.plane.clients, found.number)
        store_pointer(&found.lane, NULL)
        if lane != NULL:
            grace_retire(self.plane.grace, &lane.retired, lane_dispose)
        grace_retire(self.plane.grace, &found.retired, client_dispose)

    def set_lane(self, client, SendKeys keys not None, lane, receiver_id, *, first_number=0):
        cdef Client *found = self._client(client)
        cdef SendLane *made = keys.claim(lane, receiver_id, first_number)
        cdef SendLane *old = <SendLane *>load_pointer(&found.lane)
        store_pointer(&found.lane, made)
        if old != NULL:
            grace_retire(self.plane.grace, &old.retired, lane_dispose)

    def install_receive(self, client, ids, material):
        cdef list keys = lane_ids_of(ids)
        cdef Client *found = self._client(client)
        cdef Session *made = session_install(&self.plane.ids, found.number, found, keys, material)
        made.next = found.sessions
        found.sessions = made

    def retire_receive(self, client):
        cdef Client *found = self._client(client)
        cdef Session *session
        while found.sessions != NULL and found.sessions.next != NULL:
            session = found.sessions.next
            found.sessions.next = session.next
            session_retire(&self.plane.ids, session)

    def endpoint(self, client):
        cdef Endpoint endpoint
        client_endpoint(self._client(client), &endpoint)
        return endpoint_bytes(&endpoint)

    # ---- ids

    def install_channel(self, wire_id, from_client, to_client, to_id):
        cdef uint64_t key = id_of(wire_id)
        cdef uint64_t target_id = id_of(to_id)
        cdef Client *source = self._client(from_client)
        cdef Client *target = self._client(to_client)
        cdef Record *record = record_prepare(&self.plane.ids, RECORD_CHANNEL, key)
        record.source = source
        record.target = target
        record.target_id = target_id
        table_install(&self.plane.ids, key, record)

    def install_control(self, wire_id):
        cdef uint64_t key = id_of(wire_id)
        cdef Record *record = record_prepare(&self.plane.ids, RECORD_CONTROL, key)
        table_install(&self.plane.ids, key, record)

    def remove(self, wire_id):
        record_remove(&self.plane.ids, id_of(wire_id))

    # ---- counters

    def counters(self):
        grace_reclaim(self.plane.grace)
        return statistics_of(&self.plane.forward.receiver.counters, NULL)

    def features(self):
        self.chosen.udp_gso = send_uses_gso(self.plane.forward.batch)
        used = features_dict(&self.chosen)
        return {name: used[name] for name in ("udp_gso", "udp_gro")}

    def drops(self):
        return drops_of(&self.plane.forward.receiver.counters, NULL)

    def client_counters(self, client):
        cdef Client *found = self._client(client)
        cdef Session *session = found.sessions
        cdef SendLane *lane = <SendLane *>load_pointer(&found.lane)
        cdef uint64_t failed = 0
        while session != NULL:
            failed = max(failed, load_relaxed(&session.failed_opens))
            session = session.next
        return {
            "rx_packets": load_relaxed(&found.received.packets),
            "rx_bytes": load_relaxed(&found.received.bytes),
            "tx_packets": load_relaxed(&found.sent.packets),
            "tx_bytes": load_relaxed(&found.sent.bytes),
            "refused": load_relaxed(&found.refused),
            "next_number": load_relaxed(&lane.number) if lane != NULL else 0,
            "last_bind": load_relaxed(&found.last_bind) / 1e9,
            "failed_opens": failed,
        }

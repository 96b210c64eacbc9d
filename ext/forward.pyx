"""The relay's data plane: tables, forwarder threads and the Python interface to both.

Does NOT process packets (forward_thread.pyx) and does not admit anybody: Python installs clients and
channels.

Methods in this order: life (start, stop, poll) | clients | ids | counters.  Changes as in engine.pyx:
check, allocate, publish, retire, under the GIL.  Each thread has a socket of its own.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc

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
from shadowmesh._ext.lanes cimport SendKeys, SendLane, lane_dispose
from shadowmesh._ext.records cimport (
    RECORD_CHANNEL,
    RECORD_CONTROL,
    Record,
    Session,
    lane_ids_of,
    record_prepare,
    record_remove,
    record_retire,
    session_install,
    session_retire,
)
from shadowmesh._ext.relay_plane cimport (
    RelayPlane,
    plane_free,
    plane_init,
    plane_join,
    plane_start,
)
from shadowmesh._ext.ring cimport drain_begin, drain_end, drain_into, drain_some
from shadowmesh._ext.tables cimport (
    READERS,
    grace_reclaim,
    grace_retire,
    grace_turns,
    table_find,
    table_install,
    table_next,
    table_remove,
    table_reserve,
)
from shadowmesh._ext.udp cimport receive_arrange, send_uses_gso
from shadowmesh._ext.workers cimport (
    close_descriptor,
    own_descriptor,
    stop_free,
    waiter_free,
)

from shadowmesh._ext.drops import DropReason
from shadowmesh._ext.ring import Event, EventKind

cimport cython

__all__ = [
    "EVENT_CONTROL",
    "EVENT_ENDPOINT",
    "EVENT_LONG_HEADER",
    "MOST_THREADS",
    "DropReason",
    "Event",
    "Forwarder",
    "SendKeys",
]

EVENT_LONG_HEADER = int(EventKind.EVENT_LONG_HEADER)
EVENT_CONTROL = int(EventKind.EVENT_CONTROL)
EVENT_ENDPOINT = int(EventKind.EVENT_ENDPOINT)
MOST_THREADS = <int>READERS
# A cimported class is no attribute of the module, and Python looks for it here.
globals()["SendKeys"] = SendKeys


cdef enum:
    MOST_PACKETS = 1000000000  # per second: a step of one nanosecond; bytes a hundred times that


cdef int _add(dict total, dict counted) except -1:
    for name, value in counted.items():
        total[name] = total.get(name, 0) + value
    return 0


@cython.final
cdef class Forwarder:
    cdef RelayPlane *plane
    cdef int udp_fds[READERS]
    cdef size_t threads
    cdef int event_fd
    cdef int callers_event_fd
    cdef int family
    cdef Features chosen
    cdef bint started
    cdef bint stopped

    def __cinit__(self, udp_fd, event_fd, *more_fds, features=None):
        cdef size_t i
        self.event_fd = -1
        if len(more_fds) >= <Py_ssize_t>READERS:
            raise ValueError(f"a forwarder has 1..{<int>READERS} sockets, not {1 + len(more_fds)}")
        for fd in (udp_fd, *more_fds):
            self.udp_fds[self.threads] = own_descriptor(fd, "udp_fd", False)
            self.threads += 1
        self.event_fd = own_descriptor(event_fd, "event_fd", True)
        self.callers_event_fd = event_fd
        self.family = socket_family(self.udp_fds[0])
        for i in range(1, self.threads):
            if socket_family(self.udp_fds[i]) != self.family:
                raise ValueError("the sockets of a forwarder are of one family")
        self._make_plane(None if features is None else tuple(features))

    cdef int _make_plane(self, object features) except -1:
        cdef size_t i
        self.plane = <RelayPlane *>calloc(1, sizeof(RelayPlane))
        if self.plane != NULL:
            self.plane.stop.fd = -1
            self.plane.threads = self.threads
            for i in range(self.threads):
                self.plane.forwards[i].waiter.epoll = self.plane.forwards[i].handed.fd = -1
        if self.plane == NULL or not plane_init(self.plane, self.udp_fds, self.event_fd):
            raise MemoryError("no memory for the data plane")
        for i in range(self.threads):
            features_choose(features, self.udp_fds[i], -1, &self.chosen)
            self.plane.forwards[i].batch.gso = self.chosen.udp_gso
            receive_arrange(self.plane.forwards[i].receiver.batch, self.chosen.udp_gro)
        return 0

    def __dealloc__(self):
        # Without the GIL, because in a build with line tracing the threads take it for every line.
        if self.plane != NULL and self.started and not self.stopped:
            with nogil:
                plane_join(self.plane)
        plane_free(self.plane)
        self._close()

    cdef void _close(self) noexcept:
        cdef size_t i
        for i in range(self.threads):
            close_descriptor(&self.udp_fds[i])
        close_descriptor(&self.event_fd)

    # ---- life

    def start(self):
        cdef int error
        if self.started or self.stopped:
            raise ValueError("a forwarder is started once")
        with nogil:
            error = plane_start(self.plane)
        if error != 0:
            raise OSError(error, "the forwarder threads could not be started")
        self.started = True

    def stop(self):
        cdef size_t i
        if self.stopped:
            return
        self.stopped = True
        if self.started:
            with nogil:
                plane_join(self.plane)
        grace_reclaim(self.plane.grace)
        for i in range(self.threads):
            waiter_free(&self.plane.forwards[i].waiter)
        stop_free(&self.plane.stop)
        self._close()

    def fileno(self):
        return self.callers_event_fd

    def poll(self):
        cdef list events = []
        cdef bint more = False
        cdef size_t i
        grace_reclaim(self.plane.grace)
        drain_begin(self.event_fd)
        for i in range(self.threads):
            drain_into(&self.plane.forwards[i].receiver.control, events)
        for i in range(self.threads):
            more |= drain_some(&self.plane.forwards[i].receiver.long_headers, events)
        if more:
            drain_end(self.event_fd)
        return events

    def turns(self):
        return grace_turns(self.plane.grace, self.threads)

    def set_limits(self, *, packet_rate=0, byte_rate=0):
        cdef uint64_t packets = unsigned(packet_rate, MOST_PACKETS, "packet_rate")
        cdef uint64_t octets = unsigned(byte_rate, 100 * <uint64_t>MOST_PACKETS, "byte_rate")
        cdef size_t i
        for i in range(self.threads):
            limits_set(&self.plane.forwards[i].limits, packets, octets)

    # ---- clients

    cdef Client *_client(self, object client) except NULL:
        cdef uint64_t number = unsigned(client, 0xFFFFFFFFFFFFFFFF, "client")
        cdef Client *found = <Client *>table_find(&self.plane.clients, number)
        if found == NULL:
            raise KeyError(f"client {number} is not added")
        return found

    def add_client(self, client, sockaddr, *, thread=0):
        cdef uint64_t number = unsigned(client, 0xFFFFFFFFFFFFFFFF, "client")
        cdef size_t owner = <size_t>unsigned(thread, self.threads - 1, "thread")
        cdef Endpoint endpoint
        cdef Client *made
        endpoint_from(sockaddr, self.family, &endpoint)
        if table_find(&self.plane.clients, number) != NULL:
            raise ValueError(f"client {number} is added already")
        if not table_reserve(&self.plane.clients, 1):
            raise MemoryError("no memory for a client")
        made = client_new(number, owner, &endpoint)
        if made == NULL:
            raise MemoryError("no memory for a client")
        table_install(&self.plane.clients, number, made)
        self.plane.forwards[owner].clients += 1

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
        self.plane.forwards[found.thread].clients -= 1
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
        cdef dict total = {}
        cdef size_t i
        grace_reclaim(self.plane.grace)
        for i in range(self.threads):
            _add(total, statistics_of(&self.plane.forwards[i].receiver.counters, NULL))
        return total

    def features(self):
        cdef size_t i
        self.chosen.udp_gso = True
        for i in range(self.threads):
            self.chosen.udp_gso = self.chosen.udp_gso and send_uses_gso(self.plane.forwards[i].batch)
        used = features_dict(&self.chosen)
        return {name: used[name] for name in ("udp_gso", "udp_gro")}

    def drops(self):
        cdef dict total = {}
        cdef size_t i
        for i in range(self.threads):
            _add(total, drops_of(&self.plane.forwards[i].receiver.counters, NULL))
        return total

    def thread_counters(self):
        cdef list found = []
        cdef size_t i
        for i in range(self.threads):
            counted = statistics_of(&self.plane.forwards[i].receiver.counters, NULL)
            found.append({
                "clients": self.plane.forwards[i].clients,
                "rx_datagrams": counted["udp_rx_datagrams"],
                "tx_datagrams": counted["udp_tx_datagrams"],
                "handed_over": load_relaxed(&self.plane.forwards[i].handed_over),
            })
        return found

    def client_counters(self, client):
        cdef Client *found = self._client(client)
        cdef Session *session = found.sessions
        cdef SendLane *lane = <SendLane *>load_pointer(&found.lane)
        cdef uint64_t failed = 0, packets = 0, octets = 0
        cdef size_t i
        for i in range(self.threads):
            packets += load_relaxed(&found.sent[i].packets)
            octets += load_relaxed(&found.sent[i].bytes)
        while session != NULL:
            failed = max(failed, load_relaxed(&session.failed_opens))
            session = session.next
        return {
            "rx_packets": load_relaxed(&found.received.packets),
            "rx_bytes": load_relaxed(&found.received.bytes),
            "tx_packets": packets,
            "tx_bytes": octets,
            "refused": load_relaxed(&found.refused),
            "next_number": load_relaxed(&lane.number) if lane != NULL else 0,
            "last_bind": load_relaxed(&found.last_bind) / 1e9,
            "failed_opens": failed,
        }

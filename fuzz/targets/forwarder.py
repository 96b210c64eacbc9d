"""Of whatever datagrams reach a relay's data plane, channels carry theirs unchanged to whom they lead,
each other is one event, one BOUND no larger than its BIND, or one drop by its reason, and an endpoint
moves only to where its challenge came back from.

An input is a batch of datagrams for a real forwarder between sockets.  A slow twin says what becomes of each.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator

from fuzz.program import Program, string
from shadowmesh._ext.forward import EVENT_CONTROL, EVENT_ENDPOINT, EVENT_LONG_HEADER, Forwarder, SendKeys
from tests.reference import frame_packet
from tests.unit.ext_harness import DEADLINE, Plane, material, raw_sockaddr, udp_socket, wire_id

COVERS: tuple[str, ...] = ()
A, B, MARKS = 4, 5, 6
TO_B, AT_B = b"a->relay", b"relay->b"
MARK, AT_MARK = b"marks-in", b"marksout"
CONTROL = b"control1"
LANE = wire_id(0x400)
BIND, BIND_SIZE = 0x10, 35
LARGEST, STEPS = 2000, 12

RAW, STRANGER, CHANNEL, TO_CONTROL, FORGED, AUTHENTIC, AWAY, AGAIN, ANSWER, LONG = range(10)


def _step(mode: int, content: bytes = b"") -> bytes:
    return bytes([mode]) + string(content)


def _bind(number: int, challenge: bytes = bytes(8)) -> bytes:
    return bytes([BIND]) + number.to_bytes(8, "big") + b"a nonce!" + challenge + bytes(10)


def _seeds() -> Iterator[bytes]:
    yield (
        _step(AUTHENTIC, _bind(1))
        + _step(AGAIN)
        + _step(AUTHENTIC, _bind(1))
        + _step(AUTHENTIC, _bind(2)[:-1])
    )
    yield _step(AWAY, _bind(1)) + _step(ANSWER, b"\x01") + _step(CHANNEL, b"hello")
    yield _step(CHANNEL, b"") + _step(CHANNEL, bytes(1400)) + _step(AUTHENTIC, b"\x01" + bytes(60))
    yield (
        _step(TO_CONTROL, bytes(40))
        + _step(FORGED, bytes(21))
        + _step(FORGED, bytes(20))
        + _step(RAW, b"\x17")
    )
    initial = b"\xc3\0\0\0\x01\x08destinat\x00" + bytes(1200)
    yield _step(RAW, initial) + _step(STRANGER, initial) + _step(LONG, bytes(20)) + _step(RAW, b"\xc3")
    yield _step(RAW, b"") + _step(RAW, b"\x43unknown!") + _step(STRANGER, b"\x43" + TO_B + b"not from there")


SEEDS = list(_seeds())


class Relay(Plane):
    """The forwarder, client A at home and away, client B, and the one that marks go to."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET6)
        self.forwarder = self.plane = Forwarder(self.udp.fileno(), self.event_fd)
        self.forwarder.start()
        self.home, self.away, self.b, self.marks, self.stranger = (udp_socket() for _ in range(5))
        for client, where in ((A, self.home), (B, self.b), (MARKS, self.marks)):
            self.forwarder.add_client(client, raw_sockaddr(where))
        self.forwarder.install_receive(A, [LANE], material(40))
        self.forwarder.set_lane(A, SendKeys(material(41)), 0, wire_id(0x44))
        self.forwarder.install_channel(TO_B, A, B, AT_B)
        self.forwarder.install_channel(MARK, A, MARKS, AT_MARK)
        self.forwarder.install_control(CONTROL)
        self.packets = self.sent_marks = self.number = 0
        self.challenge = bytes(8)
        self.endpoint = raw_sockaddr(self.home)

    def close(self) -> None:
        for one in (self.home, self.away, self.b, self.marks, self.stranger):
            one.close()
        self.__exit__(None, None, None)

    def seal(self, payload: bytes) -> bytes:
        self.packets += 1
        return frame_packet.seal(material(40), 0, LANE, self.packets, payload)

    def send(self, datagram: bytes, source: socket.socket) -> None:
        source.sendto(datagram, self.udp.getsockname())

    def finish(self) -> None:
        """Wait until all that was sent is dealt with."""
        self.sent_marks += 1
        mark = self.sent_marks.to_bytes(8, "big")
        self.send(b"\x43" + MARK + mark, self.home)
        self.marks.settimeout(DEADLINE)
        while self.marks.recv(LARGEST) != b"\x43" + AT_MARK + mark:
            pass  # an input may know that channel, too


_relays: list[Relay] = []


def _relay() -> Relay:
    if not _relays:
        _relays.append(Relay())
    return _relays[0]


def close() -> None:
    """Stop the forwarder; the next input starts another."""
    while _relays:
        _relays.pop().close()


def sort(data: bytes) -> str:
    """The slow twin: what becomes of a datagram that is not authentic."""
    if not data or (data[0] & 0xC0 == 0x40 and len(data) < 9):
        return "short"
    if data[0] & 0xC0 == 0xC0:
        if len(data) >= 14 and data[5] == 8 and data[6:14] == CONTROL:
            return "control"
        return "long" if len(data) >= 7 else "short"
    if data[0] & 0xC0 != 0x40:
        return "not_quic"
    if data[1:9] in (TO_B, MARK):
        return "channel" if data[1:9] == TO_B else "mark"
    if data[1:9] == LANE:
        return "authentication" if len(data) >= 30 else "short"
    return "control" if data[1:9] == CONTROL else "unknown_id"


def judge(payload: bytes) -> str:
    """What becomes of an authentic payload that is fresh."""
    if payload[0] != BIND:
        return "unexpected_kind"
    return "bind" if len(payload) == BIND_SIZE else "short"


def send(relay: Relay, program: Program, last: list[bytes]) -> tuple[str, bytes]:
    """One step; what has to become of it, and its bytes."""
    mode, content = program.number() % 10, program.string()[:LARGEST]
    if mode == ANSWER:
        relay.number = (relay.number & (1 << 62) - 1) + 1
        content = _bind(relay.number + (1 << 62), relay.challenge)
    if (mode in (AUTHENTIC, AWAY) and content) or mode == ANSWER:
        last[:] = [relay.seal(content)]
        relay.send(last[0], relay.home if mode == AUTHENTIC else relay.away)
        return judge(content), content
    if mode == AGAIN and last:
        relay.send(last[0], relay.home)
        return "duplicate", last[0]
    prefix = {CHANNEL: b"\x43" + TO_B, TO_CONTROL: b"\x43" + CONTROL, FORGED: b"\x43" + LANE}.get(mode, b"")
    datagram = prefix + content if mode != LONG else b"\xc3\0\0\0\x01\x08" + CONTROL + content
    relay.send(datagram, relay.stranger if mode == STRANGER else relay.home)
    return sort(datagram), datagram


def arrived(due: int, *socks: socket.socket) -> list[tuple[socket.socket, bytes]]:
    """At least `due` datagrams, and all that is there then: a batch is sent in no order between targets."""
    found: list[tuple[socket.socket, bytes]] = []
    while ready := select.select(socks, [], [], DEADLINE if len(found) < due else 0)[0]:
        found += [(sock, sock.recv(65536)) for sock in ready]
    return found


def target(data: bytes) -> None:
    """One batch, then what came of it."""
    relay = _relay()
    before = Counter(relay.drops())
    program, wanted, last = Program(data), Counter[str](), list[bytes]()
    expected: dict[str, list[bytes]] = {"channel": [], "long": [], "control": [], "bind": [], "mark": []}
    for _ in range(STEPS):
        if not program:
            break
        outcome, held = send(relay, program, last)
        wanted[outcome] += 1
        expected.setdefault(outcome, []).append(held)
    relay.finish()
    drops = Counter(relay.drops()) - before
    carried = [one for _, one in arrived(len(expected["channel"]), relay.b)]
    assert carried == [b"%c" % one[0] + AT_B + one[9:] for one in expected["channel"]]
    events = Counter[str]()
    for kind, content in _events(relay):
        events[kind] += 1
        assert kind == "moved" or content in expected[kind], "an event of something that was not sent"
    for kind, full in (("long", "long_ring_full"), ("control", "control_rate")):
        assert events[kind] + drops.pop(full, 0) == len(expected[kind]), kind
    due = len(expected["bind"]) - drops.pop("stale_bind", 0) - drops.pop("message_rate", 0)
    assert check_answers(relay, due, events["moved"]) == due
    for kind in expected.keys() & {"channel", "long", "control", "bind", "mark"}:
        wanted.pop(kind, None)
    assert drops == wanted


def check_answers(relay: Relay, due: int, moved: int) -> int:
    """How many BOUND came back; an endpoint that moved is where a challenge was answered from."""
    answered = 0
    for sock, datagram in arrived(due, relay.home, relay.away, relay.stranger):
        assert len(datagram) == BIND_SIZE + 29
        _, payload = frame_packet.open_packet(material(41), 0, datagram)
        answered += 1
        assert sock is not relay.stranger, "it was sent to where no BIND came from"
        if sock is relay.away and payload[9:17] != bytes(8):
            relay.challenge = payload[9:17]
    now = relay.forwarder.endpoint(A)
    assert moved or now == relay.endpoint, "the endpoint moved, and nobody was told"
    assert now in (raw_sockaddr(relay.home), raw_sockaddr(relay.away))
    relay.endpoint = now
    return answered


def _events(relay: Relay) -> Iterator[tuple[str, bytes]]:
    names = {EVENT_LONG_HEADER: "long", EVENT_CONTROL: "control", EVENT_ENDPOINT: "moved"}
    while events := relay.plane.poll():
        for event in events:
            yield names[event.kind], event.data

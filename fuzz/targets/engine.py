"""Of whatever datagrams reach a client's data plane, each is one event, one frame or one drop by its reason.

An input is a batch of datagrams for a real engine between sockets: raw ones, forged and authentic packets,
repeated ones, through channels or not.  A slow twin says what becomes of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fuzz.program import Program, string
from shadowmesh._ext.engine import EVENT_CONTROL, EVENT_LANE_MESSAGE, EVENT_LONG_HEADER
from shadowmesh._ext.packets import PayloadKind
from tests.unit.ext_harness import Node, Peer, frame, udp_socket

COVERS: tuple[str, ...] = ()
CHANNEL, CONTROL = b"channel1", b"control1"
LANE = 1
SHORTEST_PACKET, SHORTEST_LONG_HEADER = 30, 7
LARGEST = 2000
"""Bytes of a datagram: more than the network carries."""

STEPS = 12
MESSAGES = frozenset(
    (
        PayloadKind.KIND_PROBE_REQUEST,
        PayloadKind.KIND_PROBE_REPLY,
        PayloadKind.KIND_PATH_REQUEST,
        PayloadKind.KIND_PATH_RESPONSE,
        PayloadKind.KIND_PATH_COMPLETE,
        PayloadKind.KIND_BIND,
        PayloadKind.KIND_BOUND,
        PayloadKind.KIND_OBSERVED,
    )
)
FRAMES = frozenset((PayloadKind.KIND_FRAME, PayloadKind.KIND_SEGMENT, PayloadKind.KIND_FRAGMENT))
RATES = {"long": "long_ring_full", "control": "control_rate", "message": "message_rate"}
"""What else may become of an event: the engine gives each class a rate or a ring."""

RAW, STRANGER, FORGED, AUTHENTIC, THROUGH, IN_CHANNEL, TO_CONTROL, AGAIN = range(8)


def _step(mode: int, content: bytes) -> bytes:
    return bytes([mode]) + string(content)


def _seeds() -> Iterator[bytes]:
    for kind in PayloadKind:
        yield b"".join(_step(mode, bytes([kind]) + bytes(34)) for mode in (AUTHENTIC, AGAIN, THROUGH))
    frames = [frame(b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x4d"), frame(b"\xff" * 6, b"\x02\0\0\0\0\x4e")]
    yield b"".join(_step(AUTHENTIC, b"\x01" + one) for one in frames)
    initial = b"\xc3\0\0\0\x01\x08destinat\x00" + bytes(1200)
    yield _step(RAW, initial) + _step(STRANGER, initial) + _step(IN_CHANNEL, initial)
    yield _step(FORGED, bytes(21)) + _step(FORGED, bytes(20)) + _step(TO_CONTROL, bytes(40))
    yield _step(IN_CHANNEL, b"\x43" + CHANNEL + b"\x43") + _step(IN_CHANNEL, b"") + _step(RAW, b"\x17")
    yield _step(RAW, b"") + _step(RAW, b"\x43unknown!") + _step(IN_CHANNEL, b"\x43" + CONTROL + b"x")


SEEDS = list(_seeds())


class Plane:
    """The engine, a peer, and a socket that the engine knows nothing of."""

    def __init__(self) -> None:
        self.node = Node(1)
        self.peer = Peer(self.node)
        self.stranger = udp_socket()
        self.marks = self.held = self.came = 0
        self.node.engine.install_channel(CHANNEL)
        self.node.engine.install_control(CONTROL)
        self.node.engine.allow_source(self.peer.sockaddr)

    def close(self) -> None:
        self.node.__exit__(None, None, None)
        self.peer.udp.close()
        self.stranger.close()

    def finish(self) -> list[bytes]:
        """Wait until all that was sent is dealt with; the frames that came of it."""
        self.marks += 1
        marker = frame(self.node.mac, self.peer.mac, b"end of batch %d" % self.marks)
        self.peer.send(self.peer.packet(b"\x01" + marker))
        found = []
        while (got := self.node.receive()) != marker:
            found.append(got)
        return found

    def totals(self) -> Counter[str]:
        """Drops by reason, and what was empty or made of fragments."""
        counters = self.node.engine.counters()
        wanted = {name: counters[name] for name in ("empty_packets", "reassembled_frames")}
        return Counter(self.node.drops()) + Counter(wanted)


_planes: list[Plane] = []


def _plane() -> Plane:
    if not _planes:
        _planes.append(Plane())
    return _planes[0]


def close() -> None:
    """Stop the engine; the next input starts another."""
    while _planes:
        _planes.pop().close()


def sort(data: bytes, known: bool, relayed: bool = False) -> tuple[str, bytes]:
    """The slow twin: the drop reason or the event of a datagram that is not authentic, and what it holds."""
    if not data or (data[0] & 0xC0 == 0x40 and len(data) < 9):
        return "short", data
    if data[0] & 0xC0 == 0xC0:
        if not relayed and not known:
            return "unexpected_long_header", data
        return ("long" if len(data) >= SHORTEST_LONG_HEADER else "short"), data
    if data[0] & 0xC0 != 0x40:
        return "not_quic", data
    wire_id = data[1:9]
    if wire_id == CONTROL:
        return "control", data
    if wire_id == CHANNEL:
        return ("nested_channel", data) if relayed else sort(data[9:], known, True)
    if wire_id in Peer.LANES:
        return ("authentication" if len(data) >= SHORTEST_PACKET else "short"), data
    return "unknown_id", data


def judge(payload: bytes) -> str:
    """What becomes of an authentic payload that is fresh."""
    kind = payload[0]
    if kind in MESSAGES:
        return "message"
    if kind in FRAMES:
        return "frame"
    return "empty_packets" if kind in (PayloadKind.KIND_PADDING, PayloadKind.KIND_EMPTY) else "unknown_kind"


def send(plane: Plane, program: Program, last: list[bytes]) -> tuple[str, bytes]:
    """One step; what has to become of it, and the bytes of the event."""
    mode, content = program.number() % 8, program.string()[:LARGEST]
    if mode in (AUTHENTIC, THROUGH) and content:
        packet = plane.peer.packet(content, LANE)
        last[:] = [packet]
        plane.peer.send(packet if mode == AUTHENTIC else b"\x43" + CHANNEL + packet)
        return judge(content), content
    if mode == AGAIN and last:
        plane.peer.send(last[0])
        return "duplicate", last[0]
    if mode == FORGED:
        content = b"\x43" + Peer.LANES[LANE] + content
    elif mode == IN_CHANNEL:
        content = b"\x43" + CHANNEL + content
    elif mode == TO_CONTROL:
        content = b"\x43" + CONTROL + content
    (plane.stranger if mode == STRANGER else plane.peer.udp).sendto(content, plane.node.udp.getsockname())
    return sort(content, mode != STRANGER)


def target(data: bytes) -> None:
    """One batch, then what came of it."""
    plane = _plane()
    before = plane.totals()
    program, wanted, expected, last = Program(data), Counter[str](), list[tuple[str, bytes]](), list[bytes]()
    for _ in range(STEPS):
        if not program:
            break
        expected.append(send(plane, program, last))
        wanted[expected[-1][0]] += 1
    frames = plane.finish()
    drops = plane.totals() - before
    events = Counter[str]()
    for event in _events(plane):
        events[event[0]] += 1
        assert event in expected, "an event of something that was not sent"
    for name, full in RATES.items():
        assert events[name] + drops.pop(full, 0) == wanted.pop(name, 0), name
    held = wanted.pop("frame", 0)
    for reason, count in wanted.items():
        assert drops[reason] >= count, reason
    rest = drops - wanted
    # Over all inputs: fragments of former ones are dropped, or make a frame, when others come or time is up.
    plane.held += held
    plane.came += len(frames) + rest.total()
    assert plane.came <= 2 * plane.held, f"more came of frames than there were: {rest}"
    assert plane.held or not rest, f"dropped, and nobody knows why: {rest}"


def _events(plane: Plane) -> Iterator[tuple[str, bytes]]:
    names = {EVENT_LONG_HEADER: "long", EVENT_CONTROL: "control", EVENT_LANE_MESSAGE: "message"}
    while events := plane.node.poll():
        for event in events:
            yield names[event.kind], event.data

"""Whatever comes in whatever order and at whatever time, a session agrees on keys only by its peer's own
messages, unaltered and in order, on one and the same connection; both ends then hold the same, once, and
nothing comes after the end.

An input is a program for both ends of a link whose QUIC connection is posed by a few lines: which messages
that were sent reach whom and how altered, when TLS is complete and confirmed, how time passes.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from typing import cast

from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamDataReceived

from fuzz.program import Program, string
from fuzz.traffic import ALICE, BOB, machines
from shadowmesh.crypto.quic import SessionConnection
from shadowmesh.session.link import HANDSHAKE_TIMEOUT, MAX_EARLY, Confirmed, Ended, Link, Ready, Received
from shadowmesh.wire import messages
from shadowmesh.wire.messages import Close, Message, MessageType

COVERS = ("shadowmesh.session.link", "shadowmesh.session.machine", "shadowmesh.wire.reassembly")
STEPS = 40
PAUSES = (0.0, 0.05, 1.0, HANDSHAKE_TIMEOUT)
(
    COMPLETE, CONFIRM, DELIVER, ALTER, RETYPE, RAW, CUT, WAIT, OTHER_STREAM, SEND, GOODBYE, SPLICE, NEXT,
) = range(13)  # fmt: skip
SAME, RESUMED, TWO_CONNECTIONS, OTHER_KEY = range(4)


class Connection:
    """What `Link` uses of a QUIC connection."""

    begun, key_exchange, cipher = True, "posed", "posed"

    def __init__(self, secret: int, peer_mldsa: bytes, resumed: bool) -> None:
        self.peer_mldsa_public, self.resumed = peer_mldsa, resumed
        self.handshake_confirmed = False
        self.closed_by_peer: ConnectionTerminated | None = None
        self.events: deque[QuicEvent] = deque()
        self.written: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self._secret = secret

    def next_event(self) -> QuicEvent | None:
        return self.events.popleft() if self.events else None

    def export(self, label: bytes, _context: bytes, size: int) -> bytes:
        return bytes([self._secret, label[-1]]) * (size // 2)

    def wipe_exporter(self) -> None: ...

    def send_stream_data(self, _stream: int, data: bytes) -> None:
        self.written += [data[start:end] for start, end in pairwise(borders(data))]

    def unsent(self, _stream: int) -> int:
        return 0

    def get_timer(self) -> None: ...

    def receive(self, data: bytes, now: float) -> None: ...

    def close(self, error_code: int, reason_phrase: str) -> None:
        self.closed = error_code, reason_phrase

    def transmit(self, _now: float) -> list[bytes]:
        return []


def borders(data: bytes) -> list[int]:
    """Where the messages in genuine bytes begin and end."""
    found = [0]
    while found[-1] < len(data):
        found.append(found[-1] + 4 + int.from_bytes(data[found[-1] + 1 : found[-1] + 4], "big"))
    return found


class End:
    """One link, what it was fed, and what it said."""

    def __init__(self, number: int, kind: int) -> None:
        identity, peer = (ALICE, BOB) if number == 0 else (BOB, ALICE)
        shown = identity if kind == OTHER_KEY else peer
        mldsa = shown.mldsa.public_key().public_bytes_raw()
        secret = number if kind == TWO_CONNECTIONS else 7
        self.connection = Connection(secret, mldsa, kind == RESUMED)
        self.link = Link(cast("SessionConnection", self.connection), machines()[number], 0.0)
        self.needed = 1 if number == 0 or kind == RESUMED else 2
        """Messages of the other end before keys are agreed."""
        self.fed = b""
        self.keys: tuple[bytes, bytes] | None = None
        self.heard: Counter[type] = Counter()
        self.completed = False

    def feed(self, data: bytes, now: float, stream: int = 0, ends: bool = False) -> None:
        if not self.completed:  # nothing comes before
            return
        self.fed += data if stream == 0 else b""
        self.push(StreamDataReceived(data, ends, stream), now)

    def push(self, event: QuicEvent | None, now: float) -> None:
        if event is not None:
            self.connection.events.append(event)
        self.link.handle_datagram(b"", now)

    def collect(self, other: End, now: float) -> None:
        """Events; each is checked against what this end was fed."""
        self.link.transmit(now)
        while (event := self.link.next_event()) is not None:
            assert not self.heard[Ended], "something came after the end"
            self.heard[type(event)] += 1
            if isinstance(event, Ready):
                genuine = b"".join(other.connection.written[: self.needed])
                assert len(other.connection.written) >= self.needed
                assert self.fed.startswith(genuine), "keys were agreed on with an altered message"
                self.keys = bytes(event.agreement.send_keys), bytes(event.agreement.receive_keys)
            elif isinstance(event, Confirmed):
                genuine = b"".join(other.connection.written[:2])
                assert self.fed.startswith(genuine), "an altered confirmation was believed"
            elif isinstance(event, Received):
                assert self.link.established
        for once in (Ready, Confirmed, Ended):
            assert self.heard[once] <= 1
        assert sum(len(body) for _, body in self.link._early) <= MAX_EARLY
        assert len(self.link._reassembler._buffer) <= self.link._reassembler.limit + 4
        assert not self.link.ended or self.link.deadline is None


class World:
    """Both ends, and all messages that either has written."""

    def __init__(self, kind: int) -> None:
        self.kind, self.now = kind, 0.0
        self.ends = End(0, kind), End(1, kind)
        self.next = [0, 0]

    def sent(self) -> list[bytes]:
        return [message for end in self.ends for message in end.connection.written]

    def step(self, program: Program) -> None:
        what, number = program.number() % 13, program.number() % 2
        end, other = self.ends[number], self.ends[1 - number]
        if what == COMPLETE and not end.completed:
            end.completed = True
            end.push(HandshakeCompleted(None, False, end.connection.resumed), self.now)
        elif what == CONFIRM and end.completed:
            end.connection.handshake_confirmed = True
            end.push(None, self.now)
        elif what == NEXT and self.next[number] < len(other.connection.written):
            end.feed(other.connection.written[self.next[number]], self.now)
            self.next[number] += 1
        elif what == WAIT:
            self.now += program.choose(PAUSES)
        elif what == SEND and end.link.established and not end.link.ended:
            end.link.send(Close(b"c" * 8))
        elif what == GOODBYE:
            frame = None if program.number() % 2 else 0
            end.connection.closed_by_peer = ConnectionTerminated(program.number(), frame, "bye [12345]")
            end.push(None, self.now)
        else:
            self.deliver(what, end, program)
        for one in self.ends:
            one.link.handle_timer(self.now)
        for one, its_peer in (self.ends, self.ends[::-1]):
            one.collect(its_peer, self.now)

    def deliver(self, what: int, end: End, program: Program) -> None:
        """One of the messages that were sent, to whom and how ever."""
        if what == RAW:
            end.feed(program.string(), self.now)
            return
        sent = self.sent()
        if not sent or what in (COMPLETE, CONFIRM, NEXT, SEND):
            return
        message = bytearray(program.choose(sent))
        if what == ALTER:
            message[program.number(2) % len(message)] ^= program.number()
        elif what == RETYPE:
            message[0] = program.choose(list(MessageType))
        elif what == CUT:
            del message[program.number(2) % len(message) :]
        elif what == SPLICE:
            another, size = program.choose(sent), 32 * (1 + program.number() % 2)
            message[-size:] = another[-size:]
        other_stream = what == OTHER_STREAM
        end.feed(
            bytes(message), self.now, 4 if other_stream else 0, other_stream and bool(program.number() % 2)
        )


def target(data: bytes) -> None:
    """Step by step; then what both ends hold."""
    program = Program(data)
    world = World(program.number() % 4)
    for _ in range(STEPS):
        if not program:
            break
        world.step(program)
    alice, bob = world.ends
    for end in world.ends:
        late = world.now >= HANDSHAKE_TIMEOUT
        assert end.link.established or end.link.ended or not late, "a handshake that never ends"
    if world.kind in (TWO_CONNECTIONS, OTHER_KEY):
        assert alice.keys is None
        assert bob.keys is None
    if alice.keys and bob.keys:
        assert alice.keys == bob.keys[::-1], "the ends hold different keys"


def _do(what: int, number: int, *more: int) -> bytes:
    return bytes([what, number, *more])


def _seeds() -> list[bytes]:
    begin = b"".join(_do(what, number) for what in (COMPLETE, CONFIRM) for number in (0, 1))
    whole = begin + b"".join(_do(NEXT, number) for number in (1, 0, 1, 0))
    late = (
        _do(COMPLETE, 0) + _do(COMPLETE, 1) + _do(NEXT, 1) + _do(NEXT, 0) + _do(CONFIRM, 0) + _do(CONFIRM, 1)
    )
    raw: list[Message] = [Close(b"c" * 8)]
    seeds = [bytes([kind]) + whole for kind in range(4)]
    seeds += [bytes([SAME]) + late + _do(NEXT, 1) + _do(NEXT, 0), bytes([RESUMED]) + late]
    seeds += [bytes([SAME]) + whole + _do(SEND, 0) + _do(NEXT, 1) + _do(GOODBYE, 1, 1, 0)]
    seeds += [
        bytes([SAME]) + begin + _do(ALTER, 1, 0, 0, 40, 1),
        bytes([SAME]) + begin + _do(SPLICE, 1, 0, 0, 1),
    ]
    seeds += [bytes([SAME]) + begin + _do(WAIT, 0, 3), bytes([RESUMED]) + whole + _do(OTHER_STREAM, 0, 0, 1)]
    return seeds + [bytes([SAME]) + begin + _do(RAW, 1) + string(messages.encode(one)) for one in raw]


SEEDS = _seeds()

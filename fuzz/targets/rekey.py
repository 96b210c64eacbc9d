"""Whatever messages of rekeys reach either end in whatever order, keys come only of the peer's own
messages, each epoch is agreed once, both ends hold the same keys of it, and an end that refused one
message takes none.

An input is a program for both ends of one session: who begins, which messages that were sent reach whom and
how altered.
"""

from __future__ import annotations

from fuzz.program import Program
from fuzz.traffic import ALICE, BOB, machines, secrets_with, split
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket, RemoteProtocolError
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.session.machine import Agreement
from shadowmesh.session.rekey import Rekey, State
from shadowmesh.wire import messages
from shadowmesh.wire.messages import MessageType, RekeyAnswer, RekeyAsk, RekeyOffer
from shadowmesh.wire.reassembly import Reassembler

COVERS = ("shadowmesh.session.rekey",)
LANES = [bytes((lane,)) * 8 for lane in range(8)]
BLIND_RUNS = 40
"""Of the tests: an input takes milliseconds."""

STEPS = 16
OFFER, ASK, NEWEST, DELIVER, ALTER, CUT, SPLICE, RETYPE = range(8)


def _agreements() -> tuple[Agreement, Agreement]:
    """What Alice and Bob hold after one handshake."""
    alice, bob = machines()
    to_alice, to_bob = secrets_with(BOB), secrets_with(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    bob.handle(*split(alice.handle(*split(challenge), to_alice)), to_bob)
    assert alice.agreement is not None
    assert bob.agreement is not None
    return alice.agreement, bob.agreement


AGREEMENTS = _agreements()
_ask = bytes([ASK, 1, NEWEST, 0])
_round = bytes([OFFER, 0, NEWEST, 1, NEWEST, 0])
SEEDS = [
    _round * 2 + _ask + _round,
    bytes([OFFER, 0, NEWEST, 1, NEWEST, 1]),
    _round + bytes([DELIVER, 1, 0, DELIVER, 0, 1]),
    *(
        bytes([OFFER, 0, ALTER, 1, 0, place >> 8, place & 255, 1])
        for place in (0, 1, 5, 20, 300, 1700, 1800, 6000)
    ),
    *(
        bytes([OFFER, 0, NEWEST, 1, ALTER, 0, 1, place >> 8, place & 255, 1])
        for place in (5, 300, 1700, 6000)
    ),
    bytes([OFFER, 0, CUT, 1, 0, 4, 0, NEWEST, 1]),
    bytes([OFFER, 0, NEWEST, 1, SPLICE, 0, 1, 0]),
    bytes([OFFER, 0, RETYPE, 1, 0, 22]),
]


class End:
    """One end, the messages that it sent, and the keys of all its epochs."""

    def __init__(self, identity: Identity, agreement: Agreement) -> None:
        self.rekey = Rekey(identity, agreement)
        self.sent: list[bytes] = []
        self.keys: dict[int, tuple[bytes, bytes]] = {}

    def take(self, keys: EpochKeys) -> None:
        assert keys.epoch not in self.keys, "an epoch was agreed on twice"
        assert keys.epoch == len(self.keys) + 1
        self.keys[keys.epoch] = bytes(keys.send_keys), bytes(keys.receive_keys)

    def receive(self, data: bytes, genuine: list[bytes]) -> None:
        """What a session does with bytes that came; `genuine`: all that the other end sent."""
        failed, agreed = self.rekey.state is State.FAILED, len(self.keys)
        try:
            for message_type, body in Reassembler().feed_untrusted(data):
                self._handle(message_type, body)
        except BadPacket:
            pass
        except RemoteProtocolError:
            assert self.rekey.state is State.FAILED
        if len(self.keys) > agreed:
            assert not failed, "it had failed"
            assert data.startswith(tuple(genuine)), "keys were agreed on with an altered message"

    def _handle(self, message_type: MessageType, body: bytes) -> None:
        message, _ = messages.decode(message_type, body)
        raw = messages.frame(message_type, body)
        if isinstance(message, RekeyOffer):
            answer, keys = self.rekey.handle_offer(message, raw, LANES)
            self.sent.append(answer)
            self.take(keys)
        elif isinstance(message, RekeyAnswer):
            self.take(self.rekey.handle_answer(message, raw))
        elif isinstance(message, RekeyAsk):
            self.rekey.handle_ask(message)


def delivered(what: int, ends: tuple[End, End], number: int, program: Program) -> bytes:
    """What reaches an end: one of all the messages that either sent, as it is or changed."""
    if what == NEWEST:
        return ends[1 - number].sent[-1] if ends[1 - number].sent else b""
    sent = [message for end in ends for message in end.sent]
    if not sent:
        return b""
    message = bytearray(program.choose(sent))
    if what == ALTER:
        message[program.number(2) % len(message)] ^= program.number()
    elif what == CUT:
        del message[program.number(2) % len(message) :]
    elif what == SPLICE:
        message[-64:] = program.choose(sent)[-64:]
    elif what == RETYPE:
        message[0] = program.choose(list(MessageType))
    return bytes(message)


def target(data: bytes) -> None:
    """One session."""
    program = Program(data)
    ends = End(ALICE, AGREEMENTS[0]), End(BOB, AGREEMENTS[1])
    for _ in range(STEPS):
        if not program:
            break
        what, number = program.number() % 8, program.number() % 2
        end, other = ends[number], ends[1 - number]
        if what == OFFER and number == 0 and end.rekey.state is State.IDLE:
            end.sent.append(end.rekey.offer(LANES))
        elif what == ASK and number == 1:
            end.sent.append(end.rekey.ask())
        elif what not in (OFFER, ASK):
            end.receive(delivered(what, ends, number, program), other.sent)
    for epoch in ends[0].keys.keys() & ends[1].keys.keys():
        assert ends[0].keys[epoch] == ends[1].keys[epoch][::-1], "the ends hold different keys"
    assert abs(len(ends[0].keys) - len(ends[1].keys)) <= 1

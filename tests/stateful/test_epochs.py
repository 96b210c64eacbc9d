"""The epochs of a session at both ends: rekeys under delay, loss and disorder, and while machines sleep.

Control messages come in order, never, or again; packets come late, twice, in disorder or never. No lane
is used twice under one key, nothing is sealed with keys of 300 s, two epochs at most are received, old roots
are gone, each root comes from the one before; a peer that lies under its own good signatures is refused; and
as soon as messages come through, both ends are in one epoch.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from shadowmesh.core.session import FAILED_OPENS_LIMIT, FAILED_OPENS_REKEY, NUMBER_MARGIN, Session
from shadowmesh.crypto.identity import Identity, composite_verifies
from shadowmesh.crypto.keys import Direction, frame_keys
from shadowmesh.errors import RemoteProtocolError
from shadowmesh.session.link import Received
from shadowmesh.session.machine import Agreement
from shadowmesh.units import NUMBER_LIMIT
from shadowmesh.wire import messages
from shadowmesh.wire.messages import (
    COMPOSITE_SIGNATURE_SIZE,
    HEADER_SIZE,
    MessageType,
    RekeyAnswer,
    RekeyAsk,
    RekeyOffer,
)
from tests.reference.epochs import (
    LIFETIME,
    RECEIVE_OLD,
    REKEY_AFTER,
    Epochs,
    material,
    next_root,
    signed,
)
from tests.stateful import case_of

IDENTITIES = Identity.generate("alice"), Identity.generate("bob")
ROLES = Direction.INITIATOR, Direction.RESPONDER
WORDS = {RekeyAsk: "ask", RekeyOffer: "offer", RekeyAnswer: "answer"}
ENDS = st.integers(0, 1)
NODES = b"".join(one.node_id for one in IDENTITIES)
SESSION = bytes(32)
LIES = "epoch", "signed epoch", "signer", "session", "contents", "Ed25519", "ML-DSA", "share", "kind"
"""What is not as it should be in a message whose signatures hold but for that."""


class Packet(NamedTuple):
    """Under way to the other end; `order`: its place among all that went that way."""

    receiver_id: bytes
    material: bytes
    epoch: int
    sealed_at: float
    order: int


class Sending:
    """Keys in the data plane, as it holds them."""

    def __init__(self, material: bytes, expires_at: float) -> None:
        self.material = material
        self.expires_at = expires_at
        self.wiped = False

    def wipe(self) -> None:
        self.wiped = True


class Plane:
    """The data plane of one end; refuses to use a lane twice."""

    def __init__(self) -> None:
        self.sending: tuple[Sending, bytes] | None = None
        self.made: list[Sending] = []
        self.received: dict[bytes, tuple[int, bytes]] = {}
        self.lanes: list[int] = []
        self._used: set[tuple[bytes, int]] = set()

    def new_send_keys(self, material: bytearray, expires_at: float) -> Sending:
        assert bytes(material) not in {one.material for one in self.made}, "keys made twice"
        self.made.append(Sending(bytes(material), expires_at))
        return self.made[-1]

    def set_lane(self, _peer: int, keys: Sending, lane: int, receiver_id: bytes) -> None:
        assert 0 < lane < 8
        assert not keys.wiped
        assert (keys.material, lane) not in self._used, "a lane used twice"
        self._used.add((keys.material, lane))
        self.sending = keys, receiver_id
        self.lanes.append(lane)

    def install_receive(self, handle: int, _peer: int, ids: list[bytes], material: bytearray) -> None:
        assert not set(ids) & set(self.received)
        self.received |= {one: (handle, bytes(material)) for one in ids}

    def retire_receive(self, handle: int) -> None:
        self.received = {one: held for one, held in self.received.items() if held[0] != handle}


class End:
    """A session, the data plane under it, and what it says."""

    def __init__(self, number: int, root: bytes, now: float, random: Any) -> None:
        self.plane = Plane()
        self.outbox: list[bytes] = []
        self.closed = False
        self.roots: list[bytearray] = []
        handles = itertools.count(1)
        shared: Any = SimpleNamespace(
            identity=IDENTITIES[number],
            tables=self.plane,
            links=SimpleNamespace(pump=lambda driver, now: None),
            random=random,
            receivers={},
            rekey_after=REKEY_AFTER,
            new_handle=lambda: next(handles),
        )
        link = SimpleNamespace(send_encoded=self.outbox.append, close=lambda code, reason: self.close())
        self.agreement = agreement(number, root)
        driver: Any = SimpleNamespace(link=link)
        self.session = Session(shared, driver, 7, self.agreement, now)
        self.model = Epochs(number == 0, now)
        self.handles = {1: 0}
        self.remember()

    def close(self) -> None:
        self.closed = True

    def remember(self) -> None:
        root = self.session._rekey._root
        if not any(root is old for old in self.roots):
            self.roots.append(root)


def agreement(number: int, root: bytes) -> Agreement:
    role, peer = ROLES[number], IDENTITIES[1 - number]
    return Agreement(
        epoch=0,
        send_keys=frame_keys(root, 0, role),
        receive_keys=frame_keys(root, 0, role.other),
        send_lanes=[bytes((1 - number, lane)) * 4 for lane in range(8)],
        receive_lanes=[bytes((number, lane)) * 4 for lane in range(8)],
        peer=peer.node_id,
        peer_ed25519=peer.ed25519_public,
        peer_mldsa=peer.mldsa.public_key().public_bytes_raw(),
        instance=bytes(8),
        version=1,
        role=role,
        root=bytearray(root),
        membership=b"",
        binding=SESSION,
    )


class Rekeys(RuleBasedStateMachine):
    """End 0 is the initiator. `way`: to that end."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.number = itertools.count(1 << 60)
        self.sessions = itertools.count(1)
        self.again()

    def again(self) -> None:
        self.root = bytes((next(self.sessions) % 256,)) * 32
        self.ends = [End(number, self.root, self.now, self.random) for number in (0, 1)]
        self.control: list[list[tuple[bytes, int]]] = [[], []]
        self.past: list[list[bytes]] = [[], []]
        self.packets: list[list[Packet]] = [[], []]
        self.order = itertools.count()
        self.arrived = [-1, -1]
        for number in (0, 1):
            assert not any(self.ends[number].agreement.root)

    def random(self, size: int) -> bytes:
        return next(self.number).to_bytes(size, "big")

    # What happens.

    @rule(
        half_seconds=st.one_of(
            st.integers(1, 40), st.sampled_from([2, 20, 120, 230, 238, 240, 250, 300, 600])
        )
    )
    def wait(self, half_seconds: int) -> None:
        """Time passes, and every timer is served in time."""
        end = self.now + half_seconds / 2
        while True:
            self.now = min(end, *(one.session.deadline for one in self.ends))
            self.serve()
            if self.now >= end or any(one.closed for one in self.ends):
                return

    @rule(seconds=st.sampled_from([1, 100, 119, 200, 290, 299, 300, 301, 1000]))
    def sleep(self, seconds: int) -> None:
        """The machines are asleep, and frames come before timers when they wake."""
        self.now += seconds
        for number in (0, 1):
            self.seal(number)
            self.seal_frame(number)
        self.serve()

    @rule(number=ENDS)
    def change_path(self, number: int) -> None:
        end = self.ends[number]
        end.session.take_lane()
        end.model.take_lane()

    @rule(number=ENDS, what=st.sampled_from(["nothing", "numbers", "forgeries", "too many forgeries"]))
    def look(self, number: int, what: str) -> None:
        """The look of each second at the counters."""
        end, alone = self.ends[number], len(self.ends[number].model.until) == 1
        numbers = NUMBER_LIMIT - NUMBER_MARGIN + (what == "numbers")
        forged = {"forgeries": FAILED_OPENS_REKEY, "too many forgeries": FAILED_OPENS_LIMIT}.get(what, 0)
        end.session.handle_tick(numbers, forged, self.now)
        if alone and what == "too many forgeries":
            end.model.closed = True
        elif what == "numbers" or (alone and forged) or end.model.lane >= 6:
            end.model.want(self.now)
        self.serve()

    @rule(number=ENDS)
    def send(self, number: int) -> None:
        self.seal(number)
        self.seal_frame(number)

    @rule(way=ENDS)
    def deliver_control(self, way: int) -> None:
        if self.control[way]:
            raw, order = self.control[way].pop(0)
            self.arrived[way] = max(self.arrived[way], order)
            self.past[way].append(raw)
            self.hear(way, raw)

    @precondition(lambda self: self.past[0] + self.past[1])
    @rule(way=ENDS, which=st.integers(0, 50), to_sender=st.booleans())
    def repeat_control(self, way: int, which: int, to_sender: bool) -> None:
        """A peer that says something twice, or says what it was told."""
        if self.past[way]:
            self.hear(1 - way if to_sender else way, self.past[way][which % len(self.past[way])])

    @rule(way=st.sampled_from([0, 0, 0, 1]), epoch=st.integers(-1, 2))
    def ask(self, way: int, epoch: int) -> None:
        """A peer that asks when it likes, for the epoch that it likes, though it may be the initiator."""
        wanted = self.ends[way].model.newest + epoch
        if wanted >= 1:
            self.hear(way, messages.encode(RekeyAsk(wanted)))

    @rule()
    def hasten(self) -> None:
        """An initiator that leaves no pause between two rekeys."""
        self.rekey(0, True)
        end = self.ends[0]
        end.model.hasten(self.now)
        if end.session._rekey_at is not None:
            end.session._rekey_at = self.now
        self.serve()
        while self.control[1]:
            self.deliver_control(1)

    @rule(way=ENDS, lie=st.sampled_from(LIES))
    def lie(self, way: int, lie: str) -> None:
        """In the next rekey, one end says what it may not."""
        self.look(0, "numbers")
        for _ in range(4):
            honest = next((raw for raw, _ in self.control[way] if raw[0] != MessageType.REKEY_ASK), None)
            if honest is not None:
                self.tell(way, lie, honest)
                return
            self.wait(2)
            while self.control[1 - way]:
                self.deliver_control(1 - way)

    @rule(way=ENDS, which=st.integers(0, 50), keep=st.booleans())
    def deliver_packet(self, way: int, which: int, keep: bool) -> None:
        if self.packets[way]:
            self.open(way, which % len(self.packets[way]), keep)

    @rule(wanted_by=ENDS, packets=st.booleans(), again=st.booleans())
    def rekey(self, wanted_by: int, packets: bool, again: bool = False) -> None:
        """A whole one, as soon as may be; perhaps without a packet between the messages.

        :param again: whether the responder wants the next one at once.
        """
        self.look(wanted_by, "numbers")
        for _ in range(4):
            self.wait(2)
            for way in (0, 1):
                while self.control[way]:
                    self.deliver_control(way)
                if again:
                    self.look(1, "numbers")
                while packets and self.packets[way]:
                    self.open(way, 0, False)

    @rule()
    def calm(self) -> None:
        """Everything comes through from now on: both ends are in one epoch soon, and hear each other."""
        for _ in range(2 * int(RECEIVE_OLD) + 4):
            for way in (0, 1):
                self.send(1 - way)
                while self.packets[way] or self.control[way]:
                    self.next_of(way)
            self.wait(1)
            if any(one.closed for one in self.ends):
                return
        assert len({end.session.epoch for end in self.ends}) == 1

    # How it happens.

    def next_of(self, way: int) -> None:
        control, packets = self.control[way], self.packets[way]
        if control and (not packets or control[0][1] < packets[0].order):
            self.deliver_control(way)
        else:
            self.open(way, 0, False)

    def serve(self) -> None:
        """Timers of both, and what they say; a session that is over is followed by another."""
        for end in self.ends:
            for _ in range(4):
                if not end.closed and end.session.deadline <= self.now:
                    end.session.handle_timer(self.now)
            end.model.pass_time(self.now)
        for number, end in enumerate(self.ends):
            assert end.closed == end.model.closed
            self.collect(number)
        if any(end.closed for end in self.ends):
            self.end()

    def end(self) -> None:
        for end in self.ends:
            end.session.retire()
            assert not end.plane.received
            assert not any(any(root) for root in end.roots)
            assert all(keys.wiped for keys in end.plane.made)
        self.again()

    def collect(self, number: int) -> None:
        end = self.ends[number]
        said = []
        for raw in end.outbox:
            message, _ = messages.decode(MessageType(raw[0]), raw[HEADER_SIZE:])
            assert isinstance(message, RekeyAsk | RekeyOffer | RekeyAnswer)
            said.append((WORDS[type(message)], message.epoch))
            self.control[1 - number].append((raw, next(self.order)))
        assert said == end.model.said
        end.outbox.clear()
        end.model.said.clear()

    def tell(self, way: int, lie: str, honest: bytes) -> None:
        end, raw = self.ends[way], self.told(way, lie, honest)
        message, _ = messages.decode(MessageType(raw[0]), raw[HEADER_SIZE:])
        too_soon = end.model.too_soon("offer", self.now)
        with pytest.raises(RemoteProtocolError):
            end.session.handle_message(Received(message, raw), self.now)
        assert too_soon or not any(end.session._rekey._root)
        self.end()

    def told(self, way: int, lie: str, honest: bytes) -> bytes:
        """The message to that end with one lie in it."""
        message, _ = messages.decode(MessageType(honest[0]), honest[HEADER_SIZE:])
        assert isinstance(message, RekeyOffer | RekeyAnswer)
        epoch, peer = message.epoch, self.ends[way].session._rekey._agreement
        content, theirs = honest[:-COMPOSITE_SIGNATURE_SIZE], honest[-COMPOSITE_SIGNATURE_SIZE:]
        truth = self.signed(way, epoch, content)
        assert composite_verifies(peer.peer_ed25519, peer.peer_mldsa, theirs, truth)
        if lie == "epoch":
            message = structs.replace(message, epoch=epoch + 1)
        elif lie == "kind":
            kind = RekeyOffer if isinstance(message, RekeyAnswer) else RekeyAnswer
            message = kind(*structs.astuple(message))
        elif lie == "share":
            message = structs.replace(message, share=bytes(len(message.share)))
        content = messages.encode(message, bytes(COMPOSITE_SIGNATURE_SIZE))[:-COMPOSITE_SIGNATURE_SIZE]
        proof = bytearray(IDENTITIES[1 - way].sign_composite(self.signed(way, epoch, content, lie)))
        proof[0] ^= lie == "Ed25519"
        proof[-1] ^= lie == "ML-DSA"
        return content + bytes(proof)

    def signed(self, way: int, epoch: int, content: bytes, lie: str = "") -> bytes:
        """What the other end signs of a message to that end."""
        role = ROLES[1 - way]
        before = self.ends[0].session._rekey._offer if way == 0 and lie != "kind" else b""
        return signed(
            (role.other if lie == "signer" else role).value,
            b"another" * 4 + bytes(4) if lie == "session" else SESSION,
            epoch + (lie == "signed epoch"),
            before + content + b"!" * (lie == "contents"),
            NODES,
        )

    def hear(self, number: int, raw: bytes) -> None:
        end = self.ends[number]
        message, _ = messages.decode(MessageType(raw[0]), raw[HEADER_SIZE:])
        assert isinstance(message, RekeyAsk | RekeyOffer | RekeyAnswer)
        if isinstance(message, RekeyAsk) and end.model.initiator:
            assert end.session._rekey.handle_ask(message) == end.model.grants(message.epoch)
        word = WORDS[type(message)]
        too_soon = end.model.too_soon(word, self.now)
        if not end.model.take(word, message.epoch, self.now):
            with pytest.raises(RemoteProtocolError):
                end.session.handle_message(Received(message, raw), self.now)
            assert too_soon or not any(end.session._rekey._root)
            self.end()
            return
        if isinstance(message, RekeyAnswer):
            self.derive(message, raw)
        show = end.session.handle_message(Received(message, raw), self.now)
        end.remember()
        assert show == isinstance(message, RekeyAnswer)
        self.collect(number)
        if not isinstance(message, RekeyAsk):
            end.handles[max(handle for handle, _ in end.plane.received.values())] = end.model.newest
        if show:
            self.seal(number)

    def derive(self, answer: RekeyAnswer, raw: bytes) -> None:
        """The root that the initiator comes to by this answer, from that before."""
        rekey = self.ends[0].session._rekey
        assert rekey._exchange is not None
        contents = rekey._offer + raw[:-COMPOSITE_SIGNATURE_SIZE]
        self.root = next_root(self.root, rekey._exchange.finish(answer.share), contents)

    def seal(self, number: int) -> None:
        """A packet of lane 0."""
        end = self.ends[number]
        epoch, sealed = end.model.sealing, end.session.seal(b"\3", self.now)
        assert (sealed is not None) == end.model.may_seal(self.now)
        if sealed is not None:
            self.put(number, sealed[1:9], end.plane.made[epoch].material, epoch)

    def seal_frame(self, number: int) -> None:
        """What the data plane does with a frame."""
        end = self.ends[number]
        assert (end.plane.sending is None) == (end.model.lane == 0)
        if end.plane.sending is None:
            return
        keys, receiver_id = end.plane.sending
        assert keys is end.plane.made[end.model.sealing]
        assert end.plane.lanes[-1] == end.model.lane
        assert (self.now < keys.expires_at) == end.model.may_seal(self.now)
        if self.now < keys.expires_at:
            self.put(number, receiver_id, keys.material, end.model.sealing)

    def put(self, number: int, receiver_id: bytes, material: bytes, epoch: int) -> None:
        packet = Packet(receiver_id, material, epoch, self.now, next(self.order))
        self.packets[1 - number].append(packet)

    def open(self, way: int, which: int, keep: bool) -> None:
        packet, end = self.packets[way][which], self.ends[way]
        if not keep:
            del self.packets[way][which]
        handle, material = end.plane.received.get(packet.receiver_id, (0, b""))
        opens = packet.epoch in end.model.until
        assert bool(handle) == opens
        if packet.order > self.arrived[way] and self.now - packet.sealed_at < RECEIVE_OLD:
            assert opens, "a packet that was neither late nor out of order was lost"
        self.arrived[way] = max(self.arrived[way], packet.order)
        if handle:
            assert material == packet.material
            assert end.handles[handle] == packet.epoch
            end.session.handle_authentic(handle, self.now)
            end.model.opened(packet.epoch, self.now)
            self.collect(way)

    @invariant()
    def ends_are_where_the_model_is(self) -> None:
        for end in getattr(self, "ends", []):
            session, model = end.session, end.model
            assert session.epoch == model.sealing
            assert session.lanes_left == 7 - model.lane
            handles = {handle for handle, _ in end.plane.received.values()}
            assert {end.handles[handle] for handle in handles} == set(model.until)
            assert len(handles) <= 2
            assert session._rekey.epoch == model.newest
            assert session.epoch_age(self.now) < LIFETIME
            current = cast("bytearray", session._rekey._root)
            assert not any(any(old) for old in end.roots if old is not current), "an old root is still there"
            wanted = {model.sealing, model.newest}
            assert {epoch for epoch, keys in enumerate(end.plane.made) if not keys.wiped} == wanted

    @invariant()
    def ends_are_never_apart_by_more_than_one(self) -> None:
        if hasattr(self, "ends"):
            first, second = (end.model.newest for end in self.ends)
            assert 0 <= second - first <= 1
            roots = [bytes(end.session._rekey._root) for end in self.ends]
            assert (roots[0] == roots[1]) == (first == second)
            assert roots[0] == self.root
            for end, role in zip(self.ends, ROLES, strict=True) if first == second else ():
                assert end.plane.made[-1].material == material(self.root, first, role.value)


TestRekeys = case_of(Rekeys, 40, steps=30)

"""What belongs to one session is put into another, by whole machines: nothing of it counts there.

Messages of handshakes and rekeys are moved as somebody could who broke the TLS around them; datagrams as the
relay can that carries them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aioquic.quic.events import StreamDataReceived

from shadowmesh.crypto.identity import Identity
from shadowmesh.session.link import CloseCode, Ended, Link, Ready, accept
from shadowmesh.session.machine import Opening
from shadowmesh.units import Address
from shadowmesh.wire.headers import destination_id
from shadowmesh.wire.messages import MessageType
from tests.protocol.mesh import IDENTITIES, Mesh

HANDSHAKE = (MessageType.HELLO, MessageType.CHALLENGE, MessageType.RESPONSE, MessageType.ESTABLISHED)
REKEY = (MessageType.REKEY_OFFER, MessageType.REKEY_ANSWER)
CHANNEL = 9


class Scissors:
    """Records what links write first, by writer, reader and type; later puts it in place of such messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: dict[tuple[bytes, bytes, int], bytes] = {}
        self.wanted: MessageType | None = None
        self.source: tuple[bytes, bytes] = b"", b""
        self.target: tuple[bytes, bytes] = b"", b""
        self.done = 0
        original = Link._write

        def write(link: Link, data: bytes) -> None:
            pair = link._machine._identity.node_id, link.peer or b""
            if self.wanted is not None and data[0] == self.wanted and pair == self.target:
                self.done += 1
                data = self.kept[(*self.source, data[0])]
            else:
                self.kept.setdefault((*pair, data[0]), data)
            original(link, data)

        monkeypatch.setattr(Link, "_write", write)

    def splice(self, kind: MessageType, source: tuple[int, int], target: tuple[int, int]) -> None:
        """From now on, the first such message of the pair `source` goes in place of those of `target`."""
        self.wanted = kind
        self.source, self.target = (
            (IDENTITIES[one].node_id, IDENTITIES[other].node_id) for one, other in (source, target)
        )


@pytest.fixture
def scissors(monkeypatch: pytest.MonkeyPatch) -> Scissors:
    return Scissors(monkeypatch)


def dial(mesh: Mesh, other: int) -> None:
    """Client 0 begins a handshake with another."""
    mesh.peer(0, other).handshakes.dial(mesh.network.now)
    mesh.network.flush(mesh.clients[0])


def three(**more: int) -> Mesh:
    """Client 0 has sessions with 1 and 2, which it dialled itself."""
    mesh = Mesh()
    mesh.start_relay()
    for number, others in enumerate(((1, 2), (0,), (0,))):
        mesh.start_client(number, others, **more)  # type: ignore[arg-type]
    for other in (1, 2):
        mesh.pair_up(0, other)
        dial(mesh, other)
    mesh.network.run_for(2)
    return mesh


def pairs(kind: MessageType, other: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Whose message is taken, and in place of whose."""
    from_dialler = kind in (MessageType.HELLO, MessageType.RESPONSE, MessageType.REKEY_OFFER)
    source = 2 if other else 1
    return ((0, source), (0, 1)) if from_dialler else ((source, 0), (1, 0))


@pytest.mark.parametrize("kind", HANDSHAKE)
@pytest.mark.parametrize("other", [False, True], ids=["same pair", "other pair"])
def test_handshake_message_of_another_session(scissors: Scissors, kind: MessageType, other: bool) -> None:
    """A new handshake of a pair that has a session; the old session serves on, and the next try succeeds."""
    mesh = three()
    before = mesh.peer(0, 1).session, mesh.peer(1, 0).session
    scissors.splice(kind, *pairs(kind, other))
    dial(mesh, 1)
    mesh.network.run_for(1)
    assert scissors.done >= 1
    if kind is MessageType.ESTABLISHED:
        # The last message: its writer has the new session already, and has closed the old one.
        assert mesh.peer(0, 1).session in (before[0], None)
    else:
        assert (mesh.peer(0, 1).session, mesh.peer(1, 0).session) == before
        mesh.exchange(0, 1)
    scissors.wanted = None
    mesh.pair_up(0, 1, within=20)
    mesh.stream_until_through(0, 1, within=20)
    mesh.stream_until_through(1, 0, within=20)


@pytest.mark.parametrize("kind", REKEY)
@pytest.mark.parametrize("other", [False, True], ids=["same pair", "other pair"])
def test_rekey_message_of_another_session(scissors: Scissors, kind: MessageType, other: bool) -> None:
    """Both sides refuse, close the session and make a new one; no keys come of it."""
    mesh = three(rekey_seconds=20)
    mesh.network.run_for(30)
    dial(mesh, 1)  # its next rekey is the first again, as the one that was recorded
    mesh.network.run_for(5)
    session = mesh.peer(0, 1).session
    assert session is not None
    assert session.epoch == 0
    scissors.splice(kind, *pairs(kind, other))
    mesh.network.run_until(lambda: scissors.done > 0, 60)
    scissors.wanted = None
    mesh.network.run_for(1)
    assert session.driver.link.ended
    mesh.stream_until_through(0, 1, within=10)
    mesh.stream_until_through(1, 0, within=10)
    assert mesh.peer(0, 1).session is not session


class Middle:
    """TLS with both sides under an identity of its own; every byte of stream 0 is passed on as it is."""

    def __init__(self, alice: Link, bob: Callable[[bytes], Link], own: Identity) -> None:
        self.alice = alice
        opening = Opening(bytes(32), bytes(8), [bytes((lane,)) * 8 for lane in range(8)], bytes(16))
        self.to_bob = Link.initiate(own, IDENTITIES[1].node_id, opening, 0.0)
        first = alice.transmit(0.0)
        self.to_alice = accept(own, None, opening, 0.0, destination_id(first[0]))
        started = self.to_bob.transmit(0.0)
        self.bob = bob(destination_id(started[0]))
        for link, partner in ((self.to_alice, self.to_bob), (self.to_bob, self.to_alice)):
            self._pass_on(link, partner)
        for data in first:
            self.to_alice.handle_datagram(data, 0.0)
        for data in started:
            self.bob.handle_datagram(data, 0.0)

    @staticmethod
    def _pass_on(link: Link, partner: Link) -> None:
        def say_nothing(data: bytes) -> None:
            """Its own messages."""

        def repeat(event: StreamDataReceived) -> None:
            partner._connection.send_stream_data(0, event.data)

        link._write = say_nothing  # type: ignore[method-assign]
        link._handle_stream_untrusted = repeat  # type: ignore[method-assign]

    def run(self) -> None:
        """All datagrams, back and forth, until nobody has any."""
        pairs = ((self.alice, self.to_alice), (self.to_bob, self.bob))
        for step in range(1, 60):
            now = step * 0.05
            for one, other in (*pairs, *((b, a) for a, b in pairs)):
                one.handle_timer(now)
                for data in one.transmit(now):
                    other.handle_datagram(data, now)


def test_man_in_the_middle_who_passes_all_messages_on() -> None:
    """alice and bob each prove themselves, but to the connection of the middle: both refuse."""

    def opening(salt: int) -> Opening:
        return Opening(
            bytes((salt,)) * 32, bytes((salt,)) * 8, [bytes((salt, n)) * 4 for n in range(8)], bytes(16)
        )

    alice = Link.initiate(IDENTITIES[0], IDENTITIES[1].node_id, opening(1), 0.0)
    middle = Middle(
        alice,
        lambda name: accept(IDENTITIES[1], IDENTITIES[0].node_id, opening(2), 0.0, name),
        IDENTITIES[5],
    )
    middle.run()
    bob_events, alice_events = ([*iter(link.next_event, None)] for link in (middle.bob, alice))
    assert not [event for event in (*bob_events, *alice_events) if isinstance(event, Ready)]
    ended = next(event for event in bob_events if isinstance(event, Ended))
    assert (ended.code, ended.by_peer) == (CloseCode.REFUSED, False)
    assert "NodeID" in ended.reason


def collect(mesh: Mesh, begin: int, number: int) -> list[bytes]:
    """What the relay forwarded to a client through channels, without their headers."""
    channels, address = mesh.clients[number].tables.channels, mesh.clients[number].address
    return [
        data[CHANNEL:]
        for _, _, to, data in mesh.network.sent[begin:]
        if to == address and data[1:9] in channels
    ]


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "restarted"])
def test_relay_that_replays_an_old_channel(restart: bool) -> None:
    """All that it carried of the first session, handshake and frames, goes into the channel of the next."""
    mesh = Mesh()
    mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(1)
    mesh.send(0, frame := mesh.frame(0, 1, b"old" * 20))
    mesh.network.run_for(2)
    old = collect(mesh, 0, 1)
    assert frame in mesh.clients[1].frames
    assert len(old) > 10
    if restart:
        mesh.network.detach(mesh.clients[1])
        mesh.start_client(1, (0,))
        mesh.network.run_until(lambda: mesh.connected(1, 0), 30)
    else:
        mesh.peer(0, 1).handshakes.dial(mesh.network.now)
        mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(15)
    victim, peer = mesh.clients[1], mesh.peer(1, 0)
    session, channel = peer.session, peer.channel
    assert session is not None
    assert channel is not None
    del victim.frames[:]
    for data in old:
        mesh.network.send(b"\x43" + channel.receive + data, mesh.relay_address, victim.address)
    mesh.network.run_for(0.5)
    assert len(peer.handshakes._accepted) <= 1, "a ClientHello may be any; nobody goes on with it"
    mesh.exchange(0, 1)
    mesh.network.run_for(20)
    assert peer.session is session
    assert frame not in victim.frames
    assert victim.drops["unknown_id"] + victim.core.drops["late_initial"] >= 2
    assert not peer.handshakes.under_way
    mesh.exchange(0, 1)


def test_relay_that_alters_handshakes() -> None:
    """One bit in each long header that it forwards: no session, and the reason is told; then it is honest."""
    mesh = Mesh()
    relay = mesh.start_relay()
    clients = [mesh.start_client(number, (1 - number,)) for number in (0, 1)]
    transmit = relay.transmit
    hostile = True

    def alter(data: bytes) -> bytes:
        inner = any(data[1:9] in one.tables.channels for one in clients) and data[CHANNEL] & 0x80
        return data[:-5] + bytes((data[-5] ^ 1,)) + data[-4:] if hostile and inner else data

    def altered() -> list[tuple[bytes, Address]]:
        return [(alter(data), target) for data, target in transmit()]

    relay.transmit = altered  # type: ignore[method-assign]
    mesh.network.run_for(25)
    assert not any(mesh.peer(number, 1 - number).session for number in (0, 1))
    told = {mesh.peer(number, 1 - number).last_error for number in (0, 1)}
    assert "the handshake took too long" in told
    hostile = False
    mesh.pair_up(within=60)
    mesh.exchange(0, 1)

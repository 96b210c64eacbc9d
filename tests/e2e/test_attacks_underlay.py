"""Replay and spoofing over a real underlay: what was seen once is of no use again, and no copy moves a path.

A wiretap at the switch copies sealed datagrams of a live session and sends them again, or in place of the
real ones, with the source address that they had, or another.  Each test counts at the receiver's TAP, and
sees good traffic go on.  All share one mesh; those that restart somebody come last.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.capture import CHANNEL_HEADER, Datagram
from shadowmesh.testing.mesh import RELAY_PORT, ClientNode, Mesh
from shadowmesh.testing.process import wait_until
from tests.e2e.frames import Port, barrier
from tests.e2e.wiretap import Wiretap, deaf, listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shadowmesh.testing.lab import Lab

pytestmark = pytest.mark.root

LAB = {"ipv6": False}
PORT = 4400
PATH_MESSAGE = 64
"""Bytes of UDP payload of each message of the re-handshake (docs/protocol.md, 8.2)."""
FRAMES = 40
REKEY_SECONDS = 2


class Bench:
    """alice and bob on a direct path, a wiretap, and a port on each TAP."""

    def __init__(self, mesh: Mesh, tap: Wiretap) -> None:
        self.mesh = mesh
        self.tap = tap
        self.alice, self.bob, self.relay = mesh.clients["alice"], mesh.clients["bob"], mesh.relays["relay"]

    def capture(self, label: bytes) -> tuple[list[bytes], list[Datagram]]:
        """Send frames from alice to bob, each delivered once; and the datagrams that carried them."""
        begin = len(self.tap.poll())
        alice, bob = self.alice, self.bob
        with Port(alice.host, alice.interface) as one, Port(bob.host, bob.interface) as two:
            frames = [one.send(two.mac, label + bytes([number]) * 200) for number in range(FRAMES)]
            barrier(one, two, label)
            assert [two.count(frame) for frame in frames] == [1] * FRAMES
        # Larger than a probe, smaller than a padded one or a packet of QUIC.
        found = [one for one in self.tap.between(alice.host, bob.host, begin) if 200 < len(one.payload) < 350]
        assert len(found) >= FRAMES
        return frames, found

    def attack(self, at: ClientNode, datagrams: Sequence[tuple[tuple[str, int], bytes]], reason: str) -> None:
        """Inject datagrams at a client: all dropped for this reason, none at its TAP, nothing moves."""
        other = self.alice if at is self.bob else self.bob
        before = at.status()["drops"][reason]
        session = at.peer(other.name)["last_handshake"]
        address = str(at.host.ipv4)
        with Port(other.host, other.interface) as one, Port(at.host, at.interface) as two:
            for source, payload in datagrams:
                self.tap.inject(source, (address, PORT), payload)
            wait_until(
                lambda: at.status()["drops"][reason] >= before + len(datagrams),
                10.0,
                lambda: f"{reason}: {before} before, now {at.status()['drops']}",
            )
            barrier(one, two, secrets.token_bytes(8))
            assert [frame for frame in two.poll() if b"barrier" not in frame] == []
        assert self.path(at).startswith((f"direct {other.host.ipv4}:{PORT}", "relay "))
        assert at.peer(other.name)["last_handshake"] >= session, "no new session was needed"

    def lane_zero(self) -> bytes:
        """By which id bob receives what is no frame: that of the handshakes of the direct path."""
        found = self.tap.between(self.alice.host, self.bob.host)
        ids = Counter(one.payload[1:9] for one in found if len(one.payload) == PATH_MESSAGE)
        return ids.most_common(1)[0][0]

    def path(self, at: ClientNode) -> str:
        """What frames of this client take."""
        return str(at.peer("alice" if at is self.bob else "bob")["path"])

    def place(self, one: ClientNode) -> tuple[str, int]:
        return str(one.host.ipv4), PORT


@pytest.fixture(scope="module")
def bench(module_lab: Lab) -> Iterator[Bench]:
    """On fixed ports; the wiretap has seen everything."""
    mesh = Mesh(module_lab)
    mesh.relay()
    alice, bob = mesh.client("alice"), mesh.client("bob")
    for name in ("mallory", "victim"):
        module_lab.host(name)
    mesh.configure()
    for client in (alice, bob):
        client.config["listen"]["port"] = PORT
        client.config["paths"] = {"direct": "auto"}
    with Wiretap(module_lab) as tap:
        mesh.start()
        wait_direct(mesh)
        yield Bench(mesh, tap)


def wait_direct(mesh: Mesh) -> None:
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    for client, other in ((alice, bob), (bob, alice)):
        wait_until(
            lambda c=client, o=other: c.peer(o.name)["path"] == f"direct {o.host.address}:{PORT}",  # type: ignore[misc]
            15.0,
            lambda c=client, o=other: str(c.peer(o.name)),  # type: ignore[misc]
        )


def test_same_lane_again(bench: Bench) -> None:
    """From where they came, in their order; then from a host that is no member."""
    _, captured = bench.capture(b"same lane")
    again = [(bench.place(bench.alice), one.payload) for one in captured]
    bench.attack(bench.bob, again, "duplicate")
    elsewhere = [((str(bench.mesh.lab.host("mallory").ipv4), 53), one.payload) for one in captured]
    bench.attack(bench.bob, elsewhere, "duplicate")
    assert not [one for one in bench.tap.poll() if one.target == bench.mesh.lab.host("mallory").ipv4]


def test_on_another_path(bench: Bench) -> None:
    """A direct packet in the relay's channel, from its forged address; and one of the channel directly."""
    relay, lane = (str(bench.relay.host.ipv4), RELAY_PORT), bench.lane_zero()
    seen = bench.tap.between(bench.relay.host, bench.bob.host)
    through = [one for one in seen if one.payload[10:18] == lane and one.payload[0] & 0x80 == 0]
    channel = through[-1].payload[:CHANNEL_HEADER]
    _, captured = bench.capture(b"other path")
    bench.attack(bench.bob, [(relay, channel + one.payload) for one in captured], "duplicate")
    stripped = [(bench.place(bench.alice), one.payload[CHANNEL_HEADER:]) for one in through[-1:]]
    bench.attack(bench.bob, stripped, "duplicate")


def test_forged_probes_get_no_answer(bench: Bench) -> None:
    """All that an outsider lacks is the key: the id is right, the size, the source or the victim's."""
    alice, bob = bench.alice, bench.bob
    victim = bench.mesh.lab.host("victim")
    lane = bench.lane_zero()
    forged = [b"\x43" + lane + secrets.token_bytes(PATH_MESSAGE - 9) for _ in range(FRAMES)]
    begin = len(bench.tap.poll())
    with listening(victim) as arrived:
        bench.attack(bob, [((str(victim.ipv4), 7001), one) for one in forged[:20]], "authentication")
        bench.attack(bob, [(bench.place(alice), one) for one in forged[20:]], "authentication")
        assert not [one for one in arrived() if one[0] == bob.host.ipv4 and len(one[2]) != PATH_MESSAGE]
        assert not [one for one in arrived() if one[1] == 7001], "nothing at all to where forgeries came from"
    assert not [one for one in bench.tap.between(bob.host, victim, begin) if one.target_port == 7001]


def test_back_to_who_sent_it(bench: Bench) -> None:
    """alice has allotted no such id: the two directions share neither ids nor keys."""
    _, captured = bench.capture(b"back")
    back = [(bench.place(bench.bob), one.payload) for one in captured]
    bench.attack(bench.alice, back, "unknown_id")


def test_into_the_next_session_and_after_rekeys(bench: Bench) -> None:
    """The same pair, the same addresses and ports, other keys: after a restart, and two epochs later."""
    bob, alice = bench.bob, bench.alice
    _, captured = bench.capture(b"old session")
    for client in (alice, bob):
        client.config["session"] = {"rekey_seconds": REKEY_SECONDS}
        client.restart()
    wait_direct(bench.mesh)
    bench.attack(bob, [(bench.place(alice), one.payload) for one in captured], "unknown_id")
    _, captured = bench.capture(b"epoch")
    enough = bob.peer("alice")["epoch"] + 2
    wait_until(lambda: bob.peer("alice")["epoch"] >= enough, 30.0, lambda: str(bob.peer("alice")))
    bench.attack(bob, [(bench.place(alice), one.payload) for one in captured], "unknown_id")
    bench.capture(b"still")


def test_copies_that_come_first_move_no_path(bench: Bench) -> None:
    """Frames of alice are held back, and come from mallory and from a victim's address in their place.

    They are genuine and new, so they are delivered; who is at these addresses gets small challenges only,
    less than what was sent in their name, and no path leads there.
    """
    alice, bob, tap = bench.alice, bench.bob, bench.tap
    hosts = [bench.mesh.lab.host(name) for name in ("mallory", "victim")]
    claimed = dict.fromkeys((str(host.ipv4) for host in hosts), 0)
    before = bob.peer("alice")["last_handshake"]
    with (
        Port(alice.host, alice.interface) as one,
        Port(bob.host, bob.interface) as two,
        listening(hosts[0]) as at_mallory,
        listening(hosts[1]) as at_victim,
    ):
        begin = len(tap.poll())
        with deaf(bob.host, alice.host):
            frames = [one.send(two.mac, b"raced" + bytes([number]) * 200) for number in range(FRAMES)]

            def held() -> list[Datagram]:
                found = tap.between(alice.host, bob.host, begin)
                return [datagram for datagram in found if 200 < len(datagram.payload) < 350]

            wait_until(lambda: len(held()) >= FRAMES, 10.0, lambda: f"{len(held())} datagrams")
            for number, datagram in enumerate(held()):
                source = list(claimed)[number * 2 // FRAMES % 2]
                claimed[source] += len(datagram.payload)
                tap.inject((source, 7000), (str(bob.host.ipv4), PORT), datagram.payload)
            wait_until(lambda: set(frames) <= set(two.poll()), 10.0, "the copies at the TAP")
            names = [path["path"] for path in bob.peer("alice")["paths"]]
        assert bench.path(bob).startswith((f"direct {alice.host.ipv4}:{PORT}", "relay "))
        barrier(one, two, b"after")
        barrier(two, one, b"back")
        assert [two.count(frame) for frame in frames] == [1] * FRAMES
        for host, arrived in zip(hosts, (at_mallory, at_victim), strict=True):
            sizes = [len(payload) for source, _, payload in arrived() if source == bob.host.ipv4]
            assert 1 <= len(sizes) <= 3, "one challenge for each time that the source changed, and no more"
            assert set(sizes) == {PATH_MESSAGE}
            assert sum(sizes) <= claimed[str(host.ipv4)]
            assert f"direct {host.ipv4}:7000" in names, "so the copies were noticed"
    assert bob.peer("alice")["last_handshake"] >= before

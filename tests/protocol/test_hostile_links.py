"""Whole nodes on access links that lose, damage, double and hold back packets, on virtual time."""

from __future__ import annotations

import statistics

import pytest

from shadowmesh.testing.impair import Impairment
from tests.protocol.wide import WideMesh

CONDITIONS = {
    "loss": Impairment(delay=0.01, loss=0.2),
    "bursts": Impairment(delay=0.01, loss=0.3, burst=0.2),
    "reordering": Impairment(delay=0.01, jitter=0.05, reorder=0.2, hold=0.2),
    "duplicates": Impairment(delay=0.01, duplicate=0.5, jitter=0.05),
    "damage": Impairment(delay=0.01, corrupt=0.1),
    "slow": Impairment(delay=0.6, jitter=0.1),
    "narrow": Impairment(delay=0.02, rate=16_000, queue=0.5),
    "everything": Impairment(0.02, 0.03, loss=0.1, burst=0.05, duplicate=0.1, reorder=0.1, corrupt=0.03),
}
"""Of each client's access link, in both directions: between two clients it is met twice."""
SEEDS = range(6)


def world(impairment: Impairment, seed: int = 1, direct: bool = True) -> WideMesh:
    """Two clients in public that are about to connect."""
    mesh = WideMesh(seed)
    for number in (0, 1):
        mesh.client_on(mesh.places.server(f"node{number}"), number, (1 - number,))
    impair(mesh, impairment)
    if not direct:
        relay = mesh.relay_address.host
        mesh.internet.public.passes = lambda packet: relay in (packet.source.host, packet.target.host)
    return mesh


def impair(mesh: WideMesh, impairment: Impairment, number: int | None = None) -> None:
    """Change the link of one client, or of both."""
    for host in mesh.hosts.values() if number is None else [mesh.hosts[number]]:
        link = host.interfaces[0].link
        link.up.impairment = link.down.impairment = impairment


class Frames:
    """Numbered frames both ways, for `seconds`; then what became of them."""

    def __init__(self, mesh: WideMesh, seconds: float, gap: float = 0.1) -> None:
        self.sent: list[list[bytes]] = [[], []]
        begun = [len(client.frames) for client in mesh.clients.values()]
        self.paths: list[list[str]] = [[], []]
        end = mesh.internet.now + seconds
        while mesh.internet.now < end:
            for number in (0, 1):
                count = len(self.sent[number])
                self.sent[number].append(mesh.frame(number, 1 - number, count.to_bytes(8, "big") * 20))
                mesh.send(number, self.sent[number][-1])
                path = mesh.peer(number, 1 - number).path or "none"
                if self.paths[number][-1:] != [path]:
                    self.paths[number].append(path)
            mesh.internet.run_for(gap)
        mesh.internet.run_for(5)
        self.got = [mesh.clients[1 - number].frames[begun[1 - number] :] for number in (0, 1)]

    def check(self, at_least: float) -> None:
        """Nothing came twice, nothing that was not sent, and this share of the rest."""
        for sent, got in zip(self.sent, self.got, strict=True):
            assert len(set(got)) == len(got)
            assert set(got) <= set(sent)
            assert len(got) >= at_least * len(sent)


@pytest.mark.parametrize("name", CONDITIONS)
def test_sessions_are_set_up_on_any_link(name: str) -> None:
    took = []
    for seed in SEEDS:
        mesh = world(CONDITIONS[name], seed)
        begun = mesh.internet.now
        mesh.pair_up(within=300)
        took.append(mesh.internet.now - begun)
        assert mesh.fatal(0) == mesh.fatal(1) == []
    assert statistics.median(took) < 30


@pytest.mark.parametrize(
    ("name", "share"),
    [("loss", 0.3), ("reordering", 0.99), ("duplicates", 0.99), ("damage", 0.7), ("slow", 0.98)],
)
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "relayed"])
def test_sessions_and_the_relay_outlive_it(name: str, share: float, direct: bool) -> None:
    """A minute with frames: the sessions are the same, with the peer and with the relay."""
    mesh = world(Impairment(delay=0.01), direct=direct)
    mesh.pair_up()
    sessions = [mesh.peer(number, 1 - number).session for number in (0, 1)]
    legs = [client.core.relays[0]._driver for client in mesh.clients.values()]
    impair(mesh, CONDITIONS[name])
    Frames(mesh, 60.0).check(share)
    assert [mesh.peer(number, 1 - number).session for number in (0, 1)] == sessions
    assert [client.core.relays[0]._driver for client in mesh.clients.values()] == legs


def test_what_is_damaged_is_counted_where_it_arrives() -> None:
    mesh = world(Impairment(delay=0.01))
    mesh.pair_up()
    mesh.internet.run_for(5)
    assert mesh.peer(0, 1).path == f"direct {mesh.clients[1].address}"
    impair(mesh, Impairment(delay=0.01, corrupt=0.1), 0)
    frames = Frames(mesh, 60.0, gap=0.02)
    frames.check(0.85)
    for number in (0, 1):
        lost = len(frames.sent[1 - number]) - len(frames.got[1 - number])
        drops = mesh.clients[number].drops
        assert drops["authentication"] + drops["unknown_id"] + drops["reserved"] >= lost > 100


def test_frames_stay_on_their_path_where_every_path_is_as_bad() -> None:
    mesh = world(Impairment(delay=0.01))
    mesh.pair_up()
    mesh.internet.run_for(5)
    impair(mesh, Impairment(delay=0.01, loss=0.1), 0)
    frames = Frames(mesh, 240.0)
    assert max(len(paths) for paths in frames.paths) <= 3, frames.paths

"""Direct paths through NATs: they come, stay open while idle, are left within a second, and come back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.internet import Packet
from shadowmesh.testing.nat import FULL_CONE, PORT_RESTRICTED, RESTRICTED, SYMMETRIC, Behaviour, Ports
from shadowmesh.testing.places import Site
from tests.protocol.wide import WideMesh

INTERVAL = 0.02
"""Seconds between two frames of the traffic here."""


def impatient(behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, timeout=30.0)


class Homes(WideMesh):
    """Two clients, each behind a NAT of its own, on a direct path."""

    def __init__(self, *behaviours: Behaviour, link: Impairment | None = None, seed: int = 1) -> None:
        super().__init__(seed, link)
        self.sites: list[Site] = [self.places.site(behaviour) for behaviour in behaviours]
        for number, site in enumerate(self.sites):
            self.client_on(site.host(f"node{number}"), number, (1 - number,))
        self.pair_up(within=20)
        self.internet.run_until(self.direct, 10)

    def direct(self) -> bool:
        """Whether both use a direct path."""
        return all((self.peer(number, 1 - number).path or "").startswith("direct") for number in (0, 1))

    def relayed(self) -> bool:
        """Whether both use the relay."""
        return all((self.peer(number, 1 - number).path or "").startswith("relay") for number in (0, 1))

    def cut(self, both_ways: bool = True) -> None:
        """Let nothing pass from the first home to the second, or between them."""
        first, second = (site.router.outside.addresses[0] for site in self.sites)
        gone = {(first, second), (second, first)} if both_ways else {(first, second)}

        def passes(packet: Packet) -> bool:
            return (packet.source.host, packet.target.host) not in gone

        self.internet.public.passes = passes

    def mend(self) -> None:
        self.internet.public.passes = lambda _packet: True

    def traffic(self, duration: float, senders: tuple[int, ...] = (0, 1)) -> float:
        """Frames from these; the longest time (seconds) without one at the other end of any of them."""
        end, worst = self.internet.now + duration, 0.0
        last = dict.fromkeys(senders, self.internet.now)
        counts = {number: len(self.clients[1 - number].frames) for number in senders}
        while self.internet.now < end:
            for number in senders:
                self.send(number, self.frame(number, 1 - number))
            self.internet.run_for(INTERVAL)
            for number in senders:
                arrived = len(self.clients[1 - number].frames)
                if arrived > counts[number]:
                    counts[number], last[number] = arrived, self.internet.now
                worst = max(worst, self.internet.now - last[number])
        return worst


@pytest.mark.parametrize("senders", [(0, 1), (0,)], ids=["both ways", "one way"])
@pytest.mark.parametrize(("both_ways", "limit"), [(True, 1.0), (False, 1.5)], ids=["cut", "half cut"])
def test_dead_path_is_left_within_a_second_and_taken_again(
    senders: tuple[int, ...], both_ways: bool, limit: float
) -> None:
    """Half cut, the side that still hears learns of it only when the other has left: twice 600 ms."""
    homes = Homes(PORT_RESTRICTED, PORT_RESTRICTED)
    homes.traffic(5, senders)
    for _ in range(3):
        homes.cut(both_ways)
        assert homes.traffic(5, senders) < limit
        homes.mend()
        homes.internet.run_until(homes.direct, 40)
        assert homes.traffic(20, senders) <= 2 * INTERVAL


@pytest.mark.parametrize(
    "pair",
    [(PORT_RESTRICTED, PORT_RESTRICTED), (FULL_CONE, SYMMETRIC), (RESTRICTED, SYMMETRIC)],
    ids=["port-restricted", "full cone, symmetric", "restricted, symmetric"],
)
def test_idle_path_is_kept_open(pair: tuple[Behaviour, Behaviour]) -> None:
    """Behind NATs that forget after 30 s, for 20 minutes: the next frames cross at once."""
    homes = Homes(*(impatient(behaviour) for behaviour in pair))
    homes.traffic(3)
    for _ in range(4):
        homes.internet.run_for(300)
        assert homes.traffic(1) <= 3 * INTERVAL
        assert homes.direct()


@pytest.mark.parametrize(
    "pair",
    [
        (PORT_RESTRICTED, PORT_RESTRICTED),
        (PORT_RESTRICTED, replace(PORT_RESTRICTED, ports=Ports.RANDOM)),
        (FULL_CONE, SYMMETRIC),
    ],
    ids=["ports kept", "other ports", "symmetric"],
)
def test_nat_that_reboots_under_traffic(pair: tuple[Behaviour, Behaviour]) -> None:
    homes = Homes(*pair)
    homes.traffic(5)
    for _ in range(3):
        nat = homes.sites[1].router.nat
        assert nat is not None
        nat.forget()
        assert homes.traffic(5) < 1.0
        homes.internet.run_until(homes.direct, 40)
        homes.traffic(20)


@pytest.mark.parametrize("behaviour", [FULL_CONE, PORT_RESTRICTED], ids=["full cone", "port-restricted"])
def test_client_that_moves_finds_a_direct_path_from_there(behaviour: Behaviour) -> None:
    homes = Homes(FULL_CONE, PORT_RESTRICTED)
    homes.traffic(5)
    session = homes.peer(1, 0).session
    homes.move(0, homes.places.site(behaviour))
    assert homes.traffic(5) < 1.5
    homes.internet.run_until(homes.direct, 10)
    assert homes.traffic(2) <= 2 * INTERVAL
    assert homes.peer(1, 0).session is session


def test_client_that_comes_home_uses_the_local_network() -> None:
    homes = Homes(FULL_CONE, PORT_RESTRICTED)
    homes.traffic(5)
    homes.move(0, homes.sites[1])
    homes.traffic(10)
    assert (homes.peer(0, 1).path or "").startswith("direct 192.168.2.")
    assert (homes.peer(1, 0).path or "").startswith("direct 192.168.2.")


@pytest.mark.parametrize("seed", range(4))
def test_direct_on_bad_links_too(seed: int) -> None:
    """A tenth of all packets lost on the way, jitter, doubles."""
    bad = Impairment(delay=0.01, jitter=0.005, loss=0.05, duplicate=0.05)
    homes = Homes(PORT_RESTRICTED, RESTRICTED, link=bad, seed=seed)
    assert homes.traffic(20) < 0.5
    assert homes.direct()


def test_moving_to_the_relay_and_back_loses_only_what_the_cut_swallows() -> None:
    """Frames that were under way on the new path are neither lost nor doubled."""
    homes = Homes(PORT_RESTRICTED, PORT_RESTRICTED)
    homes.traffic(2)
    homes.cut()
    homes.traffic(2)
    assert homes.relayed()
    homes.internet.run_for(1)
    before = [len(client.frames) for client in homes.clients.values()]
    sent = [client.tables.counters[1]["tx_frames"] for client in homes.clients.values()]
    homes.mend()
    homes.traffic(40)
    assert homes.direct()
    homes.internet.run_for(1)
    arrived = [
        len(client.frames) - count for client, count in zip(homes.clients.values(), before, strict=True)
    ]
    gone = [
        client.tables.counters[1]["tx_frames"] - count
        for client, count in zip(homes.clients.values(), sent, strict=True)
    ]
    assert arrived == gone[::-1]

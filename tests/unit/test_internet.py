"""The in-memory internet: every NAT as RFC 4787 words it, and links that do what they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.internet import Host, Internet
from shadowmesh.testing.nat import (
    FULL_CONE,
    PORT_RESTRICTED,
    RESTRICTED,
    SYMMETRIC,
    Behaviour,
    Depends,
    Firewall,
    Ports,
)
from shadowmesh.testing.places import Places, Site
from shadowmesh.units import Address

PORT = 5000


class Mailbox:
    """A station that keeps what comes in."""

    def __init__(self, host: Host, port: int = PORT) -> None:
        self.host = host
        self.port = port
        self.received: list[tuple[float, bytes, Address]] = []
        self.outbox: list[tuple[bytes, Address]] = []
        host.internet.attach(self, host, port)

    @property
    def address(self) -> Address:
        return Address(self.host.addresses[0], self.port)

    @property
    def sources(self) -> list[Address]:
        return [source for _, _, source in self.received]

    @property
    def texts(self) -> list[bytes]:
        return [data for _, data, _ in self.received]

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.received.append((now, data, source))

    def deadline(self) -> float | None:
        return None

    def expire(self, now: float) -> None:
        raise AssertionError("it has no deadline")

    def transmit(self) -> list[tuple[bytes, Address]]:
        outbox, self.outbox = self.outbox, []
        return outbox

    def send(self, target: Address | Mailbox, data: bytes = b"hello") -> None:
        """Send, and let it arrive."""
        internet = self.host.internet
        address = target if isinstance(target, Address) else target.address
        self.outbox.append((data, address))
        internet.flush(self)
        internet.run_for(0.1)


class Lab:
    """One machine at home, and three endpoints of two servers: A:1, A:2 and B:1."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.places = Places()
        first, second = self.places.server("A", ipv6=False), self.places.server("B", ipv6=False)
        self.remotes = [Mailbox(first, 1), Mailbox(first, 2), Mailbox(second, 1)]
        self.home = self.places.site(behaviour)
        self.inside = Mailbox(self.home.host("inside"))

    def observed(self) -> list[Address]:
        """What each of the three sees as our address, when we write to it."""
        for remote in self.remotes:
            self.inside.send(remote)
        return [remote.sources[-1] for remote in self.remotes]

    def heard(self, mapped: Address) -> list[bool]:
        """Whether what each of the three sends to `mapped` arrives."""
        found = []
        for remote in self.remotes:
            before = len(self.inside.received)
            remote.send(mapped)
            found.append(len(self.inside.received) > before)
        return found


MAPPINGS = {Depends.ON_NOTHING: 1, Depends.ON_ADDRESS: 2, Depends.ON_ADDRESS_AND_PORT: 3}
FILTERS = {
    Depends.ON_NOTHING: [True, True, True],
    Depends.ON_ADDRESS: [True, True, False],
    Depends.ON_ADDRESS_AND_PORT: [True, False, False],
}


@pytest.mark.parametrize("ports", list(Ports))
@pytest.mark.parametrize("filtering", list(Depends))
@pytest.mark.parametrize("mapping", list(Depends))
def test_mapping_is_reused_as_its_kind_says(mapping: Depends, filtering: Depends, ports: Ports) -> None:
    """RFC 4787 section 4.1; and the mapping does not change while it lives."""
    lab = Lab(Behaviour(mapping, filtering, ports))
    observed = lab.observed()
    assert len(set(observed)) == MAPPINGS[mapping]
    assert {address.host for address in observed} == {"203.0.113.3"}
    assert lab.observed() == observed


@pytest.mark.parametrize("filtering", list(Depends))
@pytest.mark.parametrize("mapping", list(Depends))
def test_filter_admits_as_its_kind_says(mapping: Depends, filtering: Depends) -> None:
    """RFC 4787 section 5: after one packet to A:1, who reaches the mapping that it made?"""
    lab = Lab(Behaviour(mapping, filtering))
    assert lab.heard(Address("203.0.113.3", PORT)) == [False, False, False]
    lab.inside.send(lab.remotes[0])
    assert lab.heard(lab.remotes[0].sources[0]) == FILTERS[filtering]


def test_the_classic_names() -> None:
    lab = {one: Lab(one) for one in (FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC)}
    heard = {}
    for behaviour, one in lab.items():
        one.inside.send(one.remotes[0])
        heard[behaviour] = one.heard(one.remotes[0].sources[0])
    assert heard[FULL_CONE] == [True, True, True]
    assert heard[RESTRICTED] == [True, True, False]
    assert heard[PORT_RESTRICTED] == heard[SYMMETRIC] == [True, False, False]
    assert len(set(lab[PORT_RESTRICTED].observed())) == 1
    assert len(set(lab[SYMMETRIC].observed())) == 3


def test_ports_are_preserved_until_two_want_the_same() -> None:
    lab = Lab(PORT_RESTRICTED)
    other = Mailbox(lab.home.host("other"))
    lab.inside.send(lab.remotes[0])
    other.send(lab.remotes[0])
    assert [source.port for source in lab.remotes[0].sources] == [PORT, PORT + 1]
    lab.remotes[0].send(lab.remotes[0].sources[1])
    assert len(other.received) == 1
    assert lab.inside.received == []


def test_sequential_ports_follow_each_other() -> None:
    ports = [address.port for address in Lab(replace(SYMMETRIC, ports=Ports.SEQUENTIAL)).observed()]
    assert ports == [ports[0], ports[0] + 1, ports[0] + 2]


def test_random_ports_do_not() -> None:
    ports = [address.port for address in Lab(SYMMETRIC).observed()]
    assert min(abs(one - two) for one, two in ((ports[0], ports[1]), (ports[1], ports[2]))) > 10
    assert all(1024 <= port <= 65535 for port in ports)


def test_mapping_ends_without_packets_out() -> None:
    """RFC 4787 REQ-5, REQ-6: packets out refresh it, packets in do not where that is off."""
    lab = Lab(replace(FULL_CONE, timeout=30.0, ports=Ports.RANDOM))
    lab.inside.send(lab.remotes[0])
    mapped = lab.remotes[0].sources[0]
    for _ in range(3):
        lab.places.internet.run_for(25)
        lab.inside.send(lab.remotes[0])
    assert lab.remotes[0].sources == [mapped] * 4
    for heard in (True, False):
        lab.places.internet.run_for(20)
        assert lab.heard(mapped) == [heard] * 3
    lab.inside.send(lab.remotes[0])
    assert lab.remotes[0].sources[-1] != mapped


def test_inbound_refresh_keeps_it_alive() -> None:
    lab = Lab(replace(FULL_CONE, timeout=30.0, inbound_refresh=True))
    lab.inside.send(lab.remotes[0])
    for _ in range(4):
        lab.places.internet.run_for(20)
        assert lab.heard(lab.remotes[0].sources[0]) == [True] * 3


def test_permission_of_one_remote_ends_while_the_mapping_lives() -> None:
    lab = Lab(replace(PORT_RESTRICTED, timeout=30.0))
    mapped = lab.observed()[0]
    for _ in range(2):
        lab.places.internet.run_for(20)
        lab.inside.send(lab.remotes[2])
    assert lab.heard(mapped) == [False, False, True]


def test_nat_that_forgets_drops_everything() -> None:
    lab = Lab(FULL_CONE)
    lab.inside.send(lab.remotes[0])
    assert lab.home.router.nat is not None
    lab.home.router.nat.forget()
    assert lab.heard(lab.remotes[0].sources[0]) == [False] * 3


@pytest.mark.parametrize("hairpin", [True, False])
def test_hairpinning(hairpin: bool) -> None:
    """RFC 4787 REQ-9: and if so, the source is the sender's external address."""
    lab = Lab(replace(FULL_CONE, hairpin=hairpin, ports=Ports.SEQUENTIAL))
    other = Mailbox(lab.home.host("other"))
    for box in (lab.inside, other):
        box.send(lab.remotes[0])
    mapped, mapped_other = lab.remotes[0].sources
    other.send(mapped)
    assert lab.inside.sources == ([mapped_other] if hairpin else [])
    assert lab.places.internet.drops["hairpin"] == (not hairpin)
    lab.inside.send(other)
    assert other.sources == [lab.inside.address]


def test_hairpinning_filters_as_well() -> None:
    lab = Lab(replace(PORT_RESTRICTED, hairpin=True))
    other = Mailbox(lab.home.host("other"))
    for box in (lab.inside, other):
        box.send(lab.remotes[0])
    mapped, mapped_other = lab.remotes[0].sources
    other.send(mapped)
    assert lab.inside.received == []
    lab.inside.send(mapped_other)
    assert other.sources == [mapped]


def test_double_nat_translates_twice_and_is_as_strict_as_its_stricter_half() -> None:
    places = Places()
    server = places.server("A", ipv6=False)
    remotes = [Mailbox(server, 1), Mailbox(server, 2)]
    carrier = places.carrier(replace(FULL_CONE, ports=Ports.SEQUENTIAL))
    home = places.site(PORT_RESTRICTED, behind=carrier)
    inside = Mailbox(home.host("inside"))
    for remote in remotes[:1]:
        inside.send(remote)
    mapped = remotes[0].sources[0]
    assert mapped.host == "203.0.113.2"
    assert mapped.port != PORT
    for remote in remotes:
        remote.send(mapped, b"back")
    assert inside.sources == [remotes[0].address]


def test_ipv6_is_not_translated_but_guarded() -> None:
    places = Places()
    server = places.server("A", ipv4=False)
    remotes = [Mailbox(server, 1), Mailbox(server, 2)]
    home = places.site(None, firewall=Firewall(timeout=30.0))
    inside = Mailbox(home.host("inside"))
    remotes[0].send(inside)
    inside.send(remotes[0])
    assert remotes[0].sources == [inside.address]
    for remote in remotes:
        remote.send(inside, b"back")
    assert inside.sources == [remotes[0].address]
    places.internet.run_for(31)
    remotes[0].send(inside, b"late")
    assert inside.texts == [b"back"]
    assert places.internet.drops["firewall"] == 3


def test_blocked_udp() -> None:
    lab = Lab(FULL_CONE)
    lab.home.block_udp(lab.remotes[2].address.host)
    for remote in lab.remotes:
        lab.inside.send(remote)
    assert [len(remote.received) for remote in lab.remotes] == [0, 0, 1]
    lab.home.block_udp()
    lab.inside.send(lab.remotes[2])
    assert len(lab.remotes[2].received) == 1


def test_private_addresses_lead_nowhere_in_public() -> None:
    lab = Lab(FULL_CONE)
    other = Mailbox(lab.places.site(FULL_CONE).host("elsewhere"))
    lab.inside.send(other)
    assert other.received == []
    assert lab.places.internet.drops["unroutable"] == 1


def test_two_homes_may_use_the_same_addresses() -> None:
    places = Places()
    sites: list[Site] = [places.site(FULL_CONE, lan=1) for _ in range(2)]
    boxes = [Mailbox(site.host("inside")) for site in sites]
    server = Mailbox(places.server("A", ipv6=False))
    for box in boxes:
        box.send(server)
    assert boxes[0].address == boxes[1].address
    assert len(set(server.sources)) == 2
    boxes[0].send(server.sources[1])
    assert boxes[1].sources == [server.sources[0]]


# Links.


def two(seed: int = 1, **direction: float | bool) -> tuple[Mailbox, Mailbox, Internet]:
    """Two servers, of which the first has a link like that."""
    places = Places(seed, Impairment(delay=0.01))
    near, far = Mailbox(places.server("near")), Mailbox(places.server("far"))
    near.host.interfaces[0].link.up.change(**direction)
    return near, far, places.internet


def burst(near: Mailbox, far: Mailbox, count: int) -> list[int]:
    """Numbers sent 1 ms apart, as they arrive."""
    for number in range(count):
        near.outbox.append((number.to_bytes(2, "big"), far.address))
        near.host.internet.flush(near)
        near.host.internet.run_for(0.001)
    near.host.internet.run_for(1)
    return [int.from_bytes(data, "big") for data in far.texts]


def test_delay_is_that_of_both_links() -> None:
    near, far, internet = two(delay=0.04)
    start = internet.now
    near.send(far)
    assert far.received[0][0] - start == pytest.approx(0.05, abs=1e-5)


def test_order_is_kept_without_jitter_and_lost_with_it() -> None:
    assert burst(*two()[:2], 200) == list(range(200))
    jittered = burst(*two(jitter=0.01)[:2], 200)
    assert sorted(jittered) == list(range(200)) != jittered
    overtaken = burst(*two(reorder=0.1)[:2], 200)
    assert sorted(overtaken) == list(range(200)) != overtaken


def test_loss_and_duplicates() -> None:
    near, far, internet = two(loss=0.25)
    assert 120 < len(burst(near, far, 200)) < 180
    assert internet.drops["loss"] == 200 - len(far.texts)
    near, far, _ = two(duplicate=0.25)
    arrived = burst(near, far, 200)
    assert set(arrived) == set(range(200))
    assert 20 < len(arrived) - 200 < 80


def test_runs_with_the_same_seed_are_the_same() -> None:
    def run(seed: int) -> list[int]:
        return burst(*two(seed, loss=0.3, jitter=0.01, duplicate=0.1)[:2], 100)

    assert run(5) == run(5) != run(6)


@pytest.mark.parametrize(("version", "headers"), [(0, 28), (1, 48)])
def test_mtu(version: int, headers: int) -> None:
    near, far, internet = two(mtu=1280)
    target = Address(far.host.addresses[version], PORT)
    near.send(target, bytes(1280 - headers))
    near.send(target, bytes(1280 - headers + 1))
    assert [len(data) for data in far.texts] == [1280 - headers]
    assert internet.drops == {"mtu": 1}


@pytest.mark.parametrize("version", [0, 1])
def test_fragments(version: int) -> None:
    near, far, internet = two(mtu=1280)
    near.host.dont_fragment = False
    target = Address(far.host.addresses[version], PORT)
    near.send(target, bytes(4000))
    assert [len(data) for data in far.texts] == [4000]
    far.host.interfaces[0].link.down.change(fragments=False)
    near.send(target, bytes(4000))
    near.send(target, bytes(1200))
    assert [len(data) for data in far.texts] == [4000, 1200]
    assert internet.drops == {"fragment": 1}


def test_only_ipv4_is_cut_on_the_way() -> None:
    near, far, internet = two()
    near.host.dont_fragment = False
    far.host.interfaces[0].link.down.change(mtu=1280)
    for host in far.host.addresses:
        near.send(Address(host, PORT), bytes(1400))
    assert len(far.texts) == 1
    assert internet.drops == {"mtu": 1}


def test_each_fragment_may_be_lost() -> None:
    near, far, _ = two(loss=0.1, mtu=576)
    near.host.dont_fragment = False
    for _ in range(100):
        near.send(far, bytes(4000))
    assert 25 < len(far.texts) < 65, "0.9 to the power of 8 is 0.43"


def test_cut_and_mended_in_one_direction_and_in_both() -> None:
    near, far, _ = two()
    link = near.host.interfaces[0].link
    link.up.change(cut=True)
    near.send(far)
    far.send(near)
    assert (len(near.received), len(far.received)) == (1, 0)
    link.cut()
    far.send(near)
    assert len(near.received) == 1
    link.mend()
    near.send(far)
    far.send(near)
    assert (len(near.received), len(far.received)) == (2, 1)


def test_network_that_lets_some_packets_through() -> None:
    near, far, internet = two()
    internet.public.passes = lambda packet: packet.source != near.address
    near.send(far)
    far.send(near)
    assert (len(near.received), len(far.received)) == (1, 0)
    assert internet.drops == {"filtered": 1}


def test_host_that_moves() -> None:
    places = Places()
    box, server = Mailbox(places.server("roamer")), Mailbox(places.server("A"))
    old = box.address
    home = places.site(FULL_CONE)
    box.outbox.append((b"on its way", server.address))
    server.outbox.append((b"too late", old))
    for one in (box, server):
        places.internet.flush(one)
    box.host.move(home.network, *home.new_addresses())
    places.internet.run_for(1)
    assert server.sources == [old]
    assert box.received == []
    box.send(server)
    assert server.sources[1].host == "203.0.113.3"
    server.send(server.sources[1])
    assert len(box.received) == 1


def test_host_with_two_networks_takes_the_nearer() -> None:
    places = Places()
    home = places.site(FULL_CONE)
    neighbour = Mailbox(home.host("neighbour"))
    server = Mailbox(places.server("A", ipv6=False))
    both = Mailbox(places.server("both", ipv6=False))
    both.host.join(home.network, *home.new_addresses())
    both.send(neighbour)
    both.send(server)
    assert neighbour.sources[0].host.startswith("192.168.")
    assert server.sources == [both.address]


def test_closed_ports_taken_addresses_and_families_that_are_missing() -> None:
    places = Places()
    near = Mailbox(places.server("near", ipv6=False))
    near.send(Address(near.host.addresses[0], 9))
    near.send(Address("2001:db8::99", 9))
    near.send(Address("203.0.113.99", 9))
    assert places.internet.drops == {"closed_port": 1, "no_route": 1, "unroutable": 1}
    with pytest.raises(ValueError, match="taken"):
        Host(places.internet, "thief").join(places.internet.public, near.host.addresses[0])

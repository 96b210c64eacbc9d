"""Every kind of access to the internet against every other: what path do two nodes end up on?

    python -m tests.protocol.nat_matrix          print docs/nat.md as it would be now
    python -m tests.protocol.nat_matrix --write  and write it

Runs whole nodes and a relay on virtual time.  `expected` is what theory allows without guessing ports;
`punched` is what two ideal stations reach, as a check of that theory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import NamedTuple

from shadowmesh.testing.internet import Host
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
from tests.protocol.wide import WideMesh

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "nat.md"
MARKS = ("<!-- nat matrix -->", "<!-- /nat matrix -->")

DIRECT, RELAY, NONE = "direct", "relay", "none"
MEET_WITHIN = 10.0
"""Seconds of virtual time in which two nodes that both reach the relay must have a session."""
DIRECT_WITHIN = 5.0
"""Seconds after that in which a direct path must be in use, where there can be one."""
WATCH = 20.0
"""Seconds for which a pair is watched that should not, or cannot, become direct."""


@dataclass(frozen=True)
class Access:
    """One way to be on the internet.

    :param place: makes a host that is.
    :param ipv4: how its IPv4 looks from outside; None without IPv4.
    :param udp: to whom UDP goes: DIRECT to everybody, RELAY to the relay alone, NONE to nobody.
    """

    name: str
    what: str
    place: Callable[[Places, str, Host], Host]
    ipv4: Behaviour | None
    ipv6: bool = False
    udp: str = DIRECT


def _behind(behaviour: Behaviour | None, ipv6: bool = False) -> Callable[[Places, str, Host], Host]:
    return lambda places, name, _relay: places.site(behaviour, firewall=Firewall() if ipv6 else None).host(
        name
    )


def _double(places: Places, name: str, _relay: Host) -> Host:
    carrier = places.carrier(replace(FULL_CONE, ports=Ports.RANDOM))
    return places.site(PORT_RESTRICTED, behind=carrier).host(name)


def _walled(only_to_relay: bool) -> Callable[[Places, str, Host], Host]:
    def place(places: Places, name: str, relay: Host) -> Host:
        site = places.site(PORT_RESTRICTED)
        site.block_udp(*(relay.addresses if only_to_relay else ()))
        return site.host(name)

    return place


ACCESSES = (
    Access(
        "open", "a public IPv4 address", lambda places, name, _: places.server(name, ipv6=False), FULL_CONE
    ),
    Access("full cone", "mapping and filtering endpoint-independent", _behind(FULL_CONE), FULL_CONE),
    Access("restricted", "filtering address-dependent", _behind(RESTRICTED), RESTRICTED),
    Access("port-restr.", "filtering address-and-port-dependent", _behind(PORT_RESTRICTED), PORT_RESTRICTED),
    Access(
        "symmetric",
        "mapping and filtering address-and-port-dependent, random ports",
        _behind(SYMMETRIC),
        SYMMETRIC,
    ),
    Access("double", "port-restricted behind a carrier's full cone", _double, PORT_RESTRICTED),
    Access("IPv6", "IPv6 alone, behind a stateful firewall", _behind(None, ipv6=True), None, ipv6=True),
    Access("dual", "symmetric IPv4, IPv6 behind a firewall", _behind(SYMMETRIC, ipv6=True), SYMMETRIC, True),
    Access("walled", "UDP to the relay alone", _walled(True), PORT_RESTRICTED, udp=RELAY),
    Access("no UDP", "UDP to nobody", _walled(False), PORT_RESTRICTED, udp=NONE),
)
PAIRS = list(combinations_with_replacement(ACCESSES, 2))


def expected(one: Access, two: Access) -> str:
    """The best path that theory allows without guessing ports: DIRECT, RELAY or NONE."""
    worst = {one.udp, two.udp}
    if worst != {DIRECT}:
        return NONE if NONE in worst else RELAY
    if one.ipv6 and two.ipv6:
        return DIRECT  # nothing is translated, and both open their firewall
    if one.ipv4 is None or two.ipv4 is None:
        return RELAY
    moving = [side.mapping is not Depends.ON_NOTHING for side in (one.ipv4, two.ipv4)]
    if not any(moving):
        return DIRECT  # both know where the other will come from
    steady = two.ipv4 if moving[0] else one.ipv4
    # The steady side can only be told the other's host, so its filter must not ask for the port.
    return RELAY if all(moving) or steady.filtering is Depends.ON_ADDRESS_AND_PORT else DIRECT


class Outcome(NamedTuple):
    """How a pair ended up."""

    path: str
    seconds: float
    """From the session to the direct path in use on both sides; 0 where there is none."""


def path_kind(mesh: WideMesh, number: int) -> str:
    """Which sort of path client `number` uses to the other of the two, by its status."""
    path = mesh.peer(number, 1 - number).path
    return NONE if path is None else path.split()[0]


def settle(mesh: WideMesh, hope: str) -> Outcome:
    """Let two clients find their path: DIRECT within its time if that is hoped for, else watch them."""
    if hope == NONE:
        mesh.internet.run_for(MEET_WITHIN + WATCH)
        return Outcome(path_kind(mesh, 0), 0.0)
    mesh.pair_up(within=MEET_WITHIN)
    begun = mesh.internet.now

    def both_direct() -> bool:
        return {path_kind(mesh, 0), path_kind(mesh, 1)} == {DIRECT}

    try:
        mesh.internet.run_until(both_direct, DIRECT_WITHIN if hope == DIRECT else WATCH)
    except AssertionError:
        mesh.exchange(0, 1)
        kinds = {path_kind(mesh, 0), path_kind(mesh, 1)}
        return Outcome(kinds.pop() if len(kinds) == 1 else "one-sided", 0.0)
    seconds = mesh.internet.now - begun
    mesh.exchange(0, 1)
    mesh.internet.run_for(WATCH)
    mesh.exchange(0, 1)
    return Outcome(DIRECT if both_direct() else "lost again", seconds)


@cache
def run_pair(one: Access, two: Access, seed: int = 1) -> Outcome:
    """Two clients with these accesses, from their start to a settled path."""
    mesh = WideMesh(seed)
    for number, access in enumerate((one, two)):
        host = access.place(mesh.places, f"node{number}", mesh.relay_host)
        mesh.client_on(host, number, (1 - number,))
    return settle(mesh, expected(one, two))


# Pairs that share something.


class Shared(NamedTuple):
    """Two nodes behind one device: `build` gives their hosts."""

    name: str
    what: str
    build: Callable[[Places], tuple[Host, Host]]
    expected: str


def _neighbours(behaviour: Behaviour) -> Callable[[Places], tuple[Host, Host]]:
    def build(places: Places) -> tuple[Host, Host]:
        home = places.site(behaviour)
        return home.host("node0"), home.host("node1")

    return build


def _one_carrier(hairpin: bool) -> Callable[[Places], tuple[Host, Host]]:
    def build(places: Places) -> tuple[Host, Host]:
        carrier = places.carrier(replace(FULL_CONE, ports=Ports.RANDOM, hairpin=hairpin))
        homes = [places.site(PORT_RESTRICTED, behind=carrier) for _ in range(2)]
        return homes[0].host("node0"), homes[1].host("node1")

    return build


def _same_numbers(places: Places) -> tuple[Host, Host]:
    homes: list[Site] = [places.site(PORT_RESTRICTED, lan=1) for _ in range(2)]
    return homes[0].host("node0"), homes[1].host("node1")


SHARED = (
    Shared(
        "one NAT", "port-restricted, no hairpinning: by local addresses", _neighbours(PORT_RESTRICTED), DIRECT
    ),
    Shared(
        "one NAT that hairpins",
        "full cone: by local addresses, which are nearer",
        _neighbours(replace(FULL_CONE, hairpin=True)),
        DIRECT,
    ),
    Shared("one symmetric NAT", "by local addresses", _neighbours(SYMMETRIC), DIRECT),
    Shared("one carrier, hairpinning", "two homes behind one carrier's NAT", _one_carrier(True), DIRECT),
    Shared("one carrier, no hairpinning", "the only way leads out and back in", _one_carrier(False), RELAY),
    Shared(
        "same private numbers",
        "each home has the other's addresses in its own network",
        _same_numbers,
        DIRECT,
    ),
)


@cache
def run_shared(shared: Shared, seed: int = 1) -> Outcome:
    """The same for two nodes that share a device."""
    mesh = WideMesh(seed)
    for number, host in enumerate(shared.build(mesh.places)):
        mesh.client_on(host, number, (1 - number,))
    return settle(mesh, shared.expected)


# The check of the theory.


class Puncher:
    """An ideal station: tells a server where it is, then writes to all it knows of the other, and answers."""

    def __init__(self, host: Host, server: Address | None, port: int) -> None:
        self.address = Address(host.addresses[0], port)
        self.server = server
        self.targets: set[Address] = set()
        self.sources: dict[bytes, set[Address]] = {}
        self._outbox: list[tuple[bytes, Address]] = []
        self._name = host.name.encode()
        self._host, self._port = host, port
        host.internet.attach(self, host, port)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.sources.setdefault(data, set()).add(source)
        if self.server is not None and source != self.server:
            self.targets.add(source)

    def deadline(self) -> float | None:
        return None

    def expire(self, now: float) -> None:
        raise AssertionError("it has no deadline")

    def transmit(self) -> list[tuple[bytes, Address]]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def speak(self) -> None:
        """One packet to everybody it knows of."""
        servers = {self.server} if self.server else set()
        self._outbox += [(self._name, target) for target in sorted(servers | self.targets)]
        self._host.internet.flush(self)


def punched(places: Places, relay: Host, hosts: tuple[Host, Host]) -> bool:
    """Whether two ideal stations get through to each other, both ways, with what a server saw of them."""
    server = Puncher(relay, None, 4433)
    stations = []
    for host in hosts:
        seen = next((Address(one, 4433) for one in relay.addresses if host.route(one)), None)
        stations.append(Puncher(host, seen, 5000))
    for station in stations:
        station.speak()
    places.internet.run_for(0.2)
    for station, other in (stations, stations[::-1]):
        station.targets |= server.sources.get(other._name, set())
        station.targets |= {Address(one, 5000) for one in other._host.addresses} - {station.address}
    for _ in range(5):
        for station in stations:
            station.speak()
        places.internet.run_for(0.2)
    return all(other._name in station.sources for station, other in (stations, stations[::-1]))


# The document.


def table() -> list[str]:
    """The matrix as Markdown: the outcome of every pair, in bold where theory allows more."""
    cells: dict[tuple[str, str], str] = {}
    for one, two in PAIRS:
        got, hope = run_pair(one, two).path, expected(one, two)
        cells[one.name, two.name] = cells[two.name, one.name] = got if got == hope else f"**{got}**"
    lines = [
        "| | " + " | ".join(access.name for access in ACCESSES) + " |",
        "|---" * (len(ACCESSES) + 1) + "|",
    ]
    lines += [
        f"| {one.name} | " + " | ".join(cells[one.name, two.name] for two in ACCESSES) + " |"
        for one in ACCESSES
    ]
    lines += ["", "| name | access |", "|---|---|"]
    lines += [f"| {access.name} | {access.what} |" for access in ACCESSES]
    lines += ["", "| two nodes behind | what | path |", "|---|---|---|"]
    lines += [f"| {shared.name} | {shared.what} | {run_shared(shared).path} |" for shared in SHARED]
    return lines


def document() -> str:
    """docs/nat.md with the tables of this run."""
    text = DOCUMENT.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    return text[:begin] + "\n" + "\n".join(table()) + "\n" + text[end:]


if __name__ == "__main__":
    made = document()
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(made)
    else:
        print(made)

"""An internet in memory, on virtual time: hosts, links, networks, and routers with NATs and firewalls.

    station on a port of a host -- link -- network -- link -- router (nat.py) -- link -- network ...

A network is flat: it delivers to the member or route that has the target address, else to its gateway.
Every member hangs on it by a link of its own, whose two directions are as bad as they are told (impair.py).
Carries UDP only and sends no ICMP: what does not pass is dropped and counted by reason.  Everything
random comes from one seed.  Ready-made places (homes, carriers) are in `places.py`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Protocol

from shadowmesh.testing.impair import Impairment, Stage, flip
from shadowmesh.testing.nat import Firewall, Nat
from shadowmesh.testing.network import Station, VirtualTime
from shadowmesh.units import Address

IPV4_HEADERS, IPV6_HEADERS, UDP_HEADER = 28, 48, 8
"""Bytes of IP and UDP header, and of the latter alone."""
FRAGMENT_UNIT = 8
"""Fragments but the last are cut at multiples of this many bytes. Source: RFC 791 section 3.1."""

parse_prefix = cache(ipaddress.ip_network)
parse_host = cache(ipaddress.ip_address)


@dataclass(frozen=True)
class Packet:
    """One UDP datagram under way, in `pieces` IP packets of at most `size` bytes."""

    source: Address
    target: Address
    data: bytes
    dont_fragment: bool
    size: int
    pieces: int = 1

    @property
    def is_ipv6(self) -> bool:
        """The family of its addresses."""
        return ":" in self.target.host

    def cut(self, mtu: int) -> Packet | None:
        """The packet as it fits an MTU (bytes), fragmented where that is allowed; None if it does not."""
        if self.size <= mtu:
            return self
        if self.dont_fragment:
            return None
        # RFC 8200 section 4.5: an IPv6 fragment has an extension header of 8 bytes.
        ip_headers = IPV6_HEADERS if self.is_ipv6 else IPV4_HEADERS - UDP_HEADER
        part = (mtu - ip_headers) // FRAGMENT_UNIT * FRAGMENT_UNIT
        return replace(self, size=ip_headers + part, pieces=-(-(len(self.data) + UDP_HEADER) // part))


@dataclass
class Link:
    """Between a member and its network: `up` is away from the member.  `Internet.new_link` makes them."""

    up: Stage
    down: Stage

    def cut(self, cut: bool = True) -> None:
        """Let nothing pass, in both directions."""
        for direction in (self.up, self.down):
            direction.change(cut=cut)

    def mend(self) -> None:
        """Undo `cut`, in both directions."""
        self.cut(False)


class Member(Protocol):
    """What hangs on a network: a host or a router."""

    def handle(self, packet: Packet, interface: Interface) -> None:
        """A packet has come in by `interface`."""


@dataclass(eq=False)
class Interface:
    """A member's connection to a network, with its addresses there."""

    member: Member
    network: IpNetwork
    addresses: tuple[str, ...]
    link: Link

    def source_for(self, target: str) -> str | None:
        """The first own address of the target's family."""
        version = parse_host(target).version
        return next((host for host in self.addresses if parse_host(host).version == version), None)

    def send(self, packet: Packet) -> None:
        """Put a packet on the link, towards the network."""
        self.network.internet.carry(packet, self.link.up, self._sent)

    def _sent(self, packet: Packet) -> None:
        self.network.deliver(packet, self)


@dataclass(eq=False)
class IpNetwork:
    """A flat network. `gateway` takes what belongs to nobody here; `passes` decides what is let through."""

    internet: Internet
    name: str
    prefixes: tuple[str, ...]
    members: dict[str, Interface] = field(default_factory=dict)
    routes: dict[str, Interface] = field(default_factory=dict)
    gateway: Interface | None = None
    passes: Callable[[Packet], bool] = lambda _packet: True

    def join(self, member: Member, link: Link, *addresses: str) -> Interface:
        """Connect a member; ValueError if an address is taken."""
        if taken := [host for host in addresses if host in self.members]:
            raise ValueError(f"{self.name}: {taken} taken")
        interface = Interface(member, self, addresses, link)
        self.members.update(dict.fromkeys(addresses, interface))
        return interface

    def leave(self, interface: Interface) -> None:
        """Disconnect a member; packets under way to it are lost."""
        for host in interface.addresses:
            del self.members[host]

    def nearness(self, host: str) -> int:
        """Length of the longest prefix here that holds this address; -1 by the gateway, -2 not at all."""
        found = [
            prefix.prefixlen for prefix in map(parse_prefix, self.prefixes) if parse_host(host) in prefix
        ]
        return max(found, default=-2 if self.gateway is None else -1)

    def deliver(self, packet: Packet, sender: Interface) -> None:
        """Hand a packet that `sender` put on the network to whom it is for."""
        host = packet.target.host
        target = (
            self.members.get(host)
            or self._routed(host)
            or (self.gateway if self.nearness(host) < 0 else None)
        )
        if not self.passes(packet):
            self.internet.drops["filtered"] += 1
        elif target is None or target is sender:
            self.internet.drops["unroutable"] += 1
        else:
            self.internet.carry(packet, target.link.down, partial(self._arrive, interface=target))

    def _routed(self, host: str) -> Interface | None:
        via = (way for prefix, way in self.routes.items() if parse_host(host) in parse_prefix(prefix))
        return next(via, None)

    def _arrive(self, packet: Packet, interface: Interface) -> None:
        # Looked up again: the member may have left, or moved, while the packet was on the link.
        if interface in (*self.members.values(), *self.routes.values()):
            interface.member.handle(packet, interface)
        else:
            self.internet.drops["gone"] += 1


class Host:
    """A machine with interfaces, and stations on its UDP ports.

    `dont_fragment`: whether its packets carry DF (IPv4), or are not cut by itself (IPv6).
    """

    def __init__(self, internet: Internet, name: str) -> None:
        self.internet = internet
        self.name = name
        self.interfaces: list[Interface] = []
        self.ports: dict[int, Station] = {}
        self.dont_fragment = True

    @property
    def addresses(self) -> list[str]:
        """Of all interfaces."""
        return [host for interface in self.interfaces for host in interface.addresses]

    def join(self, network: IpNetwork, *addresses: str, link: Link | None = None) -> Interface:
        """Connect to a network under these addresses; without `link`, by one like those of the internet."""
        link = link or self.internet.new_link()
        interface = network.join(self, link, *addresses)
        self.interfaces.append(interface)
        return interface

    def leave(self, interface: Interface) -> None:
        """Disconnect from a network."""
        interface.network.leave(interface)
        self.interfaces.remove(interface)

    def move(self, network: IpNetwork, *addresses: str) -> None:
        """Roam: leave every network and join this one."""
        for interface in list(self.interfaces):
            self.leave(interface)
        self.join(network, *addresses)

    def route(self, target: str) -> tuple[Interface, str] | None:
        """Interface and source address for packets to `target`: the longest prefix wins."""
        ways = [(way.network.nearness(target), way, way.source_for(target)) for way in self.interfaces]
        usable = [(near, way, source) for near, way, source in ways if near > -2 and source is not None]
        best = max(usable, key=lambda one: one[0], default=None)
        return best and best[1:]

    def send(self, data: bytes, port: int, target: Address) -> None:
        """Send a datagram from `port`."""
        way = self.route(target.host)
        if way is None:
            self.internet.drops["no_route"] += 1
            return
        interface, host = way
        size = len(data) + (IPV6_HEADERS if ":" in host else IPV4_HEADERS)
        packet = Packet(Address(host, port), target, data, self.dont_fragment, size)
        self.internet.sent.append((self.internet.now, packet.source, target, data))
        if packet.is_ipv6:
            # Only the host that sends an IPv6 packet may cut it. Source: RFC 8200 section 4.5.
            packet = replace(packet.cut(interface.link.up.impairment.mtu) or packet, dont_fragment=True)
        if target.host in self.addresses:
            self.handle(packet, interface)
        else:
            interface.send(packet)

    def handle(self, packet: Packet, interface: Interface) -> None:
        station = self.ports.get(packet.target.port)
        if station is None:
            self.internet.drops["closed_port"] += 1
            return
        station.receive(packet.data, packet.source, self.internet.now)
        self.internet.flush(station)


class Router:
    """Between an inside network, whose gateway it becomes, and an outside one.

    `blocks` decides what it lets through in neither direction, before any translation.

    :param nat: for IPv4; None forwards IPv4 as it is.
    :param firewall: for IPv6; None forwards IPv6 as it is.
    """

    def __init__(self, nat: Nat | None, firewall: Firewall | None) -> None:
        self.nat = nat
        self.firewall = firewall
        self.blocks: Callable[[Packet], bool] = lambda _packet: False
        self.inside: Interface
        self.outside: Interface

    def connect(self, inside: Interface, outside: Interface) -> None:
        """Take its place; what is not translated is then reached through the outside network."""
        self.inside, self.outside = inside, outside
        inside.network.gateway = inside
        translated = 4 if self.nat else None
        for prefix in inside.network.prefixes:
            if parse_prefix(prefix).version != translated:
                outside.network.routes[prefix] = outside

    @property
    def _internet(self) -> Internet:
        return self.inside.network.internet

    def handle(self, packet: Packet, interface: Interface) -> None:
        if self.blocks(packet):
            self._drop("blocked")
        elif interface is self.inside:
            self._outbound(packet)
        else:
            self._inbound(packet)

    def _outbound(self, packet: Packet) -> None:
        now = self._internet.now
        if packet.is_ipv6:
            if self.firewall:
                self.firewall.outbound(packet.source, packet.target, now)
        elif self.nat:
            packet = replace(packet, source=self.nat.outbound(packet.source, packet.target, now))
            if packet.target.host == self.nat.host:
                self._hairpin(packet)
                return
        self.outside.send(packet)

    def _hairpin(self, packet: Packet) -> None:
        assert self.nat is not None
        if self.nat.behaviour.hairpin:
            self._inbound(packet)
        else:
            self._drop("hairpin")

    def _inbound(self, packet: Packet) -> None:
        now = self._internet.now
        if packet.is_ipv6:
            if self.firewall and not self.firewall.admits(packet.source, packet.target, now):
                self._drop("firewall")
                return
        elif self.nat:
            target = self.nat.inbound(packet.source, packet.target, now)
            if target is None:
                self._drop("nat")
                return
            packet = replace(packet, target=target)
        self.inside.send(packet)

    def _drop(self, reason: str) -> None:
        self._internet.drops[reason] += 1


class Internet(VirtualTime):
    """Everything together. `public` is the network that all addresses belong to which are nobody's else.

    :param link: what a link is like where nothing else is said.
    """

    def __init__(self, seed: int = 1, link: Impairment | None = None) -> None:
        super().__init__(seed)
        self.link = link or Impairment(delay=0.005)
        self.drops: Counter[str] = Counter()
        """Packets that arrived nowhere, by reason."""
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """Every datagram that a host sent: time, source on that host, destination, bytes."""
        self.public = IpNetwork(self, "public", ("0.0.0.0/0", "::/0"))
        self.places: dict[Station, tuple[Host, int]] = {}
        """Host and port of every station."""

    def stations(self) -> Iterable[Station]:
        return self.places

    def attach(self, station: Station, host: Host, port: int) -> None:
        """Run a station on a port of a host; one that was there before is gone."""
        if port in host.ports:
            self.detach(host.ports[port])
        host.ports[port] = station
        self.places[station] = host, port
        self.flush(station)

    def detach(self, station: Station) -> None:
        """Stop a station, as if its process had died."""
        host, port = self.places.pop(station)
        del host.ports[port]

    def flush(self, station: Station) -> None:
        host, port = self.places[station]
        for data, target in station.transmit():
            host.send(data, port, target)

    def new_link(self, impairment: Impairment | None = None) -> Link:
        """A link with both directions alike, to be changed one by one later; by default like all others."""
        wanted = impairment or self.link
        return Link(*(Stage(wanted, self.random, self.drops) for _ in range(2)))

    def carry(self, packet: Packet, stage: Stage, arrive: Callable[[Packet], None]) -> None:
        """Move a packet over one direction of a link; `arrive` is called when, and as often as, it does."""
        fitting = packet.cut(stage.impairment.mtu) or packet
        fragments = fitting.pieces if fitting.pieces > 1 else 0
        for late, damage in stage.judge(fitting.size, self.now, fragments):
            arriving = fitting
            if damage is not None and fitting.data:
                arriving = replace(fitting, data=flip(fitting.data, damage))
            if late:
                self.after(late, partial(arrive, arriving))
            else:
                arrive(arriving)

"""Places of the in-memory internet: servers in public, homes behind NATs, homes behind a carrier's NAT.

Gives out addresses of the blocks for documentation and for the purpose: 203.0.113.0/24 and
2001:db8::/32 in public (RFC 5737, RFC 3849), 192.168.N.0/24 at home, 100.64.N.0/24 behind a carrier's
NAT (RFC 6598).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shadowmesh.testing.internet import Host, Internet, IpNetwork, Link, Router
from shadowmesh.testing.nat import Firewall, Nat

if TYPE_CHECKING:
    from shadowmesh.testing.impair import Impairment
    from shadowmesh.testing.nat import Behaviour

LAN_DELAY = 0.0003
"""Seconds that a cable or radio at home takes, one way."""


@dataclass(eq=False)
class Site:
    """A network behind a router of its own; `host` adds machines."""

    places: Places
    network: IpNetwork
    router: Router
    base4: str | None
    base6: str | None
    _count: int = field(default=9)

    def new_addresses(self) -> tuple[str, ...]:
        """Addresses, one of each family that this site has, that nobody has yet."""
        self._count += 1
        bases = ((self.base4, f"{self._count}"), (self.base6, f"{self._count:x}"))
        return tuple(f"{base}{last}" for base, last in bases if base)

    def host(self, name: str) -> Host:
        """A new machine in this network."""
        host = Host(self.places.internet, name)
        host.join(self.network, *self.new_addresses(), link=self.places.cable())
        return host

    def block_udp(self, *but: str) -> None:
        """Let no UDP through the router, but to and from these addresses."""
        self.router.blocks = lambda packet: not {packet.source.host, packet.target.host} & set(but)


class Places:
    """Builds hosts and sites in one `Internet`.

    :param link: what the links of servers and sites to the public network are like.
    """

    def __init__(self, seed: int = 1, link: Impairment | None = None) -> None:
        self.internet = Internet(seed, link)
        self._public = 0
        self._sites = 0

    def cable(self) -> Link:
        """A link inside a site."""
        return self.internet.new_link(replace(self.internet.link, delay=LAN_DELAY, jitter=0.0, loss=0.0))

    def server(self, name: str, ipv4: bool = True, ipv6: bool = True) -> Host:
        """A machine in public, with addresses of these families."""
        host = Host(self.internet, name)
        host.join(self.internet.public, *self._public_addresses(ipv4, ipv6))
        return host

    def site(
        self,
        behaviour: Behaviour | None,
        behind: Site | None = None,
        firewall: Firewall | None = None,
        lan: int | None = None,
    ) -> Site:
        """A network with a router.

        :param behaviour: of its IPv4 NAT; None for a site without IPv4.
        :param behind: the site of the carrier that it hangs on; None for the public network.
        :param firewall: for IPv6; None for a site without IPv6.
        :param lan: number of its private network, where two shall be alike.
        """
        self._sites += 1
        number = self._sites if lan is None else lan
        base4 = f"192.168.{number}." if behaviour else None
        base6 = f"2001:db8:{self._sites:x}::" if firewall else None
        return self._site(behaviour, behind, firewall, base4, base6)

    def carrier(self, behaviour: Behaviour) -> Site:
        """A carrier-grade NAT, for sites to hang behind."""
        self._sites += 1
        return self._site(behaviour, None, None, f"100.64.{self._sites}.", None)

    def _site(
        self,
        behaviour: Behaviour | None,
        behind: Site | None,
        firewall: Firewall | None,
        base4: str | None,
        base6: str | None,
    ) -> Site:
        ours = [f"{base}1" for base in (base4, base6) if base]
        prefixes = [f"{base4}0/24"] * bool(base4) + [f"{base6}/64"] * bool(base6)
        network = IpNetwork(self.internet, f"site {self._sites}", tuple(prefixes))
        outer = behind.network if behind else self.internet.public
        addresses = behind.new_addresses() if behind else self._public_addresses(bool(base4), bool(base6))
        router = Router(Nat(behaviour, addresses[0], self.internet.random) if behaviour else None, firewall)
        uplink = self.internet.new_link()
        router.connect(network.join(router, self.cable(), *ours), outer.join(router, uplink, *addresses))
        return Site(self, network, router, base4, base6)

    def _public_addresses(self, ipv4: bool, ipv6: bool) -> tuple[str, ...]:
        self._public += 1
        return (f"203.0.113.{self._public}",) * ipv4 + (f"2001:db8::{self._public:x}",) * ipv6

"""What this node knows of its own place in the underlay: addresses that peers may try, its NAT, its MTU.

Filled from outside: netlink, relays, peers, port mappings.  One per node; says nothing to anybody itself.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from shadowmesh.path.candidates import Candidate, CandidateKind, Prefix, is_private, merge
from shadowmesh.path.mtu import LARGEST
from shadowmesh.units import Address

MAX_SEEN_BY_PEERS = 2
"""Addresses kept that only peers saw us at; a peer's word is worth less than a relay's of our own choice."""


class LocalNetwork:
    """Our candidates, most promising first.

    :param own_prefixes: networks of the overlay: addresses in them are no way to reach anybody.
    """

    def __init__(self, own_prefixes: Iterable[Prefix] = ()) -> None:
        self.own_prefixes: Sequence[Prefix] = tuple(own_prefixes)
        self.nat = ""
        """How our NAT maps and filters, in words; empty while nothing is known."""
        self.largest = LARGEST
        """Bytes of UDP payload that the interfaces can send."""
        self.version = 0
        """Rises with every change of `candidates`."""
        self._local: list[Address] = []
        self._mapped: list[Address] = []
        self._by_relay: dict[str, Address] = {}
        self._by_peer: OrderedDict[Address, None] = OrderedDict()

    def owns(self, address: Address) -> bool:
        """Whether packets to this address would go through our own device."""
        ip = ipaddress.ip_address(address.host.partition("%")[0])
        return any(ip in prefix for prefix in self.own_prefixes)

    @property
    def hosts(self) -> frozenset[str]:
        """Addresses of our interfaces, without port."""
        return frozenset(address.host for address in self._local)

    @property
    def candidates(self) -> list[Candidate]:
        """What peers are told."""
        lists = (
            (CandidateKind.MAPPED, self._mapped),
            (CandidateKind.OBSERVED, [*self._by_relay.values(), *self._by_peer]),
            (CandidateKind.LOCAL, self._local),
        )
        return merge(
            [[Candidate(address, kind) for address in addresses] for kind, addresses in lists],
            self.own_prefixes,
        )

    def set_local(self, addresses: Sequence[Address]) -> None:
        """Addresses of the interfaces, with the port of our socket. What others saw before may be over."""
        if list(addresses) != self._local:
            self._by_peer.clear()
            self._local = list(addresses)
        self.version += 1

    def set_mapped(self, addresses: Sequence[Address]) -> bool:
        """Ports that routers have mapped to ours; returns whether that is news."""
        return self._change("_mapped", list(addresses))

    def set_nat(self, nat: str) -> bool:
        """How our NAT maps and filters; returns whether that is news."""
        return self._change("nat", nat)

    def set_seen_by_relay(self, relay: str, observed: Address | None) -> bool:
        """Where a relay sees us; returns whether that is news."""
        seen = dict(self._by_relay)
        if observed is None:
            seen.pop(relay, None)
        else:
            seen[relay] = observed
        return self._change("_by_relay", seen)

    def note_seen_by_peer(self, observed: Address) -> bool:
        """Where a peer sees us; returns whether anybody else should hear of it."""
        # A private one is seen in a network that we share, and its members know it from us.
        known = {candidate.address for candidate in self.candidates}
        if observed in known or is_private(observed.host):
            return False
        self._by_peer[observed] = None
        while len(self._by_peer) > MAX_SEEN_BY_PEERS:
            self._by_peer.popitem(last=False)
        self.version += 1
        return True

    def _change(self, name: str, value: object) -> bool:
        if getattr(self, name) == value:
            return False
        setattr(self, name, value)
        self.version += 1
        return True

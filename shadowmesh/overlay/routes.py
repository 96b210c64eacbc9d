"""Which gateway carries which prefix: what is asked for, what certificates allow, who is there; sans-I/O.

A route counts only if the gateway's certificate (without a network: `peers[].routes`) covers it, and if it
does not swallow our own way to relays and peers.  Of several gateways of a prefix the first in the file that
has a session is used; without any the route stays where it was, so that packets are dropped, not leaked
elsewhere.  Nothing is installed here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shadowmesh.config import Route

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
RETURN_AFTER = 5.0
"""Seconds that a gateway further up in the file must have been there before routes move back to it."""


@dataclass(frozen=True)
class Gateway:
    """A member that routes lead to, as it is known just now."""

    name: str
    addresses: Sequence[str]
    """On the overlay, without prefix length."""
    allowed: Sequence[str] | None
    """Prefixes that it may carry; None while its certificate is not known."""
    alive: bool
    """Frames to it have a path that works."""
    revoked: str = ""
    """Why it may carry nothing any more, for people."""


class Guarded(NamedTuple):
    """An underlay address that no route may swallow, and whose it is, for people."""

    host: str
    what: str


State = Literal["installed", "standby", "waiting", "refused"]


@dataclass
class Entry:
    """One of `routes:` and what became of it."""

    route: Route
    state: State = "waiting"
    reason: str = ""
    alive_since: float | None = None
    via: str = ""
    """The gateway's overlay address, if it may carry the prefix."""


class Key(NamedTuple):
    """What tells one route of the kernel's table from another."""

    to: str
    metric: int


class Routes:
    """The table of one node.

    :param routes: of the configuration, in its order.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.entries = [Entry(route) for route in routes]
        self._used: dict[Key, Entry] = {}

    def update(
        self,
        gateways: Mapping[str, Gateway | None],
        guarded: Sequence[Guarded],
        overlay: Sequence[Prefix],
        now: float,
    ) -> dict[Key, str]:
        """The routes that should be there now: each with the overlay address of its gateway.

        :param gateways: by `via` of the configuration; None: nobody of that name is known.
        :param overlay: networks of the overlay itself.
        """
        for entry in self.entries:
            gateway = gateways.get(entry.route.via)
            entry.via = ""
            entry.state, entry.reason = _judge(entry, gateway, guarded, overlay)
            alive = gateway is not None and gateway.alive and entry.via != ""
            entry.alive_since = (entry.alive_since or now) if alive else None
        groups: dict[Key, list[Entry]] = {}
        for entry in self.entries:
            if entry.via:
                groups.setdefault(Key(entry.route.to, entry.route.metric), []).append(entry)
        self._used = {key: self._choose(self._used.get(key), group, now) for key, group in groups.items()}
        for entry in self._used.values():
            entry.state = "installed"
        return {key: entry.via for key, entry in self._used.items()}

    def refuse(self, key: Key, reason: str) -> None:
        """The system did not take this route."""
        entry = self._used.pop(key, None)
        if entry is not None:
            entry.state, entry.reason = "refused", reason

    def _choose(self, current: Entry | None, group: list[Entry], now: float) -> Entry:
        """Of the gateways that may carry a prefix."""
        known = current if current in group else None
        alive = [entry for entry in group if entry.alive_since is not None]
        if known is None or known.alive_since is None:
            return alive[0] if alive else known or group[0]
        settled = (entry for entry in alive if now - (entry.alive_since or now) >= RETURN_AFTER)
        better = next(settled, known)
        return better if group.index(better) < group.index(known) else known


def _judge(
    entry: Entry, gateway: Gateway | None, guarded: Sequence[Guarded], overlay: Sequence[Prefix]
) -> tuple[State, str]:
    """State and reason of an entry by itself; fills its `via` if it may be used."""
    route, prefix = entry.route, ipaddress.ip_network(entry.route.to)
    if gateway is None:
        return "waiting", f"no member {route.via} is known yet"
    if gateway.revoked:
        return "refused", gateway.revoked
    if gateway.allowed is None:
        return "waiting", f"the certificate of {gateway.name} is not known yet"
    if not any(_covers(ipaddress.ip_network(text), prefix) for text in gateway.allowed):
        named = ", ".join(gateway.allowed) or "none"
        return "refused", f"{gateway.name} may not carry {route.to} (its routes: {named})"
    if any(one.version == prefix.version and one.overlaps(prefix) for one in overlay):
        return "refused", f"{route.to} overlaps the overlay itself"
    for host, what in guarded:
        if ipaddress.ip_address(host.partition("%")[0]) in prefix:
            return "refused", f"{route.to} would swallow {host}, {what}"
    via = [host for host in gateway.addresses if ipaddress.ip_address(host).version == prefix.version]
    if not via:
        return "refused", f"{gateway.name} has no IPv{prefix.version} address on the overlay"
    entry.via = via[0]
    return "standby", "" if gateway.alive else f"{gateway.name} does not answer"


def _covers(allowed: Prefix, prefix: Prefix) -> bool:
    if isinstance(allowed, ipaddress.IPv4Network):
        return isinstance(prefix, ipaddress.IPv4Network) and prefix.subnet_of(allowed)
    return isinstance(prefix, ipaddress.IPv6Network) and prefix.subnet_of(allowed)

"""What the relay takes at most, and the door that holds handshakes to it. No I/O, no clock of its own.

A handshake costs 9 ms of a core (measured), whoever it is that asks.  So each network of the Internet may
begin only so many: counted is an IPv4 /24 or an IPv6 /48, what one party is commonly given at most, because
to count addresses would let the holder of a prefix multiply them.  Who completes a handshake and is refused
has cost us all of it for nothing, and draws on a second, smaller bucket.  Whoever shows a ticket was admitted
before, and is not held to that one: a stranger in the same network locks no member out.

State is kept for proved addresses only, one number for each of at most `MAX_PREFIXES` networks.
"""

from __future__ import annotations

import ipaddress

import msgspec

from shadowmesh.errors import BadPacket

MAX_PREFIXES = 16384
"""Networks that are remembered; beyond, those not remembered wait, since nobody proves so many by chance."""
PURGE_EVERY = 1.0
"""Seconds between two looks for networks that may be forgotten."""
PREFIX_V4, PREFIX_V6 = 24, 48


class Limits(msgspec.Struct, frozen=True):
    """`limits:` of relay.yaml; docs/configuration.md says what each means. Rates of 0 mean no limit."""

    clients: int = 4096
    channels_per_client: int = 4096
    openings_per_second: int = 10
    handshakes: int = 256
    """At once: 2.3 s of work."""
    handshakes_per_host: int = 32
    """At once from an IPv4 address or an IPv6 /64: a house behind one NAT, but no more."""
    handshakes_per_second: int = 20
    """From one prefix, `HANDSHAKE_BURST` at once."""
    refusals_per_minute: int = 30
    """From one prefix, `REFUSAL_BURST` at once."""
    packets_per_second: int = 0
    bytes_per_second: int = 0


HANDSHAKE_BURST = 256
"""A company behind one address comes back at once after a restart of the relay."""
REFUSAL_BURST = 30
"""A refused client comes back every five seconds at most."""


class Bucket:
    """Token buckets by key, each one number: the time at which it would be full again (GCRA, ITU-T I.371).

    :param rate: tokens per second.
    :param burst: tokens of a full bucket.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._step = 1 / rate
        self._room = (burst - 0.5) / rate  # half a token more than it needs, against rounding
        self._due: dict[str, float] = {}
        self._purged_at = 0.0

    def __len__(self) -> int:
        return len(self._due)

    def empty(self, key: str, now: float) -> bool:
        """Whether there is no token, or no room to remember that one was taken."""
        due = self._due.get(key)
        if due is None:
            return len(self._due) >= MAX_PREFIXES and not self._purge(now)
        return due - now > self._room

    def take(self, key: str, now: float) -> None:
        """Take a token, also of an empty bucket; nothing is remembered beyond `MAX_PREFIXES`."""
        if key in self._due or len(self._due) < MAX_PREFIXES or self._purge(now):
            due = max(self._due.get(key, now), now)
            self._due[key] = min(due, now + self._room + self._step) + self._step

    def _purge(self, now: float) -> bool:
        """Forget full buckets; whether there is room now."""
        if now - self._purged_at >= PURGE_EVERY:
            self._purged_at = now
            self._due = {key: due for key, due in self._due.items() if due > now}
        return len(self._due) < MAX_PREFIXES


def prefix_of(host: str) -> str:
    """The network that an address is counted under: its IPv4 /24 or IPv6 /48."""
    address = ipaddress.ip_address(host.partition("%")[0])
    length = PREFIX_V4 if address.version == 4 else PREFIX_V6
    return str(ipaddress.ip_network((address, length), strict=False).network_address)


class Door:
    """Decides whether a proved address may begin a handshake now."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._begun = Bucket(limits.handshakes_per_second, HANDSHAKE_BURST)
        self._refused = Bucket(limits.refusals_per_minute / 60, REFUSAL_BURST)

    def crowd_untrusted(self, of_host: int, full: bool) -> None:
        """Whether there is room for one more. Raises BadPacket.

        :param of_host: handshakes of its IPv4 address or IPv6 /64 that are under way or wait.
        :param full: whether as many wait as may.
        """
        if full or of_host >= self.limits.handshakes_per_host:
            raise BadPacket("too_many_handshakes")

    def enter_untrusted(self, host: str, ticket: bool, now: float) -> None:
        """Count a handshake that `host` begins. Raises BadPacket.

        :param ticket: whether it showed a ticket of ours.
        """
        prefix = prefix_of(host)
        if not ticket and self._refused.empty(prefix, now):
            raise BadPacket("refused_before")
        if self._begun.empty(prefix, now):
            raise BadPacket("handshake_rate")
        self._begun.take(prefix, now)

    def refuse(self, host: str, now: float) -> None:
        """A handshake from there came as far as to be refused."""
        self._refused.take(prefix_of(host), now)

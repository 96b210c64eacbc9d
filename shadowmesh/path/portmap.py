"""A port of the gateway's outside address for our socket: asked for by PCP, else by NAT-PMP; sans-I/O.

    PCP MAP -> mapped -> renewed at half of its life -> ...
       | no answer, or it knows no PCP
       v
    NAT-PMP address -> NAT-PMP port -> mapped -> ...
       | no answer
       v
    exhausted: the caller may try UPnP; everything again after `TRY_AGAIN`

The caller sends to the gateway and hands in only what came from there.  What a gateway claims is believed
only as far as an address on the Internet may look like that.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable

from shadowmesh.units import Address
from shadowmesh.wire.portmap import (
    NONCE_SIZE,
    PCP_RESULTS,
    PMP_RESULTS,
    UNSUPPORTED_VERSION,
    MapReply,
    encode_pcp_map,
    encode_pmp_address,
    encode_pmp_map,
    parse_pcp_map_untrusted,
    parse_pmp_untrusted,
)

LIFETIME = 1200
"""Seconds asked for: at half of it a gateway that lost the mapping (a restart) is found out."""
LIFE_RANGE = (60, 86400)
"""Seconds believed of what a gateway grants: neither a storm of renewals nor a mapping for ever."""
WAITS = (0.25, 0.5, 1.0)
"""Seconds after each sending; those of RFC 6886 section 3.1, but given up after 2 s instead of a minute: most
gateways without the service are just silent."""
TRY_AGAIN = 300.0
"""Seconds until a gateway that mapped nothing is asked again."""

_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]
"""RFC 1918, RFC 6598 (carriers' NAT), RFC 4193."""


class Protocol(enum.Enum):
    """How the mapping is asked for; the value is the name in `status`."""

    PCP = "pcp"
    NAT_PMP = "nat-pmp"


def problem_of_outside(host: str) -> str:
    """Why a gateway's outside address can't be one that others reach; empty if it can."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return f"{host!r} is no address"
    if any(ip in network for network in _PRIVATE if network.version == ip.version):
        return f"double NAT: the gateway's outside address {host} is private"
    reserved = ip.version == 4 and ip.packed[0] >= 240
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local or reserved:
        return f"the gateway claims the outside address {host}, which can't be"
    return ""


class PortMapping:
    """One port at one gateway. Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    :param host: our address towards the gateway.
    :param port: of our UDP socket.
    """

    def __init__(self, random: Callable[[int], bytes], host: str, port: int, now: float) -> None:
        self.external: Address | None = None
        """Where the gateway takes packets for us, while it does."""
        self.report: dict[str, str] = {}
        """Protocol -> how it went, for people."""
        self.deadline: float | None = now
        self._host, self._port = host, port
        self._nonce = random(NONCE_SIZE)
        self._protocol: Protocol | None = Protocol.PCP
        self._tries = 0
        self._pmp_host = ""
        self._granted = 0
        self._wished = Address("", port)
        self._ends_at = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether the gateway has neither protocol, or refuses."""
        return self._protocol is None

    @property
    def settled(self) -> bool:
        """Whether the gateway has answered the protocol that is in use."""
        return self._protocol is not None and self._protocol.value in self.report

    def poll(self, now: float) -> bytes | None:
        """The request that is due, if any."""
        if self.deadline is None or now < self.deadline:
            return None
        if self._protocol is None:
            self._begin(Protocol.PCP, now)
        if self.external is not None and now >= self._ends_at:
            self.external = None
        if self._tries >= len(WAITS):
            self._handle_silence(now)
            return None
        self.deadline = now + WAITS[self._tries]
        self._tries += 1
        return self._request(LIFETIME)

    def handle_unreachable(self, now: float) -> None:
        """The gateway's system said that nobody listens on that port (ICMP): neither protocol is there."""
        if not self._granted and self._protocol is not None:
            self.report[self._protocol.value] = "not offered"
            self._give_up(now)

    def handle_reply_untrusted(self, data: bytes, now: float) -> None:
        """A datagram from the gateway's port 5351. Raises BadPacket."""
        if self._protocol is Protocol.PCP:
            self._handle_reply(parse_pcp_map_untrusted(data, self._nonce, self._port), PCP_RESULTS, now)
        elif self._protocol is Protocol.NAT_PMP:
            self._handle_reply(parse_pmp_untrusted(data, self._port), PMP_RESULTS, now)

    def refresh(self, now: float) -> None:
        """Something happened to the network: ask at once; until the answer, what was mapped counts."""
        self._tries, self.deadline = 0, now

    def release(self) -> bytes | None:
        """The request that deletes the mapping; None if there is none. The end."""
        self.deadline = self.external = None
        return self._request(0) if self._granted else None

    def _request(self, lifetime: int) -> bytes:
        if self._protocol is Protocol.NAT_PMP:
            if not self._pmp_host and lifetime:
                return encode_pmp_address()
            return encode_pmp_map(self._port, lifetime, self._wished.port if lifetime else 0)
        wished = self._wished if lifetime else Address("", 0)
        return encode_pcp_map(self._nonce, self._host, self._port, lifetime, wished.host, wished.port)

    def _begin(self, protocol: Protocol, now: float) -> None:
        self._protocol, self._tries, self.deadline, self._pmp_host = protocol, 0, now, ""

    def _give_up(self, now: float) -> None:
        self._protocol, self.deadline, self._tries, self._granted = None, now + TRY_AGAIN, 0, 0

    def _handle_silence(self, now: float) -> None:
        """No answer to any try: ask again while the mapping lives, else by the next protocol."""
        assert self._protocol is not None
        self._tries = 0
        if self.external is not None:
            self.deadline = min(self._ends_at, now + max(1.0, (self._ends_at - now) / 2))
            return
        self.report[self._protocol.value] = "no answer"
        self._next(now)

    def _next(self, now: float) -> None:
        if self._protocol is Protocol.PCP and ":" not in self._host:
            self._begin(Protocol.NAT_PMP, now)
        else:
            self._give_up(now)

    def _handle_reply(self, reply: MapReply, results: dict[int, str], now: float) -> None:
        assert self._protocol is not None
        if reply.result:
            self.external, self._granted = None, 0
            what = results.get(reply.result, f"result {reply.result}")
            self.report[self._protocol.value] = (
                "not offered" if reply.result == UNSUPPORTED_VERSION else f"refused: {what}"
            )
            self._next(now)
        elif self._protocol is Protocol.NAT_PMP and reply.host:
            self._pmp_host = reply.host
            self._tries, self.deadline = 0, now
        elif self._protocol is Protocol.PCP or self._pmp_host:
            self._grant(Address(reply.host or self._pmp_host, reply.port), reply.lifetime, now)

    def _grant(self, outside: Address, lifetime: int, now: float) -> None:
        assert self._protocol is not None
        self._granted = outside.port
        problem = problem_of_outside(outside.host)
        if not problem and not (outside.port and lifetime):
            problem = "the gateway granted port or lifetime 0"
        if problem:
            self.external = None
            self.report[self._protocol.value] = problem
            # Neither is another protocol of the same gateway nearer to the Internet.
            self._tries, self.deadline = 0, now + TRY_AGAIN
            return
        life = min(max(lifetime, LIFE_RANGE[0]), LIFE_RANGE[1])
        self.external = self._wished = outside
        self._ends_at = now + life
        self._tries, self.deadline = 0, now + life / 2
        self._pmp_host = ""  # asked again with each renewal: the outside address may change
        self.report[self._protocol.value] = f"maps {outside}"

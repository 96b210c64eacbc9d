"""How the NAT before this machine maps and filters, in the terms of RFC 4787, from what relays observe.

Two observations from different addresses or ports tell mappings apart; a packet that a relay's second
port sends unasked tells the filtering.  One relay has one address, so some differences it can't see:
then the verdict names what is left.  Sans-I/O; payloads and messages only, sending is the caller's.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shadowmesh.units import Address
from shadowmesh.wire.messages import NatTest
from shadowmesh.wire.observe import encode_observe, parse_observed
from shadowmesh.wire.payload import NONCE_SIZE

TRIES = 3
"""Questions of each kind before silence counts; each packet may be lost."""
WAIT = 0.7
"""Seconds for each, above all round trips on Earth but those by satellite, which get a second question."""


class Mapping(enum.Enum):
    """RFC 4787 section 4.1: whose packets use one mapping. The value is what `status` says."""

    UNKNOWN = "unknown"
    NONE = "no NAT"
    """The observed address is one of this machine."""
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    PORT_INDEPENDENT = "endpoint-independent or address-dependent"
    """The same for two ports of one relay; another address was not tried."""
    ADDRESS_OR_PORT_DEPENDENT = "address-dependent or address-and-port-dependent"
    """Different for two relays; two ports of one were not tried."""


class Filtering(enum.Enum):
    """RFC 4787 section 5: whose packets are let in. The value is what `status` says."""

    UNKNOWN = "unknown"
    PORT_INDEPENDENT = "endpoint-independent or address-dependent"
    """From another port of a relay; an address that was never written to can't be tried."""
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Observation(NamedTuple):
    """`target` (a port of a relay) saw our packets come from `observed`."""

    target: Address
    observed: Address


@dataclass(frozen=True)
class NatReport:
    """What is known of the NAT; `str()` is one line for people and for peers."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    observed: tuple[Address, ...] = ()

    def __str__(self) -> str:
        return f"mapping {self.mapping.value}, filtering {self.filtering.value}"


def classify_mapping(observations: Iterable[Observation], local: Collection[str] = ()) -> Mapping:
    """The mapping, as far as these observations tell; those of IPv4 alone, if there are any.

    :param local: hosts (addresses without port) of this machine.
    """
    every = list(observations)
    seen = [one for one in every if ":" not in one.observed.host] or every
    if seen and all(one.observed.host in local for one in seen):
        return Mapping.NONE
    one_host, hosts = _compare(seen)
    if hosts is None:
        return {
            None: Mapping.UNKNOWN,
            True: Mapping.PORT_INDEPENDENT,
            False: Mapping.ADDRESS_AND_PORT_DEPENDENT,
        }[one_host]
    if one_host is False:
        return Mapping.ADDRESS_AND_PORT_DEPENDENT
    if hosts:
        return Mapping.ENDPOINT_INDEPENDENT
    return Mapping.ADDRESS_DEPENDENT if one_host else Mapping.ADDRESS_OR_PORT_DEPENDENT


def _compare(seen: list[Observation]) -> tuple[bool | None, bool | None]:
    """Whether the mapping was the same for ports of one host, and for several hosts; None: not tried."""
    one_host: bool | None = None
    hosts: bool | None = None
    for one, other in itertools.combinations(seen, 2):
        same = one.observed == other.observed
        if one.target.host != other.target.host:
            hosts = same and hosts is not False
        elif one.target.port != other.target.port:
            one_host = same and one_host is not False
    return one_host, hosts


class _Phase(enum.Enum):
    IDLE = 0
    FILTERING = 1
    MAPPING = 2
    DONE = 3


class SecondPortTest:
    """The test of one NAT mapping at one relay's second port: filtering first, while nothing was sent there.

    Once something was, the NAT may let its packets in for minutes, so the filtering of one mapping is
    tested only once.  Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    :param port: of the relay.
    """

    def __init__(self, random: Callable[[int], bytes], port: int) -> None:
        self.port = port
        self.filtering = Filtering.UNKNOWN
        self.observed: Address | None = None
        """Where the second port saw us."""
        self.deadline: float | None = None
        self._random = random
        self._phase = _Phase.IDLE
        self._nonces: list[bytes] = []
        self._of: Address | None = None
        """The mapping under test: where the relay's first port sees us."""
        self._opened: Address | None = None
        """The mapping under which the second port was written to."""

    @property
    def silent(self) -> bool:
        """Whether the second port did not answer at all: a firewall there, most likely."""
        return self._phase is _Phase.DONE and self.observed is None

    def handle_bound(self, observed: Address, now: float) -> None:
        """The relay's first port sees us there: test that, unless it was."""
        if observed == self._of and self._phase is not _Phase.IDLE:
            return
        if observed != self._of:
            self.filtering, self.observed = Filtering.UNKNOWN, None
        self._of = observed
        self._enter(_Phase.MAPPING if observed == self._opened else _Phase.FILTERING, now)

    def suspend(self) -> None:
        """The relay is not connected: what was found stays, an unfinished test begins again later."""
        self.deadline = None
        if self._phase is not _Phase.DONE:
            self._phase = _Phase.IDLE

    def poll(self, now: float) -> NatTest | bytes | None:
        """What is to be sent: a message on the leg, or a payload to the second port; None if nothing is."""
        if self.deadline is None or now < self.deadline:
            return None
        if len(self._nonces) >= TRIES:
            self._handle_silence(now)
        if self._phase is _Phase.DONE:
            return None
        self.deadline = now + WAIT
        nonce = self._random(NONCE_SIZE)
        self._nonces.append(nonce)
        if self._phase is _Phase.FILTERING:
            return NatTest(nonce)
        self._opened = self._of
        return encode_observe(nonce)

    def handle_observed_untrusted(self, payload: bytes, now: float) -> None:
        """An OBSERVED that came from the second port. Raises BadPacket("malformed")."""
        nonce, address = parse_observed(payload)
        if nonce not in self._nonces:
            return  # late: of the phase before, or of a mapping that is gone
        if self._phase is _Phase.FILTERING:
            self.filtering = Filtering.PORT_INDEPENDENT
            self._enter(_Phase.MAPPING, now)
        elif self._phase is _Phase.MAPPING:
            self.observed = address
            self._enter(_Phase.DONE, now)

    def _handle_silence(self, now: float) -> None:
        if self._phase is _Phase.FILTERING:
            self.filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
            self._enter(_Phase.MAPPING, now)
        else:
            # Who does not answer when asked was not filtered when it did not come unasked.
            self.filtering = Filtering.UNKNOWN
            self._enter(_Phase.DONE, now)

    def _enter(self, phase: _Phase, now: float) -> None:
        self._phase = phase
        self._nonces = []
        self.deadline = None if phase is _Phase.DONE else now

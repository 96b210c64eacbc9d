"""A NAT in the words of RFC 4787, sans-I/O: mapping, filtering, port allocation and time-outs.

Translates addresses only.  It knows no packets, no other transport than UDP and no second external
address; hairpinning is the router's (`internet.py`), which knows what comes from inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from shadowmesh.units import Address

if TYPE_CHECKING:
    import random

MAPPING_TIMEOUT = 120.0
"""Seconds without a packet out after which a mapping is gone. Source: RFC 4787 section 4.3, REQ-5."""

FIRST_PORT = 1024
LAST_PORT = 65535
"""Ports that mappings get. Source: RFC 4787 section 4.2.2, REQ-3: never one of the well-known ports."""


class Depends(Enum):
    """What of the remote endpoint counts. Source: RFC 4787 sections 4.1 (mapping) and 5 (filtering)."""

    ON_NOTHING = "endpoint-independent"
    ON_ADDRESS = "address-dependent"
    ON_ADDRESS_AND_PORT = "address-and-port-dependent"

    def part(self, remote: Address) -> tuple[str | int, ...]:
        """What two remote endpoints must have in common to count as one."""
        if self is Depends.ON_NOTHING:
            return ()
        return (remote.host,) if self is Depends.ON_ADDRESS else (remote.host, remote.port)


class Ports(Enum):
    """How a new mapping gets its external port. Source: RFC 4787 section 4.2.1."""

    PRESERVING = "the internal port where it is free, else the next free one"
    SEQUENTIAL = "one after the other"
    RANDOM = "any free one"


@dataclass(frozen=True)
class Behaviour:
    """What a NAT does.

    :param timeout: seconds without a packet out after which a mapping, and each permission in it, ends.
    :param hairpin: whether two hosts behind it reach each other by its external address (REQ-9).
    :param inbound_refresh: whether packets that are let in keep a mapping alive as well (REQ-6).
    """

    mapping: Depends
    filtering: Depends
    ports: Ports = Ports.PRESERVING
    timeout: float = MAPPING_TIMEOUT
    hairpin: bool = False
    inbound_refresh: bool = False


FULL_CONE = Behaviour(Depends.ON_NOTHING, Depends.ON_NOTHING)
RESTRICTED = replace(FULL_CONE, filtering=Depends.ON_ADDRESS)
PORT_RESTRICTED = replace(FULL_CONE, filtering=Depends.ON_ADDRESS_AND_PORT)
SYMMETRIC = Behaviour(Depends.ON_ADDRESS_AND_PORT, Depends.ON_ADDRESS_AND_PORT, Ports.RANDOM)
"""The names of RFC 3489, which people still use, in the terms of RFC 4787."""


@dataclass
class _Door:
    """One internal endpoint as the outside sees it: who was written to, and when last."""

    internal: Address
    external: Address
    opened: dict[tuple[str | int, ...], float] = field(default_factory=dict)


class Firewall:
    """Lets in what was asked for, and translates nothing: what IPv6 homes have instead of a NAT.

    Source: RFC 6092 section 3.2.
    """

    def __init__(
        self, filtering: Depends = Depends.ON_ADDRESS_AND_PORT, timeout: float = MAPPING_TIMEOUT
    ) -> None:
        self._filtering = filtering
        self._timeout = timeout
        self._opened: dict[tuple[Address, tuple[str | int, ...]], float] = {}

    def outbound(self, source: Address, target: Address, now: float) -> None:
        """A packet goes out."""
        self._opened[source, self._filtering.part(target)] = now

    def admits(self, source: Address, target: Address, now: float) -> bool:
        """Whether a packet from outside may come in."""
        opened = self._opened.get((target, self._filtering.part(source)))
        return opened is not None and now - opened <= self._timeout


class Nat:
    """The translation table of one NAT with one external address.

    :param random: where the ports of `Ports.RANDOM`, and the first one of `Ports.SEQUENTIAL`, come from.
    """

    def __init__(self, behaviour: Behaviour, host: str, random: random.Random) -> None:
        self.behaviour = behaviour
        self.host = host
        self._random = random
        self._doors: dict[tuple[Address, tuple[str | int, ...]], _Door] = {}
        self._ports: dict[int, _Door] = {}
        self._next_port = random.randint(FIRST_PORT, LAST_PORT)

    def outbound(self, source: Address, target: Address, now: float) -> Address:
        """The external source of a packet that goes out; makes or refreshes its mapping."""
        key = (source, self.behaviour.mapping.part(target))
        door = self._doors.get(key)
        if door is None or not self._alive(door, now):
            self._sweep(now)
            door = _Door(source, Address(self.host, self._allocate(source.port)))
            self._doors[key] = self._ports[door.external.port] = door
        door.opened[self.behaviour.filtering.part(target)] = now
        return door.external

    def inbound(self, source: Address, target: Address, now: float) -> Address | None:
        """The internal target of a packet from outside to `target`; None if it is not let in."""
        door = self._ports.get(target.port)
        if door is None or target.host != self.host or not self._alive(door, now):
            return None
        part = self.behaviour.filtering.part(source)
        if now - door.opened.get(part, float("-inf")) > self.behaviour.timeout:
            return None
        if self.behaviour.inbound_refresh:
            door.opened[part] = now
        return door.internal

    def forget(self) -> None:
        """Lose every mapping, as a reboot does."""
        self._doors.clear()
        self._ports.clear()

    def _alive(self, door: _Door, now: float) -> bool:
        return now - max(door.opened.values()) <= self.behaviour.timeout

    def _sweep(self, now: float) -> None:
        self._doors = {key: door for key, door in self._doors.items() if self._alive(door, now)}
        self._ports = {door.external.port: door for door in self._doors.values()}

    def _allocate(self, wanted: int) -> int:
        match self.behaviour.ports:
            case Ports.PRESERVING:
                return self._free_from(max(wanted, FIRST_PORT))
            case Ports.SEQUENTIAL:
                port = self._free_from(self._next_port)
                self._next_port = port + 1
                return port
            case Ports.RANDOM:
                return self._free_from(self._random.randint(FIRST_PORT, LAST_PORT))

    def _free_from(self, port: int) -> int:
        count = LAST_PORT - FIRST_PORT + 1
        candidates = (FIRST_PORT + (port - FIRST_PORT + step) % count for step in range(count))
        return next(candidate for candidate in candidates if candidate not in self._ports)

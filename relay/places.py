"""Places for TCP connections: how many of one source there may be, and who goes when all are taken.

Whoever holds an address commonly holds its network, so both are counted: a party with many addresses gets no
more than a share.  When no place is left, the oldest connection that no admitted client uses is ended for the
newcomer: a stranger holds a place only as long as nobody else needs it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeVar

from shadowmesh.units import Address

from .clients import network_of
from .limits import prefix_of

SHARE = 4
"""One part in so many is what an IPv4 /24 or IPv6 /48 may have, or what one address may, if that is more."""
MAX_LEAVING = 64
"""Connections that were ended and are not gone yet; newcomers are refused beyond. They hold descriptors."""


class Occupant(Protocol):
    """A connection."""

    leaving: bool
    """It was ended, and is not gone yet."""

    @property
    def address(self) -> Address | None:
        """Where a client would be that uses it; None as long as none can."""


class Places:
    """Counts sources.

    :param drops: counts whom it refuses.
    :param most: connections at all.
    :param per_address: of one IPv4 address or IPv6 /64.
    """

    def __init__(self, drops: Counter[str], most: int, per_address: int) -> None:
        self._drops = drops
        self._per_address = per_address
        self._per_network = max(per_address, most // SHARE)
        self._held: Counter[str] = Counter()

    def admit(self, stack: contextlib.ExitStack, host: str) -> bool:
        """Count a connection of `host` until the stack ends; False if there are too many of it."""
        address, network = network_of(host), f"network {prefix_of(host)}"
        if self._held[address] >= self._per_address:
            self._drops["websocket_too_many_of_address"] += 1
            return False
        if self._held[network] >= self._per_network:
            self._drops["websocket_too_many_of_network"] += 1
            return False
        for key in (address, network):
            self._held[key] += 1
            stack.callback(self._leave, key)
        return True

    def _leave(self, key: str) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]


One = TypeVar("One", bound=Occupant)


def dispensable(connections: Iterable[One], in_use: set[Address]) -> One | None:
    """The first connection that no admitted client uses; None if there is none, or too many are leaving.

    :param connections: the oldest first.
    :param in_use: where admitted clients are.
    """
    found, leaving = None, 0
    for one in connections:
        leaving += one.leaving
        if found is None and not one.leaving and one.address not in in_use:
            found = one
    return found if leaving < MAX_LEAVING else None

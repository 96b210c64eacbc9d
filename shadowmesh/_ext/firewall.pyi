# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The firewall by itself, for tests and for the layout that `overlay.firewall` compiles for."""

from enum import IntEnum
from typing import Literal, Protocol, TypedDict

from typing_extensions import Buffer

class WallLayout(IntEnum):
    """Sizes in bytes, and what the fields of an entry (firewall.pxd, native byte order) may hold."""

    ENTRY_SIZE = 88
    SPAN_SIZE = 16
    RULE_LIMIT = 4000
    ENTRY_LIMIT = 60000
    ANY_VLAN = 0xFFFE
    UNTAGGED = 0xFFFF
    ANY_PROTOCOL = 0xFFFF
    ANY_ETHERTYPE = 0
    FLAG_ALLOW = 1
    FLAG_PORTS = 2
    FLAG_ADDRESSES = 4
    FLAG_ETHERTYPE = 8

class Compiled(Protocol):
    """What is installed: arrays of the C structures, checked when they are installed."""

    @property
    def rules(self) -> int: ...
    @property
    def entries(self) -> bytes: ...
    @property
    def order(self) -> bytes: ...
    @property
    def spans(self) -> bytes: ...
    @property
    def classes(self) -> bytes: ...
    @property
    def inbound(self) -> bool: ...
    @property
    def outbound(self) -> bool: ...

class FirewallCounters(TypedDict):
    """Pairs are of inbound and outbound packets (flows: of connections opened that way).

    `decided` and `replies` count packets by number of the rule; the last but one is the default, the last
    stands for ARP and neighbour discovery that no rule names. `replies`: by the rule that had let their
    connection be opened. `untracked`: connections that passed without a place in the table.
    """

    decided: list[list[int]]
    replies: list[list[int]]
    flows: list[int]
    untracked: list[int]

class Firewall:
    """The same code that the threads run, without threads."""

    def __init__(self, *, buckets: int = 8192) -> None:
        """`buckets`: a power of two; eight flows of each opening direction fit one."""

    def install(self, compiled: Compiled, *, same_rules: bool = False) -> None:
        """Replace the rules; the flows stay, and with `same_rules` the counters.

        ValueError for arrays that contradict each other.
        """

    def judge(
        self, outbound: bool, peer: int, frame: Buffer, now: int, *, serial: int | None = None
    ) -> Literal["pass", "deny", "malformed"]:
        """One frame to or from the peer, `now` in seconds.  `serial` (default `peer`): the peer in flows."""

    def counters(self) -> FirewallCounters | None:
        """None before rules are installed."""

"""What a member of a network goes by: the keys of its authority, one revocation list, and whom they let in.

By docs/protocol.md section 9, with numbers in place of keys and documents. Times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

GRACE, BASIS_GRACE = 86_400, 30 * 86_400


@dataclass(frozen=True)
class List:
    """A revocation list, signed with the authority's key of this number."""

    number: int
    key: int
    nodes: frozenset[bytes] = frozenset()
    serials: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Deed:
    """What makes a node a member: its certificate, and what that rests on if a delegate signed it."""

    node: bytes
    serial: int
    begin: int
    end: int
    key: int
    """That the authority signed with: the certificate, or basis and delegation."""
    delegate: bytes = b""
    delegation: int = 0
    """Serial of the delegation."""
    delegation_end: int = 0
    basis_end: int = 0
    basis_key: int = -1
    """That the authority signed the basis with, if another than `key`."""

    @property
    def signers(self) -> set[int]:
        return {self.key, self.basis_key} - {-1}


@dataclass(frozen=True)
class Link:
    """How far a former key counts: until a time, and for lists up to a number."""

    until: int
    lists: int


class Papers:
    """One member.

    :param links: of each key of the authority that may be a former one.
    """

    def __init__(self, links: dict[tuple[int, ...], Link]) -> None:
        self.keys: tuple[int, ...] = (0,)
        self.list: List | None = None
        self._links = links

    @property
    def number(self) -> int:
        return self.list.number if self.list else 0

    def counts(self, offered: List) -> bool:
        """Whether a list is of the key of its time."""
        if offered.key == self.keys[-1]:
            return True
        return offered.key in self.keys and offered.number <= self._link(offered.key).lists

    def offer_list(self, offered: List) -> bool | None:
        """True: taken; False: nothing new; None: refused."""
        if offered.number <= self.number:
            return False
        if not self.counts(offered):
            return None
        self.list = offered
        return True

    def offer_keys(self, keys: tuple[int, ...]) -> bool | None:
        """A network with these keys, the first one first; as `offer_list`."""
        if len(keys) <= len(self.keys):
            return False
        if keys[: len(self.keys)] != self.keys:
            return None
        self.keys = keys
        if self.list is not None and not self.counts(self.list):
            self.list = None
        return True

    def until(self, deed: Deed) -> float:
        """Until when the keys count that signed it."""
        if not deed.signers <= set(self.keys):
            return -1
        return min(float("inf") if key == self.keys[-1] else self._link(key).until for key in deed.signers)

    def revokes(self, deed: Deed) -> bool:
        if self.list is None:
            return False
        return bool({deed.node, deed.delegate} & self.list.nodes) or bool(
            {deed.serial, deed.delegation} & self.list.serials
        )

    def admits(self, deed: Deed, now: float) -> bool:
        """Whether a new session may begin."""
        if self.revokes(deed) or not deed.begin <= now <= deed.end or now > self.until(deed):
            return False
        if not deed.delegate:
            return True
        return deed.end <= deed.delegation_end and deed.end <= deed.basis_end + BASIS_GRACE

    def moments(self, deed: Deed) -> list[float]:
        """Every second at which `admits` may change, and the one before or after it."""
        ends = [deed.end, self.until(deed)]
        if deed.delegate:
            ends += [deed.delegation_end, deed.basis_end + BASIS_GRACE]
        finite = [end for end in ends if 0 < end < float("inf")]
        return [deed.begin - 1, deed.begin, *finite, *(end + 1 for end in finite)]

    def keeps(self, deed: Deed, now: float) -> bool:
        """Whether a session goes on."""
        return not self.revokes(deed) and now <= self.last(deed)

    def last(self, deed: Deed) -> float:
        """When a session ends at the latest."""
        return min(deed.end + GRACE, self.until(deed))

    def _link(self, key: int) -> Link:
        place = self.keys.index(key)
        return self._links[self.keys[: place + 2]]

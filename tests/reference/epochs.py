"""The epochs of one end of a session, by docs/protocol.md section 5: when each was agreed, and what follows.

Numbers and times (seconds) by themselves, no messages; and what each epoch's keys come from, by RFC 5869.
"""

from __future__ import annotations

import hashlib
import hmac
import math

LIFETIME, REKEY_AFTER, ASK_LATER, PAUSE, RECEIVE_OLD, LANES = 300.0, 120.0, 5.0, 1.0, 10.0, 8


def next_root(root: bytes, secret: bytes, contents: bytes) -> bytes:
    """Of the epoch that follows; `contents`: OFFER and ANSWER without their signatures."""
    return hmac.digest(root, secret + hashlib.sha256(contents).digest(), hashlib.sha256)


def material(root: bytes, epoch: int, role: bytes) -> bytes:
    """The 76 bytes of key material that one role seals an epoch with."""
    info, blocks = b"shadowmesh/1 frames " + role + epoch.to_bytes(4, "big"), [b""]
    for count in (b"\1", b"\2", b"\3"):
        blocks.append(hmac.digest(root, blocks[-1] + info + count, hashlib.sha256))
    return b"".join(blocks)[:76]


def signed(role: bytes, session: bytes, epoch: int, contents: bytes, nodes: bytes) -> bytes:
    """What the signatures of OFFER and ANSWER are over; `nodes`: both NodeIDs, the initiator's first."""
    digest = hashlib.sha256(contents).digest()
    return b"shadowmesh/1 rekey " + role + session + epoch.to_bytes(4, "big") + digest + nodes


class Epochs:
    """One end. `said`: what it has to say, as (word, epoch)."""

    def __init__(self, initiator: bool, now: float) -> None:
        self.initiator = initiator
        self.agreed: list[float] = []
        self.sealing = 0
        self.until: dict[int, float] = {}
        """The epochs that are received, and until when."""
        self.lane = 0
        """The last one that frames took in the sealing epoch; 0: none yet."""
        self.closed = False
        self.said: list[tuple[str, int]] = []
        self._rekey_at = now
        self._agree(now)

    @property
    def newest(self) -> int:
        """The newest epoch that is agreed."""
        return len(self.agreed) - 1

    def may_seal(self, now: float) -> bool:
        """Whether the sealing epoch is young enough."""
        return not self.closed and now < self.agreed[self.sealing] + LIFETIME

    def pass_time(self, now: float) -> None:
        """It is `now`."""
        self.until = {epoch: until for epoch, until in self.until.items() if now < until}
        if not self.may_seal(now):
            self.closed = True
        elif now >= self._rekey_at:
            self._rekey_at = math.inf
            self.said.append(("offer" if self.initiator else "ask", self.newest + 1))

    def grants(self, epoch: int) -> bool:
        """Whether an initiator who is asked for that epoch would begin with it."""
        return epoch == self.newest + 1 and self._rekey_at < math.inf

    def too_soon(self, word: str, now: float) -> bool:
        """Whether an offer came sooner than an initiator may send one."""
        return word == "offer" and self.newest > 0 and now < self.agreed[-1] + PAUSE

    def hasten(self, now: float) -> None:
        """It wants a rekey now, and does not keep the pause that it should."""
        if self._rekey_at < math.inf:
            self._rekey_at = now

    def take(self, word: str, epoch: int, now: float) -> bool:
        """The other end said so; whether it may."""
        if word == "ask":
            if epoch == self.newest + 1:
                self.want(now)
            return self.initiator
        waited_for = self._rekey_at == math.inf if self.initiator else word == "offer"
        if not self.initiator and self.too_soon(word, now):
            return False
        if epoch != self.newest + 1 or not waited_for or self.initiator != (word == "answer"):
            return False
        self._seal_with_newest()
        self._agree(now)
        if self.initiator:
            self._seal_with_newest()
        else:
            self.said.append(("answer", epoch))
        return True

    def opened(self, epoch: int, now: float) -> None:
        """A packet of the other end was opened."""
        if epoch == self.newest:
            for old in set(self.until) - {epoch}:
                self.until[old] = min(self.until[old], now + RECEIVE_OLD)
            self._seal_with_newest()

    def want(self, now: float) -> None:
        """Something runs out: a rekey as soon as may be, unless one is under way."""
        if self._rekey_at < math.inf:
            self._rekey_at = min(self._rekey_at, max(now, self.agreed[-1] + PAUSE))

    def take_lane(self) -> None:
        """Frames take a fresh lane, or stay on the last."""
        self.lane = min(self.lane + 1, LANES - 1)

    def _agree(self, now: float) -> None:
        self.until = {epoch: now + LIFETIME for epoch in self.until if epoch == self.newest}
        self.agreed.append(now)
        self.until[self.newest] = math.inf
        self._rekey_at = now + REKEY_AFTER + (0 if self.initiator else ASK_LATER)

    def _seal_with_newest(self) -> None:
        if self.sealing != self.newest:
            self.sealing = self.newest
            self.lane = min(self.lane, 1)

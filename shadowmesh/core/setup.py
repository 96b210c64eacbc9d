"""What one peer's way to a session looks like in a trace: the stages, as its parts say that they happen.

From the first step (a frame without a route, a call, an opening, a dial) to the first path that frames take:

    session.setup
      +- channel.open            INTEREST, OPEN -> OPENED at the caller
      +- session.handshake       one for each that was begun, on either side
      |    +- quic.handshake, session.proofs, session.confirmation
      +- path.first              keys agreed -> frames have a route, and the other side has the keys
      +- path.search             one round of asking addresses; may end later than all the rest

Nothing is decided here, and nothing is kept while nobody wants traces.
"""

from __future__ import annotations

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.roster import Member
from shadowmesh.stages import QUIET, Fact, Stage, Stages


class SetUp:
    """Of one peer; a later one begins where the one before has ended."""

    __slots__ = ("_first_path", "_member", "_parts", "_stages", "_whole")

    def __init__(self, stages: Stages, member: Member) -> None:
        self._stages = stages
        self._member = member
        self._whole = QUIET
        self._parts: list[Stage] = []
        self._first_path = QUIET

    def begin(self, why: str, now: float) -> None:
        """Something makes a session wanted, unless that has happened already."""
        if self._stages.on and not self._whole.under_way:
            self._whole = self._name(self._stages.begin("session.setup", now, began_by=why))
            self._parts = []

    def part(self, name: str, now: float, **facts: Fact) -> Stage:
        """A part of the set-up under way, which begins with it if need be; the set-up waits for its end."""
        if not self._stages.on:
            return QUIET
        self.begin(name, now)
        stage = self._whole.part(name, now, **facts)
        self._parts = [one for one in self._parts if one.under_way] + [stage]
        return stage

    def search(self, now: float) -> Stage:
        """A round of looking for direct paths; a set-up that it is a part of does not wait for it."""
        if self._whole.under_way:
            return self._whole.part("path.search", now)
        return self._name(self._stages.begin("path.search", now)) if self._stages.on else QUIET

    def handle_keys(self, now: float) -> None:
        """There is a session; frames may have no path yet."""
        self._first_path = self.part("path.first", now)

    def handle_path(self, direct: bool, now: float) -> None:
        """Frames have a path, and both ends the keys: that is all, unless something else is under way."""
        if not self._whole.under_way:
            return
        self._first_path.note(path="direct" if direct else "relay")
        self._first_path.end(now)
        if not any(one.under_way for one in self._parts):
            self.end(now)

    def end(self, now: float, error: str = "", reason: str = "") -> None:
        """It has come to its end, good or bad; nothing happens if none is under way."""
        if self._whole.under_way:
            for one in self._parts:
                one.end(now, error or "abandoned")
            self._whole.end(now, error, reason)
            self._parts = []

    def _name(self, stage: Stage) -> Stage:
        stage.confide(peer_name=self._member.name, peer_id=node_id_text(self._member.node_id))
        return stage

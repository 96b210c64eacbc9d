"""Stages of setting something up, with their times: what traces are made of.

Protocol code says when a stage begins and ends; `io/tracing.py` makes spans of the ended ones. This module
reads no clock and exports nothing. While nobody wants traces there is one stage, `QUIET`, that keeps nothing.
"""

from __future__ import annotations

from typing import Any

Fact = str | int | float | bool

MAX_ENDED = 4096
"""Ended stages that may wait for `Stages.poll`; more are counted and forgotten."""


class Stage:
    """Something that takes time, perhaps a part of another stage.

    :param now: when it begins, in seconds of the same clock as every other `now`.
    :param facts: anybody may see them: no addresses, names or NodeIDs.
    """

    __slots__ = ("_stages", "began_at", "ended_at", "error", "facts", "name", "parent", "private", "span")

    def __init__(
        self, stages: Stages | None, name: str, now: float, parent: Stage | None, facts: dict[str, Fact]
    ) -> None:
        self._stages = stages
        self.name = name
        self.parent = parent
        self.began_at = now
        self.ended_at: float | None = None
        self.error = ""
        """Why it failed, in a word of few; empty if it did not."""
        self.facts = facts
        self.private: dict[str, Fact] = {}
        """What names somebody: exported only where the operator wants addresses in the log."""
        self.span: Any = None
        """For whoever exports it."""

    @property
    def under_way(self) -> bool:
        """Whether it has begun and not ended."""
        return self._stages is not None and self.ended_at is None

    def part(self, name: str, now: float, **facts: Fact) -> Stage:
        """A part of this one that begins now; it may end later than this one."""
        return Stage(self._stages, name, now, self, facts) if self._stages is not None else self

    def note(self, **facts: Fact) -> None:
        """What is known of it by now, for everybody."""
        if self._stages is not None:
            self.facts.update(facts)

    def confide(self, **facts: Fact) -> None:
        """The same, if it names somebody."""
        if self._stages is not None:
            self.private.update(facts)

    def end(self, now: float, error: str = "", reason: str = "") -> None:
        """It is over; only the first call counts.

        :param error: why it failed, in one word.
        :param reason: the same for people; it may name somebody.
        """
        if self._stages is None or self.ended_at is not None:
            return
        self.ended_at, self.error = now, error
        if reason:
            self.confide(reason=reason)
        self._stages.take(self)


QUIET = Stage(None, "", 0.0, None, {})
"""Stands for every stage while nobody wants any."""


class Stages:
    """Where stages begin, and where the ended ones wait.

    :param on: whether anybody wants them.
    """

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self.lost = 0
        """Stages that nobody came for."""
        self._ended: list[Stage] = []

    def begin(self, name: str, now: float, **facts: Fact) -> Stage:
        """A stage that is part of no other."""
        return Stage(self, name, now, None, facts) if self.on else QUIET

    def take(self, stage: Stage) -> None:
        """One has ended."""
        if len(self._ended) < MAX_ENDED:
            self._ended.append(stage)
        else:
            self.lost += 1

    def poll(self) -> list[Stage]:
        """Those that have ended since the last call, in that order."""
        ended, self._ended = self._ended, []
        return ended

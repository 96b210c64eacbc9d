"""Keeps peers and relays from filling the log's disk: so many lines about each at once, then few.

What a peer does makes lines: it comes and goes, closes its channel, takes another.  One that does so ten
times a second would write a gigabyte in a week.  Writes nothing itself, and drops no line about anything
else: who used an invitation is a record.
"""

from __future__ import annotations

BURST = 60
"""Lines about one subject at once: a session that is set up and changes its path a few times has ten."""
PACE = 10.0
"""Seconds for each further one: a megabyte a day at most."""
LIMITED = ("peer ", "relay ")
"""How the subjects begin that have no more."""
MAX_SUBJECTS = 4096
"""That are remembered; those that have all their lines again are forgotten first, then all."""


class Lines:
    """Which lines are written."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def take(self, subject: str, now: float) -> int | None:
        """How many lines about `subject` were left out since the last; None: leave this one out, too."""
        if not subject.startswith(LIMITED):
            return 0
        if len(self._due) >= MAX_SUBJECTS and subject not in self._due:
            self._forget(now)
        due = max(self._due.get(subject, now), now)
        if due - now > (BURST - 0.5) * PACE:
            self._left_out[subject] = self._left_out.get(subject, 0) + 1
            return None
        self._due[subject] = due + PACE
        return self._left_out.pop(subject, 0)

    def _forget(self, now: float) -> None:
        self._due = {subject: due for subject, due in self._due.items() if due > now}
        if len(self._due) >= MAX_SUBJECTS:
            self._due.clear()
        self._left_out = {one: count for one, count in self._left_out.items() if one in self._due}

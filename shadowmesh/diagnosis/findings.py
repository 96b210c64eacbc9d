"""What a check says, and the table of all checks. Looks at nothing itself.

A check is a function of `Facts` with a stable id. It declares which results it may give: tests provoke each
of them, and docs/doctor.md is compared with the table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

import msgspec

from shadowmesh.diagnosis.facts import Facts, Unseen

DOCTOR_SCHEMA = "shadowmesh.doctor/1"


class Result(enum.StrEnum):
    """In order of weight."""

    OK = "ok"
    SKIPPED = "skipped"
    """Could not be looked at, or does not concern this machine."""
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WARNING = "warning"
    """Works, but not as well or not as long as it could."""
    PROBLEM = "problem"
    """Keeps the client, or a part of what it is for, from working."""

    @property
    def weight(self) -> int:
        """0 is the best."""
        return list(Result).index(self)


class Verdict(msgspec.Struct, frozen=True):
    """What one check says: one sentence of what was found, and what to do about it."""

    result: Result
    found: str
    remedy: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with the id of its check."""

    id: str
    result: Result
    found: str
    remedy: str = ""


class Doctor(msgspec.Struct, frozen=True, kw_only=True):
    """What `doctor --json` prints. `result` is the worst of `checks`."""

    schema: str = DOCTOR_SCHEMA
    version: str
    result: Result
    checks: list[Finding]


Check = Callable[[Facts], Verdict]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One check, and the results that it may give."""

    id: str
    results: frozenset[Result]
    function: Check


CHECKS: dict[str, Entry] = {}
"""By id, in the order in which they are told; filled by `check`, when the modules of checks are imported."""


def check(name: str, *results: Result) -> Callable[[Check], Check]:
    """Put a function into the table."""

    def enter(function: Check) -> Check:
        assert name not in CHECKS, name
        CHECKS[name] = Entry(id=name, results=frozenset(results), function=function)
        return function

    return enter


def ok(found: str) -> Verdict:
    """As it should be."""
    return Verdict(Result.OK, found)


def skipped(why: str | Unseen) -> Verdict:
    """Not looked at."""
    return Verdict(Result.SKIPPED, why.reason if isinstance(why, Unseen) else why)


def note(found: str, remedy: str = "") -> Verdict:
    """Worth knowing."""
    return Verdict(Result.NOTE, found, remedy)


def warning(found: str, remedy: str) -> Verdict:
    """Not as it should be."""
    return Verdict(Result.WARNING, found, remedy)


def problem(found: str, remedy: str) -> Verdict:
    """Does not work."""
    return Verdict(Result.PROBLEM, found, remedy)


def listed(things: Iterable[str], most: int = 3) -> str:
    """The first of them, and how many more: what one sentence can hold."""
    every = list(things)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return "; ".join(every[:most]) + more

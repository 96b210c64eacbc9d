"""Every error type of the project.

Network bytes can raise `BadPacket` and nothing else; whoever feeds them in drops the packet and
counts the reason.  What a network's authority has not signed for raises `NotMember`.  The other types are
for people: operators (`ConfigError`, `IdentityError`) and programmers (`LocalProtocolError`).  `Failure` is
no exception: it tells of what failed while the program goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self


class ShadowMeshError(Exception):
    """Base of all errors that this project raises on purpose.

    `error_id` is what a person looks up in docs/errors.md, and has an entry in `catalogue.ENTRIES`; empty
    where the text ends in such ids already.
    """

    error_id = "program.bug"

    def lines(self) -> list[tuple[str, str]]:
        """Each line of the text for people, with its id."""
        return [(line, self.error_id) for line in str(self).splitlines() or [""]]

    @property
    def told(self) -> str:
        """For people and scripts: each line with its id in brackets at the end."""
        return "\n".join(f"{line} [{error_id}]" if error_id else line for line, error_id in self.lines())


class BadPacket(ShadowMeshError):
    """Bytes from the network that are refused; `reason` names the counter they go to."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotMember(ShadowMeshError):
    """A certificate or list of a network does not count; `reason` names it, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    @property
    def of_dates(self) -> bool:
        """Whether another clock might have said otherwise."""
        return self.reason in (
            "expired",
            "not_yet_valid",
            "delegation_expired",
            "delegation_not_yet_valid",
            "basis_expired",
        )


class RemoteProtocolError(ShadowMeshError):
    """The authenticated peer broke the protocol; the connection to it is closed with this text."""


class LocalProtocolError(ShadowMeshError):
    """We called a state machine in a way that its state does not allow: a bug on our side."""


class _ForPeople(ShadowMeshError):
    """With an id of its own, or that of its kind."""

    def __init__(self, text: str, error_id: str = "") -> None:
        super().__init__(text)
        if error_id:
            self.error_id = error_id


class ConfigError(_ForPeople):
    """A configuration is refused; the text names file, line, key and what would be right."""

    error_id = "config.value"

    def __init__(self, text: str, error_id: str = "", mistakes: Sequence[tuple[str, str]] = ()) -> None:
        """`mistakes`: the lines of the text, where each has an id of its own."""
        super().__init__(text, error_id)
        self._mistakes = list(mistakes)

    def lines(self) -> list[tuple[str, str]]:
        return self._mistakes or super().lines()


class IdentityError(_ForPeople):
    """An identity can't be made or loaded; the text says what to do about it."""

    error_id = "identity.file"


class DeviceError(_ForPeople):
    """A TAP device, an address or a socket can't be set up; the text says which and why."""

    error_id = "device.interface"


class Failure(str):
    """Why something does not work while the program goes on: the words, and as `error_id` what kind it is.

    The id has an entry in `catalogue.ENTRIES`. It is chosen where something fails, never by the words, which
    may be somebody else's.
    """

    __slots__ = ("error_id",)
    error_id: str

    def __new__(cls, error_id: str, words: str) -> Self:
        made = super().__new__(cls, words)
        made.error_id = error_id
        return made

    @property
    def told(self) -> str:
        """For people and scripts: with its id in brackets at the end."""
        return f"{self} [{self.error_id}]"


def told(failure: Failure | None) -> str | None:
    """`Failure.told` of what may not have failed."""
    return None if failure is None else failure.told

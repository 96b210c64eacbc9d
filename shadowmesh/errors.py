"""Every error type of the project.

Network bytes can raise `BadPacket` and nothing else; whoever feeds them in drops the packet and
counts the reason.  What a network's authority has not signed for raises `NotMember`.  The other types are
for people: operators (`ConfigError`, `IdentityError`) and programmers (`LocalProtocolError`).
"""

from __future__ import annotations


class ShadowMeshError(Exception):
    """Base of all errors that this project raises on purpose."""


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


class ConfigError(ShadowMeshError):
    """A configuration is refused; the text names file, line, key and what would be right."""


class IdentityError(ShadowMeshError):
    """An identity can't be made or loaded; the text says what to do about it."""


class DeviceError(ShadowMeshError):
    """A TAP device, an address or a socket can't be set up; the text says which and why."""

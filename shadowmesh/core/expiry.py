"""Certificates that end: when the log says so, before the end and in the grace after it.

An authority that is away does not stop traffic that runs, but not without a warning either: our own
certificate is told once a day from `warn_before` on, everybody's once an hour in the last day and in the day
of grace. Tells only; what ends when is decided in `membership.guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from shadowmesh.membership.certificate import CertificateBody
from shadowmesh.membership.guard import EXPIRY_GRACE

WARN_BEFORE = 14 * 86_400.0
"""Seconds before the end of a certificate (or a third of its life) from which there are warnings."""
LAST_DAY = 86_400.0
SELDOM, OFTEN = 86_400.0, 3600.0
"""Seconds between two lines about one certificate, before and in its last day."""


def warn_before(body: CertificateBody) -> float:
    """Seconds before its end from which our own certificate is warned of."""
    return min(WARN_BEFORE, (body.not_after - body.not_before) / 3)


class Expiry:
    """Call `look` with each certificate that matters, as often as you like.

    :param tell: takes subject and line.
    """

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._told: dict[Hashable, tuple[str, float]] = {}

    def look(self, subject: str, body: CertificateBody, clock: float, own: bool = False) -> None:
        """Say what is to be said about this certificate at `clock` (seconds since 1970)."""
        left = body.not_after - clock
        begin = warn_before(body) if own else min(LAST_DAY, warn_before(body))
        if left > begin:
            self._told.pop(subject, None)
            return
        stage = "early" if left > LAST_DAY else "late" if left >= 0 else "grace"
        before, at = self._told.get(subject, ("", 0.0))
        if stage == before and clock < at + (SELDOM if stage == "early" else OFTEN):
            return
        self._told[subject] = (stage, clock)
        self._tell(subject, _line(left, own))


def _line(left: float, own: bool) -> str:
    whose, error_id = ("our", "network.expires") if own else ("its", "network.peer-expired")
    if left >= 0:
        rest = f"{left / 86_400:.0f} days" if left > 2 * LAST_DAY else f"{left / 3600:.1f} hours"
        return f"{whose} certificate expires in {rest}; have it signed again [{error_id}]"
    grace = max(0.0, left + EXPIRY_GRACE) / 3600
    ends = f"{'sessions that run end' if own else 'the session ends'} in {grace:.1f} hours"
    return f"{whose} certificate has expired: {ends}, and nobody opens a new one [{error_id}]"

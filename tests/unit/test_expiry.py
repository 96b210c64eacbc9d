"""Certificates that end: what the log is told, and how often."""

from __future__ import annotations

import pytest

from shadowmesh.core.expiry import OFTEN, SELDOM, Expiry, warn_before
from shadowmesh.membership.certificate import CertificateBody
from shadowmesh.membership.clock import Reading
from shadowmesh.membership.guard import EXPIRY_GRACE

DAY = 86_400
END = 2_000_000_000


def body(days: int = 90) -> CertificateBody:
    return CertificateBody(
        network=b"n" * 32,
        node=b"b" * 32,
        name="bob",
        addresses=[],
        not_before=END - days * DAY,
        not_after=END,
        serial=1,
    )


def lines(start: float, end: float, step: float, own: bool, days: int = 90) -> list[str]:
    told: list[str] = []
    expiry = Expiry(lambda subject, line: told.append(line))
    clock = float(start)
    while clock < end:
        expiry.look("network", body(days), clock, own)
        clock += step
    return told


def test_our_own_certificate_is_told_daily_then_hourly_then_in_its_grace() -> None:
    assert lines(END - 40 * DAY, END - 14 * DAY, OFTEN, own=True) == []
    early = lines(END - 14 * DAY, END - DAY, OFTEN, own=True)
    assert len(early) == 13 * DAY / SELDOM
    assert early[0] == "our certificate expires in 14 days; have it signed again [network.expires]"
    late = lines(END - DAY, END, 60, own=True)
    assert len(late) == DAY / OFTEN
    grace = lines(END + 1, END + EXPIRY_GRACE, 60, own=True)
    assert len(grace) == EXPIRY_GRACE / OFTEN
    assert grace[0].startswith("our certificate has expired: sessions that run end in 24.0 hours")


def test_that_of_a_peer_is_told_in_its_last_day_only() -> None:
    assert lines(END - 14 * DAY, END - DAY, OFTEN, own=False) == []
    late = lines(END - DAY, END, 60, own=False)
    assert len(late) == 24
    assert all(line.endswith(" [network.peer-expired]") for line in late)
    assert "the session ends in 23.0 hours" in lines(END + OFTEN, END + OFTEN + 1, 60, own=False)[0]


def test_a_stage_is_told_at_once_and_a_new_certificate_begins_anew() -> None:
    told: list[str] = []
    expiry = Expiry(lambda subject, line: told.append(line))
    for clock in (END - DAY - 10, END - DAY + 10, END - DAY + 20, END - 1, END + 1):
        expiry.look("network", body(), clock, own=True)
    assert len(told) == 4
    expiry.look("network", body(), END - 60 * DAY, own=True)
    expiry.look("network", body(), END + 2, own=True)
    assert len(told) == 5


@pytest.mark.parametrize(("days", "begin"), [(90, 14 * DAY), (9, 3 * DAY)])
def test_short_certificates_are_warned_of_in_their_last_third(days: int, begin: int) -> None:
    assert warn_before(body(days)) == begin


def test_a_reading_is_off_by_half_the_round_trip_at_most() -> None:
    """Whenever between question and answer the other clock was read."""
    for read_at in (10.0, 10.1, 10.4):
        there = 5000.0 + read_at
        reading = Reading.between(there, 10.0, 10.4)
        assert reading.error == pytest.approx(0.2)
        skew = reading.skew(5000.0 + 25.0 + 7.0, 25.0)
        assert abs(skew - 7.0) <= reading.error + 1e-6

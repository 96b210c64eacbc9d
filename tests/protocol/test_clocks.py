"""Clocks that differ: what a relay says of the time, and what is made of it. It decides nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from shadowmesh.membership.authority import DAY
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.guard import EXPIRY_GRACE, Guard, Membership
from shadowmesh.node import standing
from shadowmesh.node.netcheck import _relay
from shadowmesh_relay.admission import Admission
from tests.protocol.mesh import Mesh
from tests.protocol.test_membership import NOW, Domain, log_of


@pytest.fixture
def home() -> Domain:
    return Domain()


class Skewed:
    """A mesh whose machines run at `offset` seconds from the relay and the authority."""

    def __init__(self, home: Domain, monkeypatch: pytest.MonkeyPatch, offset: float, tells: bool = True):
        self.mesh, self.home, self.offset = Mesh(), home, offset
        network, revocations, _ = home.parts()
        guard = Guard(network, revocations, self.clock(0.0))
        self.mesh.start_relay(
            Admission(True, frozenset(), [guard]), (lambda: self.true_time) if tells else None
        )
        machine = SimpleNamespace(
            time=lambda: self.true_time + offset, monotonic=lambda: self.mesh.network.now
        )
        monkeypatch.setattr(standing, "time", machine)

    @property
    def true_time(self) -> float:
        return self.home.wall + self.mesh.network.now - 1000

    def clock(self, offset: float) -> SteadyClock:
        return SteadyClock(lambda: self.true_time + offset, 0.0, lambda now: None)

    def start(self, number: int, membership: Membership) -> None:
        network, revocations, _ = self.home.parts()
        behind = Membership(network, revocations, self.clock(self.offset), membership.credentials)
        self.mesh.start_client(number, (), membership=behind)


@pytest.mark.parametrize("offset", [0.0, 120.0, -7200.0, 86_400.0])
def test_the_skew_is_known_within_half_a_round_trip(
    home: Domain, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    lab = Skewed(home, monkeypatch, offset)
    home.wall += DAY
    lab.start(0, home.member(0))
    lab.mesh.network.run_for(30.0)
    relay = lab.mesh.clients[0].core.relays[0]
    skew, error = standing.skew_of(relay)
    assert skew is not None
    assert error is not None
    assert 0 < error < 0.015, "half of one round trip, which takes 20 ms"
    assert abs(skew - offset) <= error + 0.002
    assert _relay(relay, None).clock_skew == skew
    warned = standing.network_status(lab.mesh.clients[0].core, "smesh0")
    assert warned is not None
    assert any("clock" in line for line in warned.warnings) == (abs(offset) > standing.SKEW)


def test_a_resumed_session_is_told_the_time_too(home: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Skewed(home, monkeypatch, 120.0)
    lab.start(0, home.member(0))
    lab.mesh.network.run_for(3.0)
    before = lab.mesh.clients[0]
    lab.mesh.network.detach(before)
    lab.mesh.start_client(0, (), tickets=before.tickets, membership=home.member(0))
    lab.mesh.network.run_for(3.0)
    assert "connected, resumed" in log_of(lab.mesh.clients[0])
    skew, error = standing.skew_of(lab.mesh.clients[0].core.relays[0])
    assert skew == pytest.approx(120.0, abs=error)


def test_a_relay_that_refuses_for_a_date_names_its_time(
    home: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's clock is three days behind: to itself, its certificate is good."""
    lab = Skewed(home, monkeypatch, -3.0 * DAY)
    short = home.member(0, days=1)
    home.wall += 2 * DAY
    lab.start(0, short)
    lab.mesh.network.run_for(20.0)
    relay = lab.mesh.clients[0].core.relays[0]
    assert relay.dated
    assert (relay.last_error or "").endswith("have it signed again"), "the time is taken off the reason"
    assert log_of(lab.mesh.clients[0]).count("not connected") == 1, "the reason does not change all the time"
    status = standing.network_status(lab.mesh.clients[0].core, "smesh0")
    assert status is not None
    assert any("clock is 3.0 days behind that of relay relay.test:4433" in one for one in status.warnings)


def test_two_members_with_different_clocks_are_told_of_it(
    home: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Skewed(home, monkeypatch, 0.0, tells=False)
    short, long = home.member(0, days=1), home.member(1)
    lab.start(0, short)
    lab.offset = 2.0 * DAY
    lab.start(1, long)
    lab.mesh.network.run_for(10.0)
    for number, other in ((0, 1), (1, 0)):
        assert lab.mesh.peer(number, other).dated
        core = lab.mesh.clients[number].core
        text = standing.clock_warning(core, lab.mesh.peer(number, other))
        assert text is not None
        assert text.startswith("no relay has told its time; here it is 20")


def test_what_a_relay_says_makes_no_certificate_valid_or_invalid(
    home: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that lies by a year: members meet all the same."""
    lab = Skewed(home, monkeypatch, 0.0)
    assert lab.mesh.relay is not None
    lab.mesh.relay.core._wall = lambda: NOW + 365.0 * DAY
    for number in (0, 1):
        lab.start(number, home.member(number))
    lab.mesh.network.run_until(lambda: len(lab.mesh.clients[0].core.peers) == 1, 5.0)
    lab.mesh.pair_up()
    status = standing.network_status(lab.mesh.clients[0].core, "smesh0")
    assert status is not None
    assert "365.0 days behind" in (status.warning or "")


def test_the_log_warns_before_a_certificate_ends_and_in_its_grace(home: Domain) -> None:
    mesh = Mesh()
    mesh.start_relay(Admission(False, frozenset(), [home.guard()]))
    for number, days in ((0, 9), (1, 30)):
        mesh.start_client(number, (), membership=home.member(number, days=days))
    mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 1, 5.0)
    mesh.pair_up()
    mesh.network.run_for(3.0)
    assert "our certificate" not in log_of(mesh.clients[0])
    home.wall += 7 * DAY
    mesh.network.run_for(3.0)
    line = "our certificate expires in 48.0 hours; have it signed again [network.expires]"
    assert line in log_of(mesh.clients[0])
    home.wall += 2 * DAY
    for _ in range(3):
        home.wall += 3600
        mesh.network.run_for(3.0)
    assert log_of(mesh.clients[0]).count("our certificate has expired") == 3
    assert log_of(mesh.clients[1]).count("its certificate has expired: the session ends in") == 3
    status = standing.network_status(mesh.clients[1].core, "smesh0")
    assert status is not None
    assert any("the certificate of member0 has expired" in line for line in status.warnings)
    mesh.exchange(0, 1)
    home.wall += EXPIRY_GRACE
    mesh.network.run_for(3.0)
    assert mesh.peer(1, 0).session is None

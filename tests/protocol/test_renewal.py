"""Certificates renewed over sessions by a member with a delegation; live sessions go over to the new one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from shadowmesh.core.renewal import ANSWER_PAUSE, WAKE_PAUSE
from shadowmesh.errors import NotMember
from shadowmesh.membership.authority import DAY
from shadowmesh.membership.delegation import BASIS_GRACE, Credentials
from shadowmesh.membership.guard import EXPIRY_GRACE, Membership, ShowLimit
from shadowmesh.membership.renewal import Delegate, renew_at
from shadowmesh.wire.messages import Renewal, RenewAsk, ShownMembership
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_membership import NOW, Domain, log_of, served


@pytest.fixture
def home() -> Domain:
    return Domain()


def delegate(home: Domain, number: int, days: int = 200) -> Delegate:
    """A delegation for a node that the ledger knows."""
    made = home.authority.delegate_renewals(IDENTITIES[number].public, days, home.wall)
    return Delegate(IDENTITIES[number], made)


class Home:
    """Node 0 has a short certificate, node 1 a long one and a delegation, node 2 a long one."""

    def __init__(self, home: Domain, days: int = 90, delegation: int = 200, able: bool = True) -> None:
        self.home, self.mesh = home, served(home)
        self.kept: list[Credentials] = []
        self.start(0, days=days)
        self.start(1, days=365)
        self.start(2, days=365)
        clients = self.mesh.clients
        self.mesh.network.run_until(lambda: all(len(clients[n].core.peers) == 2 for n in (0, 1, 2)), 5.0)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            self.mesh.pair_up(one, other)
        if able:
            self.allow(1, delegation)
        self.mesh.network.run_for(3.0)

    def start(self, number: int, **asked: Any) -> None:
        membership = self.home.member(number, **asked)
        membership.keep = self.kept.append
        self.mesh.start_client(number, (), membership=membership)

    def allow(self, number: int, days: int = 200) -> None:
        core = self.mesh.clients[number].core
        core.renewals.set_delegate(delegate(self.home, number, days), self.mesh.network.now)
        self.mesh.network.flush(self.mesh.clients[number])

    def membership(self, number: int = 0) -> Membership:
        found = self.mesh.clients[number].core.members.membership
        assert found is not None
        return found

    def days_left(self, number: int = 0) -> float:
        return (self.membership(number).certificate.body.not_after - self.home.wall) / DAY


def test_a_certificate_is_renewed_in_time_and_live_sessions_go_over_to_it(home: Domain) -> None:
    lab = Home(home)
    before = {number: lab.mesh.peer(number, 0).session for number in (1, 2)}
    home.wall += 50 * DAY
    lab.mesh.network.run_for(5.0)
    assert not lab.kept, "40 of 90 days are left"
    home.wall += 10 * DAY
    lab.mesh.network.run_until(lambda: bool(lab.kept), 3.0)
    lab.mesh.network.run_for(1.0)
    assert 59.5 < lab.days_left() < 60.1, "30 days beyond the end of what the authority signed"
    assert lab.membership().certificate.body.name == "member0"
    for number in (1, 2):
        session = lab.mesh.peer(number, 0).session
        assert session is before[number]
        assert session is not None
        assert session.standing is not None
        assert session.standing.certificate.body == lab.membership().certificate.body
    relay = lab.mesh.relay
    assert relay is not None
    belonging = relay.core.clients[IDENTITIES[0].node_id].belonging
    assert belonging is not None
    assert belonging.standing.certificate.body == lab.membership().certificate.body
    home.wall += 31 * DAY + EXPIRY_GRACE
    lab.mesh.network.run_for(6.0)
    assert lab.mesh.peer(2, 0).session is before[2], "the old certificate has been over for a day"
    lab.mesh.exchange(0, 2)
    assert "our certificate was renewed by member1, for 60.0 days" in log_of(lab.mesh.clients[0])
    assert "its certificate was renewed here" in log_of(lab.mesh.clients[1])


def test_a_renewed_certificate_opens_sessions_and_needs_the_authority_in_the_end(home: Domain) -> None:
    lab = Home(home, days=200, delegation=400)
    home.wall += 131 * DAY
    lab.mesh.network.run_until(lambda: len(lab.kept) == 1, 3.0)
    first = lab.membership().credentials
    lab.mesh.start_client(3, (), membership=home.member(3))
    lab.mesh.network.run_until(lambda: IDENTITIES[3].node_id in lab.mesh.clients[0].core.peers, 5.0)
    lab.mesh.pair_up(0, 3)
    lab.mesh.network.run_until(lambda: lab.mesh.peer(3, 0).standing is not None, 1.0)
    standing = lab.mesh.peer(3, 0).standing
    assert standing is not None
    assert standing.credentials.basis is not None
    body = first.certificate.body
    assert body.not_after == standing.credentials.basis.body.not_after + BASIS_GRACE
    lab.mesh.network.run_for(ANSWER_PAUSE)
    home.wall = renew_at(body, 1.0) + 1.0
    lab.mesh.network.run_for(3.0)
    assert "what a delegate may add to its certificate ends at" in log_of(lab.mesh.clients[0])
    lab.mesh.exchange(0, 3)


def test_a_delegate_renews_its_own(home: Domain) -> None:
    lab = Home(home, able=False)
    lab.allow(0)
    home.wall += 60 * DAY
    lab.mesh.network.run_until(lambda: bool(lab.kept), 3.0)
    assert "renewed by this machine itself" in log_of(lab.mesh.clients[0])


def test_without_a_delegate_it_is_told_and_one_that_comes_is_asked_at_once(home: Domain) -> None:
    lab = Home(home, able=False)
    home.wall += 60 * DAY
    lab.mesh.network.run_for(30.0)
    told = "our certificate is not renewed yet: no member is connected that renews certificates"
    assert log_of(lab.mesh.clients[0]).count(told) == 1
    lab.allow(2)
    lab.mesh.network.run_until(lambda: bool(lab.kept), 3.0)
    assert lab.mesh.clients[0].core.renewals.last_error is None


def test_members_without_a_session_are_met_one_after_the_other_to_find_a_delegate(home: Domain) -> None:
    lab = Home(home, able=False)
    lab.mesh.network.detach(lab.mesh.clients[1])
    lab.mesh.network.detach(lab.mesh.clients[2])
    lab.mesh.network.run_for(200.0)
    peers = lab.mesh.clients[0].core.peers
    assert all(peer.standing is None for peer in peers.values())
    woken: list[tuple[float, bytes]] = []
    for node, peer in peers.items():
        peer.wake = lambda now, node=node: woken.append((now, node))  # type: ignore[method-assign,misc]
    home.wall += 60 * DAY
    lab.mesh.network.run_for(4 * WAKE_PAUSE + 5.0)
    assert 4 <= len(woken) <= 5
    assert {node for _, node in woken} == set(peers)
    assert min(b[0] - a[0] for a, b in itertools.pairwise(woken)) >= WAKE_PAUSE


def test_a_delegation_that_ends_is_told_to_everybody_and_renews_nothing(home: Domain) -> None:
    lab = Home(home, delegation=20)
    assert lab.mesh.peer(0, 1).standing is not None
    home.wall += 21 * DAY
    lab.mesh.network.run_for(3.0)
    assert "our delegation has ended" in log_of(lab.mesh.clients[1])
    standing = lab.mesh.peer(0, 1).standing
    assert standing is not None
    assert standing.renews == 0
    home.wall += 40 * DAY
    lab.mesh.network.run_for(30.0)
    assert not lab.kept


def test_a_delegation_that_ends_too_soon_is_no_gain(home: Domain) -> None:
    """It is asked again, ever more seldom, and the reason is told once."""
    lab = Home(home, delegation=70)
    home.wall += 60 * DAY
    asked = count_sent(lab.mesh, RenewAsk)
    lab.mesh.network.run_for(600.0)
    assert not lab.kept
    assert 2 <= len(asked) <= 8
    told = log_of(lab.mesh.clients[0])
    assert told.count("member1 says: the delegation ends at") == 1
    assert "too soon to renew" in told


def count_sent(mesh: Mesh, kind: type) -> list[Any]:
    sent: list[Any] = []
    for number, client in mesh.clients.items():
        if number == 0:
            for peer in client.core.peers.values():
                real = peer.send

                def send(message: Any, now: float, real: Any = real) -> None:
                    if isinstance(message, kind):
                        sent.append(message)
                    real(message, now)

                peer.send = send  # type: ignore[method-assign]
    return sent


def test_a_delegate_that_does_not_answer_is_not_waited_for(home: Domain) -> None:
    lab = Home(home)
    lab.mesh.clients[1].core.renewals.handle_message = lambda *_: None  # type: ignore[method-assign]
    home.wall += 60 * DAY
    lab.mesh.network.run_for(15.0)
    assert "no answer came" in log_of(lab.mesh.clients[0])
    lab.allow(2)
    lab.mesh.network.run_until(lambda: bool(lab.kept), 60.0)
    assert "renewed by member2" in log_of(lab.mesh.clients[0])


def test_a_delegate_signs_seldom_for_one_member(home: Domain) -> None:
    lab = Home(home)
    home.wall += 60 * DAY
    core = lab.mesh.clients[1].core
    peer = core.peers[IDENTITIES[0].node_id]
    answers = [core.renewals._answer(lab.membership(1), peer, lab.mesh.network.now) for _ in range(3)]
    assert answers[0].certificate
    assert [one.refused for one in answers[1:]] == ["you ask too often"] * 2


@pytest.mark.parametrize("wrong", ["forged", "old", "other", "wide", "garbage"])
def test_what_is_not_the_next_certificate_is_refused_by_who_asked(home: Domain, wrong: str) -> None:
    lab = Home(home)
    home.wall += 60 * DAY
    delegation = lab.mesh.clients[1].core.renewals.delegate
    assert delegation is not None
    good = delegation.renew(lab.membership().credentials, IDENTITIES[0].node_id, lab.membership(1))
    documents = list(good.documents)
    if wrong == "forged":
        documents[0] = documents[0][:-1] + bytes((documents[0][-1] ^ 1,))
    elif wrong == "old":
        documents = list(lab.membership().credentials.documents)
    elif wrong == "other":
        documents = list(lab.membership(2).credentials.documents)
    elif wrong == "wide":
        documents[0] = documents[0].replace(b"member0", b"member9")
    else:
        documents[0] = b"x"
    answer = Renewal(documents[0], documents[1], documents[2])
    lab.mesh.clients[1].core.renewals._answer = lambda *_: answer  # type: ignore[method-assign]
    lab.mesh.network.run_for(5.0)
    assert not lab.kept
    assert lab.mesh.clients[0].core.drops["bad_renewal"] == 1
    assert "what member1 signed does not count" in log_of(lab.mesh.clients[0])
    assert lab.mesh.peer(0, 1).session is not None


def test_what_nobody_asked_for_is_dropped(home: Domain) -> None:
    lab = Home(home)
    home.wall += 60 * DAY
    able = lab.mesh.clients[1].core.renewals.delegate
    assert able is not None
    good = able.renew(lab.membership().credentials, IDENTITIES[0].node_id, lab.membership(1))
    lab.mesh.peer(2, 0).send(Renewal(*good.documents), lab.mesh.network.now)
    lab.mesh.network.flush(lab.mesh.clients[2])
    lab.mesh.network.run_for(0.1)
    assert lab.mesh.clients[0].core.drops["unexpected_renewal"] == 1


def test_a_revoked_member_and_one_that_was_renewed_for_too_long_are_refused(home: Domain) -> None:
    lab = Home(home)
    able = lab.mesh.clients[1].core.renewals.delegate
    assert able is not None
    shown, node, guard = lab.membership().credentials, IDENTITIES[0].node_id, lab.membership(1)
    home.wall += 60 * DAY
    once = able.renew(shown, node, guard)
    home.wall = NOW + 90 * DAY + BASIS_GRACE - DAY
    with pytest.raises(NotMember, match="what a delegate may add"):
        able.renew(once, node, guard)
    home.wall = NOW + 60 * DAY
    guard.revocations.merge_untrusted(home.revoke(0).document)
    with pytest.raises(NotMember, match="is revoked"):
        able.renew(shown, node, guard)


def test_only_the_owner_of_a_delegation_may_use_it(home: Domain) -> None:
    home.member(1)
    theirs = delegate(home, 1).delegation
    with pytest.raises(NotMember, match="for another NodeID"):
        Delegate(IDENTITIES[2], theirs)


def test_what_does_not_count_leaves_the_session_on_the_old_certificate(home: Domain) -> None:
    lab = Home(home)
    other = lab.membership(2).show()
    before = lab.mesh.peer(1, 0).standing
    for one in (lab.mesh.peer(0, 1), lab.mesh.clients[0].core.relays[0]):
        one.send(ShownMembership(other), lab.mesh.network.now)
    lab.mesh.network.flush(lab.mesh.clients[0])
    lab.mesh.network.run_for(1.0)
    assert lab.mesh.peer(1, 0).standing is before
    assert lab.mesh.clients[1].core.drops["not_member"] == 1
    assert lab.mesh.relay is not None
    assert lab.mesh.relay.core.drops["not_member"] == 1


def test_showing_certificates_all_the_time_ends_the_session(home: Domain) -> None:
    lab = Home(home)
    session, shown = lab.mesh.peer(1, 0).session, ShownMembership(lab.membership().show())
    for _ in range(ShowLimit.BURST + 1):
        lab.mesh.peer(0, 1).send(shown, lab.mesh.network.now)
    lab.mesh.network.flush(lab.mesh.clients[0])
    lab.mesh.network.run_for(1.0)
    assert lab.mesh.peer(1, 0).session is not session
    assert session is not None
    assert "MEMBERSHIP came too often" in log_of(lab.mesh.clients[1])
    for _ in range(ShowLimit.BURST + 1):
        lab.mesh.clients[0].core.relays[0].send(shown, lab.mesh.network.now)
    lab.mesh.network.flush(lab.mesh.clients[0])
    lab.mesh.network.run_for(0.2)
    assert "MEMBERSHIP came too often" in (lab.mesh.clients[0].core.relays[0].last_error or "")


def test_a_session_whose_handshake_was_under_way_is_shown_the_new_one(home: Domain) -> None:
    lab = Home(home)
    lab.start(3, days=90)
    core = lab.mesh.clients[0].core
    lab.mesh.network.run_until(lambda: IDENTITIES[3].node_id in core.peers, 3.0)
    handshakes = core.peers[IDENTITIES[3].node_id].handshakes
    lab.mesh.network.run_until(lambda: handshakes.under_way, 3.0)
    next_one = Credentials(home.authority.renew("member0", 120, home.wall))
    core.renewals.adopt(next_one, lab.mesh.network.now)
    lab.mesh.network.flush(lab.mesh.clients[0])
    lab.mesh.pair_up(0, 3)
    lab.mesh.network.run_for(1.0)
    standing = lab.mesh.peer(3, 0).standing
    assert standing is not None
    assert standing.certificate.body.serial == next_one.certificate.body.serial

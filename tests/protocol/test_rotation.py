"""An authority takes a new key while members run: who hears of it from whom, and what it does to sessions."""

from __future__ import annotations

from typing import Any

import pytest

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.errors import RemoteProtocolError
from shadowmesh.membership.authority import DAY, Rotation
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.network import Network
from shadowmesh.node import standing
from shadowmesh.wire.messages import NetworkNews
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_membership import NOW, Domain, log_of, problem, served


class House:
    """Three members that know the first key of their authority."""

    def __init__(self) -> None:
        self.home = Domain()
        self.first = self.home.network
        self.kept: list[Network] = []
        self.mesh = served(self.home)
        for number in (0, 1, 2):
            self.start(number)
        clients = self.mesh.clients
        self.mesh.network.run_until(lambda: all(len(clients[n].core.peers) == 2 for n in (0, 1, 2)), 5.0)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            self.mesh.pair_up(one, other)
        self.mesh.network.run_for(1.0)

    def start(self, number: int, network: Network | None = None, **asked: Any) -> None:
        membership = self.home.member(number, **asked)
        membership.keep_network = self.kept.append
        if network is not None:
            membership.merge_network_untrusted(network.document)
        self.mesh.start_client(number, (), membership=membership)

    def rotate(self, days: int = 30) -> Rotation:
        return self.home.authority.rotate(days, self.home.wall)

    def tell(self, number: int, made: Rotation) -> None:
        core = self.mesh.clients[number].core
        assert core.handle_network_document(made.network.document, self.mesh.network.now)
        core.handle_revocations(made.revocations.document, self.mesh.network.now)
        self.mesh.network.flush(self.mesh.clients[number])

    def links(self, number: int) -> int:
        return self.mesh.clients[number].core.members.links

    def renew(self, number: int) -> None:
        made = Credentials(self.home.authority.renew(f"member{number}", 90, self.home.wall))
        self.mesh.clients[number].core.renewals.adopt(made, self.mesh.network.now)
        self.mesh.network.flush(self.mesh.clients[number])

    def membership(self, number: int) -> Membership:
        found = self.mesh.clients[number].core.members.membership
        assert found is not None
        return found


@pytest.fixture
def house() -> House:
    return House()


def test_a_new_key_travels_to_everybody_and_drops_no_session(house: House) -> None:
    sessions = {number: house.mesh.peer(0, number).session for number in (1, 2)}
    house.tell(0, house.rotate())
    house.mesh.network.run_for(1.0)
    for number in (0, 1, 2):
        assert house.links(number) == 1
        assert house.mesh.clients[number].core.members.number == 1, "the first list of the new key as well"
    relay = house.mesh.relay
    assert relay is not None
    belonging = relay.core.clients[IDENTITIES[1].node_id].belonging
    assert belonging is not None
    assert len(belonging.guard.network.links) == 1
    assert len(house.kept) == 3
    for number in (0, 1, 2):
        house.renew(number)
    house.mesh.network.run_for(1.0)
    house.home.wall += 31 * DAY
    house.mesh.network.run_for(10.0)
    for number in (1, 2):
        assert house.mesh.peer(0, number).session is sessions[number]
        house.mesh.exchange(0, number)
    assert IDENTITIES[2].node_id in relay.core.clients
    assert "its authority has a new key, number 2" in log_of(house.mesh.clients[2])


def test_a_latecomer_hears_of_it_in_the_overlap_and_gets_its_lists(house: House) -> None:
    """It was away: its file has the first key, its certificate is of that as well."""
    for number in (0, 1):
        house.mesh.network.detach(house.mesh.clients[number])
    house.mesh.network.run_for(40.0)
    house.tell(2, house.rotate())
    house.mesh.network.run_for(1.0)
    asked = house.mesh.clients[1].core.members.membership
    house.mesh.start_client(1, (), membership=asked)
    house.mesh.network.run_until(lambda: house.links(1) == 1, 10.0)
    house.mesh.network.run_until(lambda: house.mesh.clients[1].core.members.number == 1, 5.0)
    house.mesh.stream_until_through(1, 2, 10.0)


def test_the_relay_tells_who_comes_later_and_nobody_else_is_there(house: House) -> None:
    house.tell(0, house.rotate())
    house.mesh.network.run_for(1.0)
    late = house.membership(2)
    assert len(late.network.links) == 1
    for number in (0, 1, 2):
        house.mesh.network.detach(house.mesh.clients[number])
    house.mesh.network.run_for(40.0)
    network, revocations, clock = house.home.parts()
    behind = Membership(house.first, revocations, clock, late.credentials)
    assert network is house.first
    client = house.mesh.start_client(2, (), membership=behind)
    house.mesh.network.run_until(lambda: house.links(2) == 1, 5.0)
    house.mesh.network.run_until(lambda: client.core.members.number == 1, 5.0)


def test_between_two_members_without_the_relay(house: House) -> None:
    mesh = Mesh()
    mesh.start_relay()
    for number, other in ((0, 1), (1, 0)):
        mesh.start_client(number, (other,), membership=house.home.member(number))
    house.mesh = mesh
    made = house.rotate()
    assert mesh.clients[0].core.handle_network_document(made.network.document, mesh.network.now)
    mesh.clients[0].core.handle_revocations(made.revocations.document, mesh.network.now)
    mesh.pair_up()
    mesh.network.run_until(lambda: house.links(1) == 1, 5.0)
    mesh.network.run_until(lambda: mesh.clients[1].core.members.number == 1, 5.0)
    mesh.exchange(0, 1)


def test_who_has_no_certificate_of_the_new_key_is_out_after_the_overlap(house: House) -> None:
    house.tell(0, house.rotate(days=3))
    house.mesh.network.run_for(1.0)
    for number in (0, 1):
        house.renew(number)
    house.home.wall += 2 * DAY
    house.mesh.network.run_for(10.0)
    assert house.mesh.peer(0, 2).session is not None
    status = standing.network_status(house.mesh.clients[2].core, "smesh0")
    assert status is not None
    assert status.authority_key == 2
    assert any("the authority has a new key; have the certificate signed" in one for one in status.warnings)
    assert standing.network_status(house.mesh.clients[0].core, "smesh0").warnings == []  # type: ignore[union-attr]
    house.home.wall += 2 * DAY
    house.mesh.network.run_for(10.0)
    assert house.mesh.peer(0, 2).session is None
    assert "the authority has a new key since it signed" in problem(house.mesh, 0, 2)
    assert house.mesh.relay is not None
    assert IDENTITIES[2].node_id not in house.mesh.relay.core.clients
    house.mesh.exchange(0, 1)


def test_a_stolen_key_counts_nowhere_at_once_without_overlap(house: House) -> None:
    made = house.rotate(days=0)
    house.home.wall += 1
    house.tell(0, made)
    house.mesh.network.run_for(3.0)
    assert house.mesh.peer(0, 1).session is None


def thief_of(house: House) -> Network:
    """Another successor of the first key, as who stole it would make it."""
    thief = AuthorityKey.generate()
    return house.first.rotated(house.home.key, thief, int(NOW), int(NOW + DAY), 0)


@pytest.mark.parametrize("kind", ["forged", "other", "garbage"])
def test_a_network_that_does_not_hold_ends_the_session_with_who_sends_it(house: House, kind: str) -> None:
    good = house.rotate().network.document
    other = Domain()
    document = {
        "forged": good[:-1] + bytes((good[-1] ^ 1,)),
        "other": other.authority.rotate(3, other.wall).network.document,
        "garbage": b"\1\1\0\1" + bytes(9000),
    }[kind]
    session = house.mesh.peer(1, 0).session
    news = NetworkNews(document)
    house.mesh.peer(0, 1).send(news, house.mesh.network.now)
    house.mesh.clients[0].core.relays[0].send(news, house.mesh.network.now)
    house.mesh.network.flush(house.mesh.clients[0])
    house.mesh.network.run_for(1.0)
    assert house.mesh.peer(1, 0).session is not session
    assert "the network's new key is refused" in log_of(house.mesh.clients[1])
    assert house.links(1) == 0
    assert house.mesh.relay is not None
    assert house.mesh.relay.core.drops["bad_network"] == 1
    assert not house.kept


def test_a_relay_that_sends_a_forged_key_is_not_believed(house: House) -> None:
    good = house.rotate().network.document
    core = house.mesh.clients[0].core
    core._relay_message(core.relays[0], NetworkNews(good[:-1] + b"x"), house.mesh.network.now)
    assert core.drops["bad_network"] == 1
    assert house.links(0) == 0


def test_rolled_back_and_repeated_networks_change_nothing_and_end_nothing(house: House) -> None:
    made = house.rotate()
    house.tell(0, made)
    house.mesh.network.run_for(1.0)
    session = house.mesh.peer(1, 0).session
    for document in (house.first.document, made.network.document, thief_of(house).document):
        house.mesh.peer(0, 1).send(NetworkNews(document), house.mesh.network.now)
    house.mesh.network.flush(house.mesh.clients[0])
    house.mesh.network.run_for(1.0)
    assert house.mesh.peer(1, 0).session is session
    assert house.membership(1).network == made.network


def test_a_second_successor_of_the_stolen_key_is_refused(house: House) -> None:
    made = house.rotate()
    house.tell(0, made)
    second = AuthorityKey.generate()
    stolen = house.first.rotated(house.home.key, second, int(NOW), int(NOW), 0)
    longer = stolen.rotated(second, AuthorityKey.generate(), int(NOW), int(NOW), 0)
    with pytest.raises(RemoteProtocolError, match="is refused"):
        house.mesh.clients[0].core.handle_network_document(longer.document, house.mesh.network.now)
    assert house.membership(0).network == made.network

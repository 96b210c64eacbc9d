"""Which names there are: members by configuration and certificates, for as long as they count."""

from __future__ import annotations

import pytest

from shadowmesh.membership.authority import DAY
from shadowmesh.membership.clock import RELEASED
from shadowmesh.membership.guard import EXPIRY_GRACE
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_membership import Domain, served


@pytest.fixture
def home() -> Domain:
    return Domain()


def test_peers_of_the_configuration_are_known_before_they_come() -> None:
    mesh = Mesh()
    mesh.start_relay()
    client = mesh.start_client(0, (1, 2))
    hosts = client.core.hosts()
    listed = {peer.member.name: set(peer.member.addresses) for peer in client.core.peers.values()}
    assert len(listed) == 2
    assert all(listed.values())
    assert {name: set(addresses) for name, addresses in hosts.items()} == listed


def test_members_have_the_names_and_addresses_of_their_certificates(home: Domain) -> None:
    mesh = served(home)
    for number in (0, 1):
        mesh.start_client(number, (), membership=home.member(number))
    core = mesh.clients[0].core
    assert core.hosts() == {}
    mesh.network.run_until(lambda: len(core.peers) == 1, 5.0)
    mesh.pair_up()
    assert core.hosts() == {"member1": ("10.77.0.2",)}, "and not its link-local address"
    mesh.network.detach(mesh.clients[1])
    mesh.network.run_for(60.0)
    assert mesh.peer(0, 1).session is None
    assert core.hosts() == {"member1": ("10.77.0.2",)}, "away, and known"
    core.handle_revocations(home.revoke(1).document, mesh.network.now)
    assert core.hosts() == {}


def test_members_of_the_last_start_have_their_names_at_once(home: Domain) -> None:
    mesh = served(home)
    mine, *others = (home.member(number) for number in (0, 1, 2))
    known = tuple((one.certificate.body.node, one.show()) for one in others)
    core = mesh.start_client(0, (), membership=mine, known=known).core
    assert not core.peers
    assert core.hosts() == {"member1": ("10.77.0.2",), "member2": ("10.77.0.3",)}
    core.handle_revocations(home.revoke(2).document, mesh.network.now)
    assert core.hosts() == {"member1": ("10.77.0.2",)}
    home.wall += 200 * DAY
    mesh.network.run_for(1.0)
    assert core.hosts() == {}


def test_an_address_of_ours_is_nobody_elses(home: Domain) -> None:
    mesh = served(home)
    mine, thief, one = home.member(0), home.member(1, addresses=["10.77.0.9"]), home.member(2)
    known = tuple((shown.certificate.body.node, shown.show()) for shown in (thief, one))
    client = mesh.start_client(3, (), membership=mine, known=known)
    owners = client.core._shared.owners
    assert client.core.hosts() == {"member1": ("10.77.0.9",), "member2": ("10.77.0.2",)}
    owners.add(1, b"\2\0\0\0\0\1", ["10.77.0.9"], (), False)
    assert client.core.hosts() == {"member2": ("10.77.0.2",)}


def test_a_member_that_nobody_has_shown_yet_has_no_name(home: Domain) -> None:
    mesh = Mesh()
    mesh.start_relay()
    client = mesh.start_client(0, (), membership=home.member(0))
    node = IDENTITIES[1].node_id
    assert client.core._find_peer(node, mesh.network.now) is not None
    assert client.core.roster.members
    assert client.core.hosts() == {}


def test_an_expired_member_has_its_name_as_long_as_its_session(home: Domain) -> None:
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0, days=30))
    mesh.start_client(1, (), membership=home.member(1, days=1))
    mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 1, 5.0)
    mesh.pair_up()
    core = mesh.clients[0].core
    home.wall = RELEASED + 1000 + DAY + 60
    mesh.network.run_for(2.0)
    assert mesh.peer(0, 1).session is not None
    assert core.hosts() == {"member1": ("10.77.0.2",)}
    home.wall += EXPIRY_GRACE
    mesh.network.run_for(5.0)
    assert mesh.peer(0, 1).session is None
    assert core.hosts() == {}


def test_of_two_members_of_one_name_the_later_certificate_has_it(home: Domain) -> None:
    mesh = served(home)
    certificates = [home.member(0), home.member(1, name="twin")]
    home.authority.ledger.entries.clear()  # an authority that lost its ledger gives the name out again
    certificates.append(home.member(2, name="twin", addresses=["10.77.0.9"]))
    for number, certificate in enumerate(certificates):
        mesh.start_client(number, (), membership=certificate)
    for one, other in ((0, 1), (0, 2)):
        mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 2, 5.0)
        mesh.pair_up(one, other)
    serials = [one.certificate.body.serial for one in certificates]
    assert serials[2] > serials[1]
    assert mesh.clients[0].core.hosts() == {"twin": ("10.77.0.9",)}


def test_the_configuration_goes_before_certificates(home: Domain) -> None:
    mesh = served(home)
    listed = mesh.config(0, (1,), {}, b"r" * 32, "never", 120).peers[0]
    mesh.start_client(0, (1,), membership=home.member(0))
    mesh.start_client(1, (0,), membership=home.member(1))
    mesh.start_client(2, (), membership=home.member(2, name=listed.name))
    mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 2, 5.0)
    mesh.pair_up(0, 2)
    hosts = mesh.clients[0].core.hosts()
    assert set(listed.addresses) <= set(hosts[listed.name])
    assert "10.77.0.3" in mesh.peer(0, 2).member.addresses
    assert "10.77.0.3" not in hosts[listed.name]

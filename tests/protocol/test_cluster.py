"""Relays of one cluster, on virtual time: their clients meet, whatever directory and relays go through."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from shadowmesh.units import Address
from shadowmesh.wire.messages import Interest
from shadowmesh_relay import cluster as clusters
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.cluster_wire import Calls, Presence, Reset, Signals
from shadowmesh_relay.limits import Limits
from tests.protocol.cluster import ClusterMesh, Member
from tests.protocol.mesh import IDENTITIES
from tests.protocol.test_membership import Domain

OUT_OF_REACH = "the node is at a relay that can't be asked now"


def pair_across(relays: int = 2, limits: Limits | None = None) -> ClusterMesh:
    mesh = ClusterMesh(relays, limits=limits)
    mesh.start_at(0, (1,), relay=0)
    mesh.start_at(1, (0,), relay=1)
    mesh.pair_up()
    return mesh


def leave(mesh: ClusterMesh, number: int) -> None:
    """A client says goodbye and is gone."""
    client = mesh.clients[number]
    client.core.close(mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_for(0.1)
    mesh.network.detach(client)


def channels(*members: Member) -> list[int]:
    return [len(member.relay.tables.channels) for member in members]


def remote_handles(member: Member) -> list[int]:
    return [handle for handle in member.relay.tables.legs if handle >= clusters.FIRST_HANDLE]


def refusals(member: Member) -> Counter[str]:
    return member.relay.core._rendezvous.refusals


def problem(mesh: ClusterMesh, number: int, other: int) -> str:
    return mesh.peer(number, other).last_error or ""


def test_clients_of_two_relays_connect_in_one_round_of_signals() -> None:
    mesh = ClusterMesh()
    mesh.start_at(0, (1,), relay=0)
    mesh.network.run_for(3)
    began = mesh.network.now
    mesh.start_at(1, (0,), relay=1)
    mesh.pair_up(within=1.0)
    assert mesh.network.now - began < 0.5, "who comes calls, without waiting to be told"
    mesh.exchange(0, 1)
    for member in mesh.nats.members:
        assert member.cluster.drops == member.relay.core.drops == {}
        assert channels(member) == [2]
        assert len(remote_handles(member)) == 1


@pytest.mark.parametrize("gap", [0.0, 0.001, 0.05, 0.5, 5.0])
def test_whoever_comes_first_they_connect(gap: float) -> None:
    """Entry and signals of either may overtake those of the other."""
    mesh = ClusterMesh()
    for number, relay in ((1, 1), (0, 0)):
        mesh.start_at(number, (1 - number,), relay=relay)
        mesh.network.run_for(gap)
    mesh.pair_up()
    mesh.exchange(0, 1)


def test_nobody_learns_of_a_node_that_does_not_name_it() -> None:
    mesh = ClusterMesh()
    mesh.start_at(0, (1,), relay=0)
    mesh.start_at(1, (2,), relay=1)
    mesh.network.run_for(15)
    assert not mesh.peer(0, 1).present
    assert channels(*mesh.nats.members) == [0, 0]
    assert refusals(mesh.nats.members[0])["the node is not here"] >= 1


def test_who_names_a_node_no_longer_is_not_seen_any_more() -> None:
    mesh = pair_across()
    mesh.clients[1].core.relays[0].send(Interest(remove=[IDENTITIES[0].node_id]), mesh.network.now)
    mesh.network.flush(mesh.clients[1])
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 1.0)


def test_a_client_that_leaves_is_missed_and_nothing_of_it_is_left() -> None:
    mesh = pair_across()
    leave(mesh, 1)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 1.0)
    mesh.network.run_for(1.0)
    assert channels(*mesh.nats.members) == [0, 0]
    assert [remote_handles(member) for member in mesh.nats.members] == [[], []]
    assert len(mesh.nats.members[0].cluster.remotes) == 0
    leave(mesh, 0)
    assert mesh.nats.entries == {}
    for member in mesh.nats.members:
        assert member.relay.tables.legs == {}
        rendezvous = member.relay.core._rendezvous
        assert (rendezvous._channels, rendezvous._calls, dict(rendezvous._of_client)) == ({}, {}, {})
        inside = member.cluster
        assert (dict(inside._named), dict(inside._members), inside._came, inside._written) == ({}, {}, {}, {})


def test_three_clients_at_three_relays() -> None:
    mesh = ClusterMesh(3)
    for number in range(3):
        mesh.start_at(number, tuple({0, 1, 2} - {number}), relay=number)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(one, other)
        mesh.exchange(one, other)


def test_the_directory_fails_and_comes_back() -> None:
    mesh = pair_across()
    sessions = [mesh.peer(number, 1 - number).session for number in (0, 1)]
    mesh.nats.kill()
    for _ in range(30):
        mesh.network.run_for(2.0)
        mesh.exchange(0, 1, within=0.5)
    mesh.start_at(2, (0, 1), relay=1)
    mesh.network.run_for(5.0)
    assert not any(member.cluster.report(mesh.network.now).connected for member in mesh.nats.members)
    mesh.nats.restart()
    for _ in range(30):
        mesh.network.run_for(1.0)
        mesh.exchange(0, 1, within=0.5)
    assert [mesh.peer(number, 1 - number).session for number in (0, 1)] == sessions
    assert all(
        relay.alive for member in mesh.nats.members for relay in member.cluster.remotes.relays.values()
    )


def test_new_pairs_wait_for_the_directory_and_local_ones_do_not() -> None:
    mesh = ClusterMesh()
    mesh.start_at(0, (1, 2), relay=0)
    mesh.start_at(1, (0, 2), relay=1)
    mesh.pair_up()
    mesh.nats.kill()
    mesh.start_at(2, (0, 1), relay=1)
    mesh.pair_up(2, 1)
    mesh.exchange(2, 1)
    mesh.network.run_for(10)
    assert not mesh.connected(0, 2)
    assert refusals(mesh.nats.members[1])[OUT_OF_REACH] >= 1
    mesh.nats.restart()
    mesh.pair_up(2, 0, within=20.0)
    mesh.exchange(2, 0)


def test_what_was_closed_during_the_outage_is_closed_afterwards() -> None:
    mesh = pair_across()
    mesh.nats.kill()
    leave(mesh, 1)
    assert mesh.peer(0, 1).present, "nobody could say"
    mesh.nats.restart()
    mesh.network.run_until(lambda: channels(*mesh.nats.members) == [0, 0], 10.0)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, clusters.GRACE + 5.0)


def test_a_relay_that_dies_is_missed_within_seconds() -> None:
    mesh = pair_across()
    first, second = mesh.nats.members
    mesh.kill_member(second)
    began = mesh.network.now
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 10.0)
    assert mesh.network.now - began <= clusters.STALE + 2.5 * clusters.BEAT
    assert channels(first) == [0]
    assert remote_handles(first) == []
    assert any("nothing is heard of relay1" in line for line in first.log)


def test_a_relay_that_ends_is_missed_at_once() -> None:
    mesh = pair_across()
    second = mesh.nats.members[1]
    second.cluster.close()
    second.flush()
    mesh.kill_member(second)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 0.2)


def test_a_relay_that_starts_again_takes_the_place_of_its_former_run() -> None:
    mesh = pair_across()
    mesh.kill_member(mesh.nats.members[1])
    mesh.start_member(1)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 0.5)
    mesh.network.run_until(lambda: mesh.connected(0, 1), 60.0)
    mesh.exchange(0, 1)
    report = mesh.nats.members[0].cluster.report(mesh.network.now)
    assert [(relay.name, relay.alive) for relay in report.relays] == [("relay1", True)]


def test_a_client_that_moved_is_found_at_its_new_relay() -> None:
    """Its old relay still takes it to be there: the newest presence wins, and the old one ends by itself."""
    mesh = pair_across(relays=3)
    mesh.network.run_for(5.0)
    mesh.network.detach(mesh.clients[1])
    mesh.start_at(1, (0,), relay=2, address=Address("198.51.100.99", 5000))
    mesh.network.run_until(lambda: mesh.connected(1, 0), 10.0)
    mesh.stream_until_through(1, 0, 5.0)
    mesh.stream_until_through(0, 1, 5.0)
    old = mesh.nats.members[1]
    assert len(old.relay.core.clients) == 1
    mesh.network.run_until(lambda: not old.relay.core.clients, 45.0)
    for _ in range(5):
        mesh.exchange(0, 1, within=0.5)
        mesh.network.run_for(1.0)
    assert sorted(channels(*mesh.nats.members)) == [0, 2, 2]


def test_a_client_that_moved_to_the_relay_of_its_peer() -> None:
    mesh = pair_across()
    mesh.network.run_for(5.0)
    mesh.network.detach(mesh.clients[1])
    mesh.start_at(1, (0,), relay=0, address=Address("198.51.100.99", 5000))
    mesh.network.run_until(lambda: mesh.connected(1, 0), 10.0)
    mesh.stream_until_through(1, 0, 5.0)
    mesh.network.run_until(lambda: not mesh.nats.members[1].relay.core.clients, 45.0)
    mesh.exchange(0, 1, within=0.5)
    assert channels(*mesh.nats.members) == [2, 0]


def test_a_relay_that_lost_the_directory_alone_lives_while_its_clients_send() -> None:
    mesh = pair_across()
    first, second = mesh.nats.members
    before = [set(member.relay.tables.channels) for member in (first, second)]
    second.disconnect()
    for _ in range(40):
        mesh.exchange(0, 1, within=0.4)
        mesh.network.run_for(0.5)
    assert [set(member.relay.tables.channels) for member in (first, second)] == before
    second.connect()
    for _ in range(10):
        mesh.exchange(0, 1, within=0.4)
        mesh.network.run_for(0.5)
    assert [set(member.relay.tables.channels) for member in (first, second)] == before


def test_a_client_of_two_relays_goes_on_through_the_other_when_one_dies() -> None:
    """Its peer knows a third one only, and its own relay learns of the death by the call through another."""
    mesh = ClusterMesh(3)
    mesh.start_at(0, (1,), relay=0)
    mesh.start_at(1, (0,), relay=1, last_too=True)
    mesh.pair_up()
    mesh.network.run_for(5.0)
    mesh.exchange(0, 1)
    session = mesh.peer(0, 1).session
    used = next(member for member in mesh.nats.members[1:] if channels(member) == [2])
    mesh.kill_member(used)
    began = mesh.network.now
    while mesh.network.now - began < 5.0:
        mesh.send(0, mesh.frame(0, 1))
        mesh.send(1, mesh.frame(1, 0))
        mesh.network.run_for(0.05)
    mesh.exchange(0, 1, within=0.2)
    assert mesh.peer(0, 1).session is session


def test_relays_that_lost_each_other_begin_anew() -> None:
    """One relay alone loses the directory: the others take it for dead, and it does not know."""
    mesh = pair_across()
    first, second = mesh.nats.members
    second.disconnect()
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 10.0)
    assert channels(first, second) == [0, 2]
    mesh.network.run_for(20.0)
    mark = len(mesh.nats.messages)
    second.connect()
    reset = msgspec.msgpack.encode(Signals(first.cluster.instance, [Reset()]))
    mesh.network.run_until(lambda: reset in [one.data for one in mesh.nats.messages[mark:]], 1.5)
    mesh.network.run_until(lambda: channels(first, second) == [2, 2] and mesh.connected(0, 1), 15.0)
    mesh.stream_until_through(0, 1, 5.0)
    mesh.stream_until_through(1, 0, 5.0)


def test_a_relay_that_stood_still_itself_takes_nobody_for_dead() -> None:
    """What the others said meanwhile waits to be read."""
    mesh = pair_across()
    first = mesh.nats.members[0]
    mesh.network.run_for(1.0)
    later = mesh.network.now + 20.0
    first.cluster.handle_timer(later)
    assert all(relay.alive for relay in first.cluster.remotes.relays.values())
    for second in range(1, 10):
        first.cluster.handle_timer(later + second)
    assert not any(relay.alive for relay in first.cluster.remotes.relays.values())


def test_a_call_of_a_relay_that_died_meanwhile_comes_to_nothing() -> None:
    mesh = ClusterMesh()
    mesh.start_at(1, (0,), relay=1)
    mesh.network.run_for(3.0)
    first, second = mesh.nats.members
    sender = first.cluster.instance
    call = Calls(IDENTITIES[0].node_id, IDENTITIES[1].node_id, Presence(b"instance", 1), b"calledid", True)
    second.hear(msgspec.msgpack.encode(Signals(sender, [call])))
    assert len(second.relay.core._rendezvous._calls) == 1
    first.cluster.close()
    first.flush()
    mesh.network.run_for(clusters.BEAT / 100)
    assert second.relay.core._rendezvous._calls == {}
    mesh.network.run_for(2.0)
    assert (channels(second), remote_handles(second)) == ([0], [])


def test_limits_hold_across_relays() -> None:
    mesh = pair_across(limits=Limits(channels_per_client=1))
    mesh.start_at(2, (0,), relay=1)
    mesh.clients[0].core.relays[0].send(Interest(add=[IDENTITIES[2].node_id]), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_until(lambda: "too many channels" in problem(mesh, 2, 0), 10.0)
    assert channels(*mesh.nats.members) == [2, 2]


def test_members_of_one_network_meet_across_relays() -> None:
    home = Domain()
    mesh = ClusterMesh(admission=lambda: Admission(False, frozenset(), [home.guard()]))
    for number, relay in ((0, 0), (1, 1), (2, 0)):
        mesh.start_at(number, (), relay=relay, membership=home.member(number), connect="demand")
    mesh.network.run_until(lambda: all(len(mesh.clients[n].core.peers) == 2 for n in (0, 1, 2)), 5.0)
    mesh.network.run_until(lambda: mesh.clients[0].core.roster.find("member1") is not None, 5.0)
    assert mesh.peer(0, 1).session is None, "its name is known by what its relay was shown"
    for one, other in ((0, 1), (1, 2)):
        mesh.stream_until_through(one, other, 5.0)
        mesh.exchange(one, other)
    leave(mesh, 1)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 1.0)


def test_members_of_different_networks_do_not_meet() -> None:
    home, work = Domain(), Domain()
    mesh = ClusterMesh(admission=lambda: Admission(False, frozenset(), [home.guard(), work.guard()]))
    mesh.start_at(0, (), relay=0, membership=home.member(0))
    mesh.start_at(1, (), relay=1, membership=work.member(1))
    mesh.network.run_for(10.0)
    assert mesh.clients[0].core.peers == {}


def test_entries_are_written_again_before_they_end() -> None:
    mesh = pair_across()
    written = dict(mesh.nats.entries)
    mesh.nats.entries.clear()
    mesh.network.run_for(clusters.REFRESH + 3.0)
    assert mesh.nats.entries == written

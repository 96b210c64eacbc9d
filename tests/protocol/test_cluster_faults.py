"""A relay of a cluster under load, at its bounds, and after a step that failed half-way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from shadowmesh.stages import Stages
from shadowmesh.wire.messages import Absent, Message, Present
from shadowmesh_relay import cluster as clusters
from shadowmesh_relay import signalling
from shadowmesh_relay.clients import Client, Visit
from shadowmesh_relay.cluster import Cluster
from shadowmesh_relay.cluster_wire import Beat, Closed, Gone, Here, Presence, Reset, entry_key
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.rendezvous import Rendezvous
from shadowmesh_relay.steering import Steering
from shadowmesh_relay.testing import MemoryForwarder
from tests.protocol.cluster import ClusterMesh, Member
from tests.protocol.test_cluster import leave, pair_across
from tests.protocol.test_cluster_hostile import NODES, PRESENCE, SOMEBODY, STRANGER, answers, beat, say, tell

NETWORK = b"n" * 32


def ours(member: Member, number: int = 0) -> Client:
    return member.relay.core.clients[NODES[number]]


def waiting(member: Member) -> list[object]:
    return [signal for _, signal in member.cluster._signalling._outbox]


@pytest.fixture
def mesh() -> ClusterMesh:
    """Two relays and their clients; a third one may say whatever it likes."""
    mesh = pair_across()
    mesh.network.run_for(1.0)
    say(mesh.nats.members[0], beat())
    return mesh


@pytest.fixture
def told(mesh: ClusterMesh, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What our clients hear from now on."""
    found: list[Message] = []
    rendezvous = mesh.nats.members[0].relay.core._rendezvous
    monkeypatch.setattr(rendezvous, "_send_all", lambda _, messages, __: found.extend(messages))
    return found


def test_a_client_that_ended_before_it_was_introduced_leaves_nothing(mesh: ClusterMesh) -> None:
    cluster = mesh.nats.members[0].cluster
    cluster.handle_departure(replace(ours(mesh.nats.members[0]), node=SOMEBODY), mesh.network.now)
    assert cluster.poll_writes(mesh.network.now) == []


def test_guests_are_no_business_of_other_relays(mesh: ClusterMesh, told: list[Message]) -> None:
    member = mesh.nats.members[0]
    guest = replace(ours(member), node=SOMEBODY, visit=Visit(b"", NODES[0], 1e9), interests={NODES[1]})
    member.relay.core.clients[SOMEBODY] = guest
    member.cluster.handle_named(guest, NODES[1], mesh.network.now)
    tell(member, Here(NODES[1], SOMEBODY, PRESENCE, ask=True))
    member.cluster.handle_unnamed(guest, NODES[1], mesh.network.now)
    del member.relay.core.clients[SOMEBODY]
    assert waiting(member) == told == []


def test_a_relay_is_dead_for_all_even_if_a_channel_of_it_cannot_be_closed(
    mesh: ClusterMesh, told: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    member, other = mesh.nats.members

    def fail(*_: Any) -> None:
        raise KeyError("channel")

    monkeypatch.setattr(member.relay.core._rendezvous, "abandon", fail)
    with pytest.raises(KeyError):
        member.cluster._die(member.cluster.remotes.relays[other.cluster.instance], mesh.network.now)
    member.cluster.handle_timer(mesh.network.now)
    assert told == [Absent(NODES[1])]


class Insider(Client):
    """A member of the network, as far as a cluster looks at it."""

    network, mark, handle = NETWORK, b"", 1

    def __init__(self, number: int) -> None:
        self.node, self.instance = number.to_bytes(32, "big"), bytes(8)
        self.interests: set[bytes] = set()

    def shares_network_with(self, other: Any) -> bool:
        return bool(self.network == other.network)


class Crowd:
    """A relay with many members of one network, and another relay."""

    def __init__(self, members: int) -> None:
        self.told: list[tuple[bytes, Message]] = []
        self.clients: dict[bytes, Any] = {}
        tables = MemoryForwarder()
        own = Beat(bytes(16), bytes(32), "relay1", "192.0.2.1", 4433)
        self.cluster = Cluster("test", own, 0.0, lambda: 1.0)
        steering = Steering(1, bytes)
        self.cluster.serve(
            self.clients,
            Rendezvous(self.clients, tables, steering, self._hear, Limits(), Stages()),
            tables,
        )
        self.cluster.handle_connected(0.0)
        self.cluster.handle_message_untrusted(msgspec.msgpack.encode(beat()), 0.0)
        for number in range(members):
            client: Any = Insider(number)
            self.clients[client.node] = client
            self.cluster.handle_arrival(client, 0.0)

    def _hear(self, client: Client, messages: Any, _: float) -> None:
        self.told += [(client.node, message) for message in messages]

    def see(
        self, number: int, relay: bytes = STRANGER, *, instance: bytes = bytes(8), since: int = 1
    ) -> None:
        value = msgspec.msgpack.encode(Presence(instance, since, NETWORK))
        self.cluster.handle_entry_untrusted(entry_key(number.to_bytes(32, "big"), relay), value, 0.0)

    def settle(self) -> None:
        while self.cluster.deadline <= 0.0:
            before = len(self.told)
            self.cluster.handle_timer(0.0)
            assert len(self.told) - before < clusters.TOLD_BATCH + len(self.clients)


def test_a_crowd_that_comes_and_goes_is_told_bit_by_bit() -> None:
    crowd = Crowd(100)
    for number in range(1000, 1100):
        crowd.see(number)
    crowd.settle()
    assert len(crowd.told) == 100 * 100
    crowd.cluster.handle_message_untrusted(msgspec.msgpack.encode(beat(leaving=True)), 0.0)
    crowd.settle()
    assert len(crowd.told) == 2 * 100 * 100


def test_members_hear_of_the_newest_place_only() -> None:
    crowd, other = Crowd(1), b"o" * 16
    crowd.cluster.handle_message_untrusted(
        msgspec.msgpack.encode(beat(other, node=b"o" * 32, host="203.0.113.8")), 0.0
    )
    crowd.see(9, other, instance=b"newplace", since=2)
    crowd.see(9, instance=b"oldplace", since=1)
    crowd.see(0, instance=b"oldplace", since=1)
    crowd.settle()
    node = (9).to_bytes(32, "big")
    assert crowd.told == [(bytes(32), Present(node, b"newplace", b""))]
    late: Any = Insider(5)
    crowd.clients[late.node] = late
    crowd.cluster.handle_arrival(late, 0.0)
    assert crowd.told[1:] == [(late.node, Present(node, b"newplace", b""))], "of ours it hears elsewhere"


def test_who_names_a_node_hears_of_its_newest_place_only(mesh: ClusterMesh, told: list[Message]) -> None:
    member = mesh.nats.members[0]
    tell(member, Here(NODES[1], NODES[0], Presence(b"oldplace", 1)))
    assert told == []
    tell(member, Here(NODES[1], NODES[0], Presence(b"newplace", 1 << 50)))
    assert told == [Present(NODES[1], b"newplace", b"")]


def test_changes_of_interest_have_a_rate(mesh: ClusterMesh) -> None:
    member, now = mesh.nats.members[0], mesh.network.now
    client, burst = ours(member), clusters.INTEREST_BURST
    for _ in range(burst):
        member.cluster.handle_named(client, NODES[1], now)
        member.cluster.handle_unnamed(client, NODES[1], now)
    assert burst - 1 <= len(waiting(member)) <= burst
    assert member.cluster.drops["cluster_interest_rate"] >= burst
    other = replace(client, handle=99)
    member.cluster.handle_unnamed(other, NODES[1], now)
    assert waiting(member)[-1] == Gone(NODES[0], NODES[1]), "what one does costs another nothing"
    before = len(waiting(member))
    for _ in range(clusters.INTEREST_RATE):
        member.cluster.handle_unnamed(client, NODES[1], now + 0.5)
    assert len(waiting(member)) - before == clusters.INTEREST_RATE // 2


def test_what_waits_to_be_sent_is_bounded_and_a_relay_that_missed_an_end_begins_anew(
    mesh: ClusterMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signalling, "MAX_KEPT", 8)
    member = mesh.nats.members[0]
    relay = member.cluster.remotes.relays[STRANGER]
    here = Here(NODES[0], SOMEBODY, PRESENCE)
    for _ in range(20):
        member.cluster._signalling.signal(relay, here)
    assert (len(waiting(member)), relay.forgotten) == (8, False)
    member.cluster._signalling.signal(relay, Closed(b"whatever"))
    assert (len(waiting(member)), relay.forgotten) == (8, True)
    member.flush()
    say(member, beat())
    assert answers(mesh)[-1] == Reset()


def test_a_session_does_not_inherit_what_the_one_before_had_named(mesh: ClusterMesh) -> None:
    """At its relay it names nobody any more."""
    mesh.network.detach(mesh.clients[1])
    mesh.start_at(1, (), relay=1)
    mesh.network.run_until(lambda: not mesh.peer(0, 1).present, 5.0)
    mesh.network.run_for(5.0)
    assert not mesh.peer(0, 1).present
    remote = mesh.nats.members[0].cluster.find(NODES[1])[0]
    assert remote.interests == set()


def test_a_session_that_names_the_same_again_is_told(mesh: ClusterMesh) -> None:
    mesh.network.detach(mesh.clients[1])
    mesh.start_at(1, (0,), relay=1)
    mesh.pair_up()
    mesh.network.run_for(5.0)
    assert mesh.peer(0, 1).present
    assert mesh.peer(1, 0).present
    mesh.exchange(0, 1)


def test_who_names_a_client_asks_each_session_of_it(mesh: ClusterMesh, told: list[Message]) -> None:
    member = mesh.nats.members[0]
    (remote,) = member.cluster.find(NODES[1])
    presence = msgspec.structs.replace(remote.presence, since=remote.presence.since + 1)
    key = entry_key(NODES[1], mesh.nats.members[1].cluster.instance)
    member.cluster.handle_entry_untrusted(key, msgspec.msgpack.encode(presence), mesh.network.now)
    member.cluster.handle_timer(mesh.network.now)
    assert told == [Absent(NODES[1])]
    (asked,) = waiting(member)
    assert isinstance(asked, Here)
    assert (asked.node, asked.to, asked.ask) == (NODES[0], NODES[1], True)


def test_an_entry_that_is_written_again_changes_nothing(mesh: ClusterMesh, told: list[Message]) -> None:
    member = mesh.nats.members[0]
    for key, value in mesh.nats.entries.items():
        member.see(key, value)
    member.cluster.handle_timer(mesh.network.now)
    assert told == []
    assert member.cluster.find(NODES[1])[0].interests == {NODES[0]}


def test_who_left_is_not_counted_among_those_named(mesh: ClusterMesh) -> None:
    (remote,) = mesh.nats.members[0].cluster.find(NODES[1])
    assert remote.interests == {NODES[0]}
    leave(mesh, 0)
    assert remote.interests == set()


def test_a_run_that_was_replaced_is_replaced_once(mesh: ClusterMesh) -> None:
    for _ in range(3):
        mesh.kill_member(mesh.nats.members[1])
        mesh.start_member(1)
        mesh.network.run_for(1.0)
    lines = [line for line in mesh.nats.members[0].log if "has started again" in line]
    assert len(lines) == 3

"""What a relay of a cluster makes of messages and entries that no relay of ours would write."""

from __future__ import annotations

import random

import msgspec
import pytest

from shadowmesh.wire.messages import Open
from shadowmesh_relay import remotes
from shadowmesh_relay.cluster import Cluster
from shadowmesh_relay.cluster_wire import (
    MAX_SIGNALS,
    Answered,
    Beat,
    Calls,
    Closed,
    Gone,
    Here,
    Presence,
    Reset,
    Shown,
    Signal,
    Signals,
    entry_key,
)
from tests.protocol.cluster import ClusterMesh, Member
from tests.protocol.mesh import IDENTITIES
from tests.protocol.test_cluster import channels, pair_across, refusals

STRANGER = bytes(15) + b"\1"
NODES = [identity.node_id for identity in IDENTITIES]
SOMEBODY = bytes(31) + b"\x80"
PRESENCE = Presence(b"instance", 1)


def beat(instance: bytes = STRANGER, **fields: object) -> Beat:
    values = {"node": bytes(32), "name": "relay9", "host": "203.0.113.9", "port": 4433, **fields}
    return Beat(instance, **values)  # type: ignore[arg-type]


def say(member: Member, message: object) -> None:
    member.hear(message if isinstance(message, bytes) else msgspec.msgpack.encode(message))


def tell(member: Member, *signals: Signal, relay: bytes = STRANGER) -> None:
    say(member, Signals(relay, list(signals)))


def answers(mesh: ClusterMesh, relay: bytes = STRANGER) -> list[Signal]:
    """What was sent to a relay."""
    found = (
        msgspec.msgpack.decode(one.data, type=Beat | Signals)
        for one in mesh.nats.messages
        if one.topic == f"to.{relay.hex()}"
    )
    return [signal for message in found if isinstance(message, Signals) for signal in message.signals]


@pytest.fixture
def mesh() -> ClusterMesh:
    """Two relays and their clients; a third relay, the stranger, says whatever it likes to the first."""
    mesh = pair_across()
    mesh.network.run_for(1.0)
    say(mesh.nats.members[0], beat())
    assert mesh.nats.members[0].cluster.drops == {}
    return mesh


def valid() -> list[bytes]:
    here = Here(NODES[3], NODES[0], PRESENCE, ask=True)
    call = Calls(NODES[3], NODES[0], PRESENCE, b"calledid", named=True)
    several: list[Signal] = [
        here,
        call,
        Gone(NODES[3], NODES[0]),
        Answered(b"calledid", b"sendhere"),
        Closed(b"calledid"),
    ]
    return [
        msgspec.msgpack.encode(one)
        for one in (beat(), Signals(STRANGER, several), Signals(STRANGER, [Shown(NODES[3], NODES[0], b"x")]))
    ]


def test_broken_messages_are_dropped_and_counted(mesh: ClusterMesh) -> None:
    """Cut short, or with a byte changed: whatever still can be read has no effect on others' channels."""
    member, chance, given = mesh.nats.members[0], random.Random(1), 0
    for data in valid():
        for size in range(len(data)):
            say(member, data[:size])
            given += 1
        for _ in range(500):
            broken = bytearray(data)
            broken[chance.randrange(len(data))] = chance.randrange(256)
            say(member, bytes(broken))
    assert member.cluster.drops["cluster_malformed"] >= given
    assert set(member.cluster.drops) <= {
        "cluster_malformed",
        "cluster_version",
        "cluster_address",
        "cluster_full",
        "cluster_unknown_relay",
    }
    mesh.exchange(0, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"type": "reset"}),
        msgspec.msgpack.encode(Signals(STRANGER, [])),
        msgspec.msgpack.encode(Signals(STRANGER, [Closed(b"calledid")] * (MAX_SIGNALS + 1))),
        msgspec.msgpack.encode(Signals(b"short", [Reset()])),
        msgspec.msgpack.encode(Signals(STRANGER, [Closed(b"longer than ids are")])),
        msgspec.msgpack.encode(Signals(STRANGER, [Shown(NODES[1], NODES[0], bytes(30_000))])),
        msgspec.msgpack.encode(beat(name="")),
        msgspec.msgpack.encode(beat(port=0)),
        bytes(2 << 20),
    ],
)
def test_messages_of_the_wrong_form(mesh: ClusterMesh, data: bytes) -> None:
    say(mesh.nats.members[0], data)
    assert mesh.nats.members[0].cluster.drops == {"cluster_malformed": 1}


def test_another_version_is_no_business_of_ours(mesh: ClusterMesh) -> None:
    for message in (beat(version=2), Signals(STRANGER, [Reset()], version=2)):
        say(mesh.nats.members[0], message)
    assert mesh.nats.members[0].cluster.drops == {"cluster_version": 2}


@pytest.mark.parametrize(
    "host",
    [
        "",
        "relay.example.net",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
        "1.2.3",
        "255.255.255.255",
        "2001:DB8::1",
        "127.0.0.1%lo",
        "fe80::1%1",
        "::ffff:0:1",
    ],
)
def test_addresses_that_no_relay_has(mesh: ClusterMesh, host: str) -> None:
    other = bytes(16)
    say(mesh.nats.members[0], beat(other, node=b"\2" * 32, host=host))
    assert mesh.nats.members[0].cluster.drops == {"cluster_address": 1}
    assert other not in mesh.nats.members[0].cluster.remotes.relays


def test_a_relay_does_not_send_to_itself(mesh: ClusterMesh) -> None:
    """As when one configuration is copied to two machines."""
    member = mesh.nats.members[0]
    say(member, beat(bytes(16), host=member.relay.address.host))
    assert member.cluster.drops == {"cluster_address": 1}


def test_an_address_that_our_socket_cannot_reach(mesh: ClusterMesh) -> None:
    cluster = Cluster("test", beat(bytes(16)), 0.0, lambda: 0.0, lambda address: ":" not in address.host)
    cluster.handle_message_untrusted(msgspec.msgpack.encode(beat(host="2001:db8::1")), 0.0)
    assert cluster.drops == {"cluster_address": 1}


def test_a_living_relay_does_not_change_its_address(mesh: ClusterMesh) -> None:
    """What goes to its clients would go elsewhere, from one moment to the next."""
    member = mesh.nats.members[0]
    second = mesh.nats.members[1].cluster.instance
    before = member.cluster.remotes.relays[second].address
    say(member, beat(second, node=mesh.nats.members[1].relay.identity.node_id, host="203.0.113.66"))
    assert member.cluster.drops == {"cluster_address": 1}
    assert member.cluster.remotes.relays[second].address == before


def test_a_relay_that_nobody_has_heard_of_says_nothing(mesh: ClusterMesh) -> None:
    tell(mesh.nats.members[0], Reset(), relay=bytes(16))
    assert mesh.nats.members[0].cluster.drops == {"cluster_unknown_relay": 1}


def test_a_channel_is_closed_and_answered_by_its_relay_only(mesh: ClusterMesh) -> None:
    member = mesh.nats.members[0]
    before = dict(member.relay.tables.channels)
    for channel in list(before):
        tell(member, Closed(channel), Answered(channel, b"sendhere"), Answered(channel, refused="so"))
    tell(member, Reset())
    assert member.relay.tables.channels == before
    assert answers(mesh) == [Closed(b"sendhere")] * 2, "nobody waits for that"
    mesh.exchange(0, 1)


def test_a_reset_ends_the_channels_with_that_relay(mesh: ClusterMesh) -> None:
    member, other = mesh.nats.members
    tell(member, Reset(), relay=other.cluster.instance)
    assert channels(member) == [0]
    mesh.network.run_until(lambda: mesh.connected(0, 1) and channels(member, other) == [2, 2], 10.0)
    mesh.stream_until_through(0, 1, 5.0)


def test_a_call_leads_to_our_clients_only(mesh: ClusterMesh) -> None:
    """Never through us to a client of a third relay, whoever names whom."""
    member = mesh.nats.members[0]
    mark = len(mesh.nats.messages)
    tell(member, Calls(NODES[3], NODES[1], PRESENCE, b"calledid", named=True))
    assert answers(mesh)[-1] == Answered(b"calledid", refused="the node is not here")
    to_second = f"to.{mesh.nats.members[1].cluster.instance.hex()}"
    assert all(one.topic != to_second for one in mesh.nats.messages[mark:])


def test_a_call_to_who_does_not_name_the_caller_is_refused(mesh: ClusterMesh) -> None:
    member = mesh.nats.members[0]
    before = len(member.relay.tables.channels)
    tell(member, Calls(NODES[3], NODES[0], PRESENCE, b"calledid", named=True))
    tell(member, Calls(NODES[1], NODES[0], PRESENCE, b"calledid", named=False))
    assert answers(mesh) == [Answered(b"calledid", refused="the node is not here")] * 2
    assert len(member.relay.tables.channels) == before
    remote = member.cluster.remotes.relays[STRANGER].remotes[NODES[3]]
    assert remote.interests == set(), "nothing is kept of whom nobody names"


def test_a_client_is_asked_ten_times_a_second_at_most(mesh: ClusterMesh) -> None:
    member = mesh.nats.members[0]
    for number in range(30):
        tell(member, Calls(NODES[3], NODES[0], PRESENCE, number.to_bytes(8, "big")))
    assert refusals(member)["too many openings"] == 20


def test_reasons_of_others_are_among_those_we_know(mesh: ClusterMesh) -> None:
    """They go to clients, and into metrics whose number of labels is bounded."""
    member = mesh.nats.members[0]
    second = mesh.nats.members[1].cluster.instance
    call = mesh.clients[0].core.relays[0]
    mesh.nats.members[1].cut = True
    call.send(Open(NODES[1], b"whatever"), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(0.1)
    (waiting,) = member.relay.core._rendezvous._calls
    tell(member, Answered(waiting, refused="\x1b[31m" * 10), relay=second)
    assert refusals(member)["the relay of the node refused"] == 1
    assert not any("\x1b" in reason for reason in refusals(member))


def test_relays_beyond_the_bound_are_not_kept(mesh: ClusterMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "MAX_RELAYS", 4)
    cluster = mesh.nats.members[0].cluster
    for number in range(2, 8):
        instance = number.to_bytes(16, "big")
        say(mesh.nats.members[0], beat(instance, node=instance * 2))
    assert len(cluster.remotes.relays) == 4
    assert cluster.drops == {"cluster_full": 4}
    mesh.network.run_for(10.0)
    say(mesh.nats.members[0], beat(bytes(16), node=b"\3" * 32))
    assert cluster.remotes.relays[bytes(16)].alive, "those that are silent make room"
    mesh.exchange(0, 1)


def test_clients_beyond_the_bound_are_not_kept(mesh: ClusterMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = mesh.nats.members[0].cluster
    monkeypatch.setattr(remotes, "MAX_REMOTES", 3)
    for number in range(10):
        key = entry_key(bytes(31) + bytes((number,)), STRANGER)
        cluster.handle_entry_untrusted(key, msgspec.msgpack.encode(PRESENCE), mesh.network.now)
    assert len(cluster.remotes) == 3
    assert cluster.drops == {"cluster_full": 8}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", b""),
        ("x" * 52 + "." + "0" * 32, msgspec.msgpack.encode(PRESENCE)),
        (entry_key(SOMEBODY, STRANGER).upper(), msgspec.msgpack.encode(PRESENCE)),
        (entry_key(SOMEBODY, STRANGER) + "\n", msgspec.msgpack.encode(PRESENCE)),
        ("b" * 51 + "b." + "0" * 32, msgspec.msgpack.encode(PRESENCE)),
        (entry_key(SOMEBODY, STRANGER), b""),
        (entry_key(SOMEBODY, STRANGER), bytes(300)),
        (entry_key(SOMEBODY, STRANGER), msgspec.msgpack.encode(Presence(b"short", 1))),
        (entry_key(SOMEBODY, STRANGER), msgspec.msgpack.encode(Presence(b"instance", -1))),
    ],
)
def test_entries_of_the_wrong_form(mesh: ClusterMesh, key: str, value: bytes) -> None:
    cluster = mesh.nats.members[0].cluster
    cluster.handle_entry_untrusted(key, value, mesh.network.now)
    assert cluster.drops == {"cluster_malformed": 1}
    assert len(cluster.remotes) == 1


def test_what_passes_for_us_is_not_heard(mesh: ClusterMesh) -> None:
    member = mesh.nats.members[0]
    before = dict(member.relay.tables.channels)
    tell(member, Reset(), relay=member.cluster.instance)
    say(member, beat(member.cluster.instance, host="203.0.113.66"))
    entry = msgspec.msgpack.encode(PRESENCE)
    member.cluster.handle_entry_untrusted(
        entry_key(NODES[3], member.cluster.instance), entry, mesh.network.now
    )
    assert member.cluster.drops == {}
    assert member.relay.tables.channels == before
    assert len(member.cluster.remotes) == 1

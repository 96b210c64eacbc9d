"""The relay against clients that do not play by the rules."""

from __future__ import annotations

from collections import Counter

from shadowmesh.units import Address
from shadowmesh.wire.messages import Answer, Close, Interest, Open, Opened
from shadowmesh_relay.limits import Limits
from tests.protocol.mesh import IDENTITIES, Mesh


def test_a_thousand_messages_at_once(mesh: Mesh) -> None:
    """They are served one after the other, however deep an owner's answers would nest."""
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    client = mesh.clients[0]
    driver = client.core.relays[0]._driver
    assert driver is not None
    for number in range(2000):
        driver.link.send(Open(IDENTITIES[1].node_id, number.to_bytes(8, "big")))
    client.core._shared.links.pump(driver, mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_for(10)
    assert mesh.connected(0, 1)
    mesh.exchange(0, 1)


def test_openings_are_limited(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    mesh.network.run_for(5)
    refused: Counter[str] = Counter()
    relay = mesh.clients[0].core.relays[0]
    original = relay._handle_message

    def record(client, message, now):  # type: ignore[no-untyped-def]
        if isinstance(message, Opened) and message.refused:
            refused[message.refused] += 1
        original(client, message, now)

    relay._handle_message = record
    for number in range(Limits().openings_per_second + 5):
        relay.send(Open(IDENTITIES[1].node_id, bytes((number,)) * 8), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(0.5)
    assert refused["too many openings"] >= 5


def test_repeated_interest_tells_the_other_side_once(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    mesh.network.run_for(1)
    assert mesh.relay is not None
    mark = len(mesh.network.sent)
    relay = mesh.clients[0].core.relays[0]
    for _ in range(50):
        relay.send(Interest(add=[IDENTITIES[1].node_id]), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(0.5)
    to_bob = [1 for _, source, target, _ in mesh.network.sent[mark:] if target == mesh.clients[1].address]
    assert len(to_bob) <= 3


def test_answers_and_closes_of_strangers_have_no_effect(mesh: Mesh) -> None:
    for number in range(3):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    mesh.pair_up()
    channel = mesh.peer(0, 1).channel
    assert channel is not None
    stranger = mesh.clients[2].core.relays[0]
    for message in (Close(channel.send), Answer(channel.send, b"whatever")):
        stranger.send(message, mesh.network.now)
    mesh.network.flush(mesh.clients[2])
    mesh.network.run_for(1)
    assert mesh.peer(0, 1).channel is channel
    mesh.exchange(0, 1)


def test_open_to_one_that_does_not_list_us_is_refused(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (2,))
    mesh.network.run_for(3)
    mesh.clients[0].core.relays[0].send(Open(IDENTITIES[1].node_id, b"12345678"), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(1)
    assert mesh.relay is not None
    assert mesh.relay.tables.channels == {}


def test_flood_of_initials_keeps_no_state(mesh: Mesh) -> None:
    """Without a token an Initial is answered by a smaller Retry, or not at all, and forgotten."""
    assert mesh.relay is not None
    mark = len(mesh.network.sent)
    initial = (b"\xc3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8) + b"\0").ljust(1200, b"\0")
    for number in range(500):
        mesh.relay.receive(initial, Address(f"203.0.113.{number % 250}", number + 1), mesh.network.now)
        mesh.network.flush(mesh.relay)
    answers = [data for _, _, _, data in mesh.network.sent[mark:]]
    assert sum(map(len, answers)) < 500 * 1200 // 3
    assert mesh.relay.core._half_open == {}
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()


def test_silent_client_is_dropped_and_its_peer_told(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    mesh.network.detach(mesh.clients[0])
    mesh.network.run_until(lambda: not mesh.peer(1, 0).present, 45)
    assert mesh.relay is not None
    assert IDENTITIES[0].node_id not in mesh.relay.core.clients
    assert mesh.relay.tables.channels == {}


def test_everything_of_a_gone_client_is_removed(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    for number in (0, 1):
        mesh.clients[number].core.close(mesh.network.now)
        mesh.network.flush(mesh.clients[number])
    mesh.network.run_for(1)
    assert mesh.relay is not None
    tables = mesh.relay.tables
    assert (tables.legs, tables.lanes, tables.channels, tables.control) == ({}, {}, {}, set())
    core = mesh.relay.core
    assert (core.clients, core._by_handle, core._half_open, core._links._by_id) == ({}, {}, {}, {})


def test_client_keeps_nothing_of_a_closed_relay(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    client = mesh.clients[0]
    client.core.close(mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_for(0.2)
    tables = client.tables
    assert (tables.lanes, tables.channels, tables.control, tables.routes) == ({}, set(), set(), {})
    assert not any(tables.sources.values())


def test_channel_that_nobody_waits_for_any_more_is_closed(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    mesh.network.run_for(5)
    mesh.clients[0].core.relays[0].send(Open(IDENTITIES[1].node_id, b"unwanted"), mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(10)
    assert mesh.relay is not None
    assert len(mesh.relay.tables.channels) == 2, "one channel, two ends"
    mesh.exchange(0, 1)


def test_all_ids_of_a_client_lead_to_its_thread(mesh: Mesh) -> None:
    """Those of its lanes and those by which it sends in channels; clients come to the threads in turns."""
    relay = mesh.start_relay(threads=4)
    for number in range(3):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    for pair in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(*pair)
    threads = relay.tables.threads
    assert sorted(threads.values()) == [0, 1, 2]
    assert len(relay.tables.channels) == 6
    for channel, (source, _, _) in relay.tables.channels.items():
        assert channel[0] % 4 == threads[source]
    for lane, (client, _, _) in relay.tables.lanes.items():
        assert lane[0] % 4 == threads[client]

"""What `status` says of a peer in each situation, and whom a name, an address or a NodeID means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.roster import Member, Roster
from shadowmesh.node.report import ABSENT, NO_RELAY, _peer
from shadowmesh_relay.server import totals
from tests.protocol.mesh import Mesh

ENGINE: Any = SimpleNamespace(
    peer_counters=lambda _: {"tx_bytes": 1, "rx_bytes": 2, "tx_frames": 3, "rx_frames": 4}
)


def test_a_peer_through_its_life() -> None:
    mesh = Mesh()
    mesh.start_client(0, (1,))
    relays = mesh.clients[0].core.relays
    seen = _peer(mesh.peer(0, 1), mesh.clients[0].core, ENGINE, (), mesh.network.now)
    assert seen.last_error == NO_RELAY.told
    mesh.start_relay()
    mesh.network.run_until(lambda: relays[0].state.value == "connected", 60)
    seen = _peer(mesh.peer(0, 1), mesh.clients[0].core, ENGINE, (), mesh.network.now)
    assert seen.last_error == ABSENT.told
    mesh.start_client(1, (0,))
    mesh.pair_up()
    seen = _peer(mesh.peer(0, 1), mesh.clients[0].core, ENGINE, (), mesh.network.now)
    assert (seen.state, seen.last_error, seen.epoch) == ("connected", None, 0)
    assert None not in (seen.path, seen.cipher, seen.key_exchange, seen.last_handshake, seen.epoch_age)
    mesh.peer(0, 1).rendezvous._instances.clear()  # as with a direct path, once both have left the relay
    seen = _peer(mesh.peer(0, 1), mesh.clients[0].core, ENGINE, (), mesh.network.now)
    assert (seen.state, seen.last_error) == ("connected", None), "it needs no relay"


def test_a_session_without_a_path_shows_nothing_that_is_not_true_now() -> None:
    mesh = Mesh()
    mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    relay = mesh.relay
    assert relay is not None
    relay.core.close(mesh.network.now)
    mesh.network.flush(relay)
    relays = mesh.clients[0].core.relays
    mesh.network.run_until(lambda: relays[0].state.value != "connected", 5)
    assert mesh.peer(0, 1).session is not None, "kept for the relay's return"
    seen = _peer(mesh.peer(0, 1), mesh.clients[0].core, ENGINE, (), mesh.network.now)
    assert (seen.state, seen.last_error, seen.tx_bytes) == ("absent", NO_RELAY.told, 1)
    gone = (seen.path, seen.rtt_ms, seen.epoch, seen.epoch_age, seen.cipher, seen.key_exchange)
    assert (*gone, seen.last_handshake) == (None,) * 7


BOB = Member("bob", b"b" * 32, ("10.77.0.2", "fd77::2"))
BEN = Member("ben", b"b" * 31 + b"x", ())
CAROL = Member("carol", b"c" * 32, ())


@pytest.mark.parametrize(
    ("label", "member"),
    [
        ("bob", BOB),
        ("fd77:0::2", BOB),
        (node_id_text(BOB.node_id), BOB),
        (node_id_text(BOB.node_id).upper(), BOB),
        (node_id_text(CAROL.node_id)[:10], CAROL),
        (node_id_text(CAROL.node_id)[:9], None),
        (node_id_text(CAROL.node_id) + "a", None),
        (node_id_text(BOB.node_id)[:10], None),  # ben's begins so, too
        ("", None),
    ],
)
def test_whom_a_label_means(label: str, member: Member | None) -> None:
    assert Roster([BOB, BEN, CAROL]).find(label) is member


def test_totals_of_a_relay() -> None:
    counters = {"udp_rx_datagrams": 5, "tap_rx_frames": 0}
    assert totals(2, counters, {"short": 1, "token": 0}) == "clients 2, udp_rx_datagrams 5, dropped short 1"

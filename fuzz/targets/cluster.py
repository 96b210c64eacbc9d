"""Whatever another relay of the cluster says or writes: counted or done, and never a channel to nobody."""

from __future__ import annotations

from typing import Any

import msgspec

from shadowmesh.stages import Stages
from shadowmesh_relay.cluster import Cluster
from shadowmesh_relay.cluster_wire import (
    Answered,
    Asked,
    Beat,
    Calls,
    Closed,
    Gone,
    Here,
    Presence,
    Reset,
    Shown,
    Signals,
    entry_key,
)
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.rendezvous import Rendezvous
from shadowmesh_relay.steering import Steering
from shadowmesh_relay.testing import MemoryForwarder

COVERS = ("shadowmesh_relay.cluster", "shadowmesh_relay.cluster_wire", "shadowmesh_relay.remotes")
NODE, OTHER, RELAY = bytes(32), bytes(31) + b"\x80", b"r" * 16
HERE = Presence(b"instance", 1, b"n" * 32, b"mark-of-")
SEEDS = [
    msgspec.msgpack.encode(one)
    for one in (
        Beat(RELAY, NODE, "relay2", "192.0.2.2", 4433),
        Signals(RELAY, [Here(NODE, OTHER, HERE, True), Gone(NODE, OTHER), Asked(NODE, OTHER), Reset()]),
        Signals(RELAY, [Calls(NODE, OTHER, HERE, b"calledid", True), Closed(b"calledid")]),
        Signals(RELAY, [Answered(b"calledid", b"sendhere", "no"), Shown(NODE, OTHER, b"shown")]),
        HERE,
    )
]


def no_random(_: int) -> bytes:
    """Nobody may get as far as to be given an id."""
    raise AssertionError("a channel to nobody")


def told(*_: Any) -> None:
    """Nor is there anybody who could be told anything."""
    raise AssertionError("nobody is here")


TABLES = MemoryForwarder()
CLUSTER = Cluster("fuzz", Beat(b"o" * 16, NODE, "relay1", "192.0.2.1", 4433), 0.0, lambda: 0.0)
CLUSTER.serve({}, Rendezvous({}, TABLES, Steering(1, no_random), told, Limits(), Stages()), TABLES)
CLUSTER.handle_connected(0.0)


def target(data: bytes) -> None:
    """Into both entrances; the relay lives all the while."""
    CLUSTER.handle_message_untrusted(SEEDS[0], 1.0)
    CLUSTER.handle_message_untrusted(data, 1.0)
    CLUSTER.handle_entry_untrusted(entry_key(OTHER, RELAY), data, 1.0)
    CLUSTER.handle_entry_untrusted(data.decode("latin-1"), SEEDS[-1], 1.0)
    CLUSTER.handle_timer(1.0)
    CLUSTER.poll()
    CLUSTER.poll_events()
    assert not TABLES.legs
    assert not TABLES.channels

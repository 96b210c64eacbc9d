"""What a relay tells of one client."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shadowmesh.units import Address
from shadowmesh_relay.clients import Client
from shadowmesh_relay.report import Reporter

ORIGIN = Address("203.0.113.7", 5000)


@pytest.mark.parametrize(
    ("source", "shown"),
    [(ORIGIN, "203.0.113.7:5000"), (Address("127.0.0.1", 40000), "203.0.113.7:5000 over TCP")],
)
def test_a_client_is_shown_where_it_is_and_not_where_its_tunnel_ends(source: Address, shown: str) -> None:
    forwarder = SimpleNamespace(client_counters=lambda _: Counter(last_bind=0))
    core = SimpleNamespace(channels_of=lambda _: 0)
    reporter = Reporter(*cast("Any", (None, bytes(32), core, forwarder, None)))
    client = Client(1, bytes(32), b"", cast("Any", None), source, ORIGIN, 0.0, 0.0, 1)
    assert reporter._client(client, 1.0).address == shown

"""The NAT matrix: direct wherever theory allows it without guessing ports, else the relay, and it says so."""

from __future__ import annotations

import pytest

from shadowmesh.testing.places import Places
from tests.protocol.nat_matrix import (
    DIRECT,
    DOCUMENT,
    PAIRS,
    SHARED,
    Access,
    Shared,
    document,
    expected,
    punched,
    run_pair,
    run_shared,
)


def name(pair: tuple[Access, Access]) -> str:
    return f"{pair[0].name} and {pair[1].name}"


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_theory_is_what_ideal_stations_reach(pair: tuple[Access, Access]) -> None:
    places = Places()
    relay = places.server("relay")
    hosts = [access.place(places, f"node{number}", relay) for number, access in enumerate(pair)]
    assert punched(places, relay, (hosts[0], hosts[1])) == (expected(*pair) == DIRECT)


@pytest.mark.parametrize("shared", SHARED, ids=lambda shared: shared.name)
def test_theory_of_shared_devices_too(shared: Shared) -> None:
    places = Places()
    relay = places.server("relay")
    assert punched(places, relay, shared.build(places)) == (shared.expected == DIRECT)


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_pair_ends_up_on_the_best_path_that_theory_allows(pair: tuple[Access, Access]) -> None:
    assert run_pair(*pair).path == expected(*pair)


@pytest.mark.parametrize("shared", SHARED, ids=lambda shared: shared.name)
def test_nodes_that_share_a_device(shared: Shared) -> None:
    assert run_shared(shared).path == shared.expected


@pytest.mark.timeout(120)
def test_the_committed_tables_are_those_of_this_run() -> None:
    assert document() == DOCUMENT.read_text(), "python -m tests.protocol.nat_matrix --write"

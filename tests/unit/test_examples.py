"""Every example in configs/ is taken by its program, without a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowmesh.config import doubts, load_client_config
from shadowmesh.overlay.firewall import firewall_of
from shadowmesh_relay.config import load_relay_config

CONFIGS = Path(__file__).parents[2] / "configs"
RELAYS = ["cloud-relay.yaml", "relay.yaml"]
CLIENTS = ["bad-network.yaml", "client-full.yaml", "client.yaml", "home-lab.yaml", "two-sites.yaml"]
OF_OTHERS = ["alerts.yaml"]
"""What Prometheus reads."""


def test_every_example_is_known() -> None:
    assert sorted(path.name for path in CONFIGS.glob("*.yaml")) == sorted([*RELAYS, *CLIENTS, *OF_OTHERS])


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_takes_it(name: str) -> None:
    config = load_client_config(CONFIGS / name)
    firewall_of(config)
    assert list(doubts(config, config.node.name)) == []


@pytest.mark.parametrize("name", RELAYS)
def test_a_relay_takes_it(name: str) -> None:
    assert load_relay_config(CONFIGS / name).relay.name


@pytest.mark.parametrize("name", [*RELAYS, *CLIENTS])
def test_it_says_how_to_check_it(name: str) -> None:
    verb = "shadowmesh-relay serve" if name in RELAYS else "shadowmesh-client up"
    head = (CONFIGS / name).read_text().partition("\n\n")[0]
    program_and_file = f"{verb} -c {name} --check"
    assert program_and_file in head or name == "client-full.yaml"

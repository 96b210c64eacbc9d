"""An underlay without any IPv4: relay, sessions and frames over IPv6 alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root

LAB = {"ipv4": False}


def test_overlay_works(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    alice.host.ping(bob.ipv4)
    bob.host.ping(alice.ipv6)


def test_full_size_frames_fit_the_larger_headers(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    size = alice.status()["node"]["mtu"] - 28
    alice.host.ping(bob.ipv4)
    alice.host.run(["ping", "-n", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(size), bob.ipv4])


def test_status_names_ipv6_addresses(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    assert "fd99::" in alice.relay_status()["address"]
    observed = wait_until(lambda: alice.relay_status()["observed_address"], 5.0, "the observed address")
    assert "fd99::" in observed

"""Rekeys over real devices: a stream of echo requests across several of them loses and doubles none."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from bench import rekey

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root

REKEY_SECONDS = 2


def test_frames_cross_rekeys(mesh: Mesh) -> None:
    mesh.relay()
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    for client in (alice, bob):
        assert client.config is not None
        client.config["session"] = {"rekey_seconds": REKEY_SECONDS}
    mesh.start()
    alice.host.ping(bob.ipv4)
    before = alice.peer("bob")["epoch"]
    done = alice.host.run(["ping", "-n", "-q", "-c", "5000", "-i", "0.002", "-W", "2", bob.ipv4])
    assert " 0% packet loss" in done.stdout
    assert "duplicates" not in done.stdout
    entries = alice.peer("bob"), bob.peer("alice")
    assert all(entry["epoch"] >= before + 3 for entry in entries)
    assert all(entry["epoch_age"] < 2 * REKEY_SECONDS for entry in entries)
    assert all(entry["last_handshake"] > 9 for entry in entries), "a new session took its place"


def test_a_stream_crosses_rekeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark itself, three rekeys long."""
    monkeypatch.setattr(rekey, "CONTROL", 2.0)
    _, runs = rekey.measure(Namespace(rate=2000, size=1000, rekeys=3))
    assert (runs["rekeys"].switch or 0) >= 3
    for run in runs.values():
        assert (run.result.lost, run.result.doubled) == (0, 0), run

"""`make bench-micro`: it runs, and its loops do the work that they claim to measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.handshake import handshake, primitives
from shadowmesh._ext.microbench import Lookup, Packets, Task, window
from shadowmesh.crypto.identity import Identity

ROOT = Path(__file__).resolve().parents[2]


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "big") for value in values)


def test_it_runs_and_every_figure_is_there() -> None:
    # A process of its own: a library that was taken stays.
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "micro.py"), "--smoke", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=15,
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "shadowmesh.bench.micro/1"
    libraries = {row["library"] for row in document["figures"] if row["group"] in ("seal", "open")}
    assert len(libraries) == (2 if document["aead_library"] else 1)
    for group, count in (
        ("seal", 4),
        ("open", 4),
        ("masks", 3),
        ("window", 3),
        ("table", 6),
        ("firewall", 4),
    ):
        rows = [row for row in document["figures"] if row["group"] == group]
        assert len(rows) == count * (len(libraries) if group in ("seal", "open") else 1)
        assert all(row["ns"] > 0 for row in rows)
        assert all("ratio" in row for row in rows) == (group in ("seal", "open", "masks"))
    assert document["handshake"]["ratio"] > 1
    assert 0 < document["memory"]["engine_bytes_per_idle_peer"] < 50_000


def test_a_library_that_is_none_is_refused() -> None:
    command = [sys.executable, str(ROOT / "bench" / "micro.py"), "--smoke", "--aead-library", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    assert done.returncode == 1
    assert done.stderr.startswith("micro: ")


@pytest.mark.parametrize("task", list(Task))
def test_loops_grow_with_their_batches(task: Task) -> None:
    packets = Packets(os.urandom(76), 1400, 64)
    # 1 against 100 batches: nothing that a busy machine does turns that round for the best of five.
    one, many = (min(packets.run(task, batches) for _ in range(5)) for batches in (1, 100))
    assert many > 5 * one


@pytest.mark.parametrize(
    "arguments", [(bytes(75), 64, 1), (bytes(76), 0, 1), (bytes(76), 64, 0), (bytes(76), 64, 65)]
)
def test_packets_refuse_what_has_no_meaning(arguments: tuple[bytes, int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Packets(*arguments)


def test_window_and_look_up_count_what_they_found() -> None:
    assert window(numbers(1, 2, 2, 3, 1))[1] == 3
    table = Lookup(numbers(5, 6))
    assert table.run(numbers(5, 6, 7, 5))[1] == 3
    with pytest.raises(ValueError, match="twice"):
        Lookup(numbers(5, 5))
    for call in (window, table.run):
        with pytest.raises(ValueError, match="empty"):
            call(b"")


def test_a_handshake_is_counted_on_both_sides() -> None:
    run = handshake(Identity.generate("alice"), Identity.generate("bob"))
    assert run.initiator_cpu > 0 < run.responder_cpu
    # Two ML-DSA-87 certificates and signatures of 10 kB cross, one each way.
    assert run.bytes_to_responder > 10_000 < run.bytes_to_initiator
    assert run.datagrams > 15
    assert primitives() > 0

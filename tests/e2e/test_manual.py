"""Ten tasks of a new user, done by the commands that stand in the manual; each must have come about."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from bench.tasks import TASKS, prepared
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.manual import ROOT, Reader, pattern, steps
from shadowmesh.testing.process import LabError, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

BOB = "10.77.0.2"
LIMIT = 300
"""Seconds: some sixty commands are run; ten seconds where nothing else runs."""


@pytest.fixture
def reader(lab: Lab) -> Iterator[Reader]:
    found = prepared(lab)
    yield found
    found.close()


def status(reader: Reader, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(reader.machine(name).run("shadowmesh-client status --json").stdout)
    return document


def opens(reader: Reader, port: int) -> bool:
    """Whether alice gets a TCP connection to a port of bob's on which he listens."""
    bob = reader.machine("bob").host.socket(socket.AF_INET, socket.SOCK_STREAM)
    alice = reader.machine("alice").host.socket(socket.AF_INET, socket.SOCK_STREAM)
    with bob, alice:
        bob.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bob.bind((BOB, port))
        bob.listen()
        alice.settimeout(1.0)
        try:
            alice.connect((BOB, port))
        except TimeoutError:
            return False
        return True


@pytest.mark.timeout(LIMIT)
def test_ten_tasks_from_the_manual_alone(reader: Reader) -> None:
    def done(task: str) -> None:
        reader.follow(TASKS[task], task)

    alice, bob, relay, new = (reader.machine(name) for name in ("alice", "bob", "relay", "new"))
    done("install")
    done("first network")
    assert status(reader, "alice")["relays"][0]["state"] == "connected"
    assert alice.run("stat -c %a /var/lib/shadowmesh-authority/authority.pem").stdout == "600\n"

    done("invite")
    assert "bob   open" in alice.run("shadowmesh-client invite list").stdout
    done("join")
    assert status(reader, "bob")["node"]["network"]["member"] == "bob"
    alice.run(f"ping -c 1 -W 5 {BOB}")
    done("why is it slow")

    assert opens(reader, 22)
    assert opens(reader, 8080)
    done("restrict a port")
    assert opens(reader, 22)
    assert not opens(reader, 8080)

    done("move a relay")
    assert not relay.host.interfaces() - {"lo", "under0"}
    assert relay.run("shadowmesh-relay status", check=False).returncode == 4
    assert "relay1" in new.run("shadowmesh-relay status").stdout
    done("read a metric")
    done("report a bug")
    assert "status.json" in alice.run("tar -tzf report.tar.gz").stdout

    done("revoke")
    wait_until(
        lambda: alice.run(f"ping -c 1 -W 1 {BOB}", check=False).returncode, 10.0, lambda: "bob is still there"
    )
    assert "bob is revoked" in bob.run("shadowmesh-client status").stdout
    print(json.dumps(reader.seconds))
    assert set(reader.seconds) == set(TASKS)


def test_what_the_manual_shows_is_held_against_what_is_printed(lab: Lab, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    mark = "<!-- task: one -->\n<!-- run: alice -->\n```sh\necho 'bob is 7 s old'\n```\n"
    mark += "\n<!-- shows -->\n```text\n"
    exact = mark.replace("<!-- shows", "<!-- shows: exact")
    reader = Reader(lab, slow=True)
    try:
        page.write_text(mark + "bob is  12.5 s  old\n```\n")
        reader.follow(page, "one")
        for wrong in (mark + "bob is new\n```\n", exact + "bob is 8 s old\n```\n"):
            page.write_text(wrong)
            with pytest.raises(LabError, match="not shown:\nbob is"):
                reader.follow(page, "one")
        page.write_text(mark.replace("echo", "false") + "```\n")
        with pytest.raises(LabError, match="exit code 1"):
            reader.follow(page, "one")
        with pytest.raises(LabError, match="nothing is marked"):
            reader.follow(page, "two")
    finally:
        reader.close()


def test_marks_are_all_understood() -> None:
    tasks = {step.task for page in set(TASKS.values()) for step in steps(page)}
    assert tasks == set(TASKS)
    assert pattern("7g2ouyxa3t  10.77.0.2 for 89 d") == "NODE N.N for N d"
    assert all(page.is_relative_to(ROOT) for page in TASKS.values())

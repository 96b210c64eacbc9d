"""The local API of a real client as time passes: samples, events, the log, who may read; `logs`, `top`."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pty
import re
import select
import stat
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.api.client import ApiClient
from shadowmesh.api.live import LogLine, Sample
from shadowmesh.api.schema import Status
from shadowmesh.testing.mesh import Mesh, command_path
from shadowmesh.testing.process import Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

PATIENCE = 20.0
GROUP = 65534
"""Nobody's, which every system has."""


@pytest.fixture(scope="module")
def live(module_lab: Lab) -> Mesh:
    """alice, whose socket is open to a group, and bob."""
    mesh = Mesh(module_lab)
    mesh.relay()
    alice = mesh.client("alice")
    mesh.client("bob")
    mesh.configure()
    alice.config["node"]["socket_group"] = grp.getgrgid(GROUP).gr_name
    return mesh.start()


def client_of(node: ClientNode) -> ApiClient:
    return ApiClient(node.socket_path)


@contextlib.contextmanager
def pinging(source: ClientNode, target: ClientNode) -> Iterator[None]:
    process = source.host.spawn(["ping", "-q", "-i", "0.02", "-s", "1000", target.ipv4], "/dev/null")
    try:
        yield
    finally:
        process.kill()


def test_samples_are_what_the_counters_say(live: Mesh) -> None:
    alice, bob = live.clients["alice"], live.clients["bob"]
    client = client_of(alice)
    before = client.status().peers[0].tx_bytes
    assert client.samples().at == []
    with pinging(alice, bob):
        wait_until(lambda: sum(client.samples(3).tx_bytes) > 50_000, PATIENCE, "traffic is in the samples")
    wait_until(lambda: client.samples(2).tx_bytes == [0, 0], PATIENCE, "it is quiet")
    shown, after = client.samples(), client.status().peers[0].tx_bytes
    (peer,) = shown.peers
    assert peer.name == "bob"
    assert sum(filter(None, peer.tx_bytes)) == sum(shown.tx_bytes)
    assert 0 <= after - before - sum(shown.tx_bytes) <= 3000, "but for what came before the first reading"
    assert all(0.5 < second - first < 3 for first, second in zip(shown.at, shown.at[1:], strict=False))
    assert any(rtt is not None and rtt < 1000 for rtt in peer.rtt_ms)


def test_events_tell_what_changes_and_logs_follow(live: Mesh) -> None:
    alice, bob = live.clients["alice"], live.clients["bob"]
    log = alice.directory / "followed"
    command = [command_path("shadowmesh-client"), "logs", "-f", "-n", "1", "--socket", str(alice.socket_path)]
    following = Process(command, log)
    events = client_of(alice).events()
    try:
        following.wait_for(lambda: log.exists() and log.read_text(), PATIENCE, "the line of before")
        assert isinstance(next(events), Status)
        bob.stop()
        seen: set[type] = set()
        for event in events:
            if isinstance(event, Status) and event.peers[0].state == "connected":
                continue  # of before
            seen.add(type(event))
            if seen == {Status, Sample, LogLine}:
                break
        following.wait_for(lambda: "bob: disconnected" in log.read_text(), PATIENCE, "the line about bob")
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.+-]+ INFO ", log.read_text())
    finally:
        events.close()  # type: ignore[attr-defined]
        following.terminate()
        bob.start()
        alice.wait_peers("bob")


def test_the_log_of_the_api_is_the_log(live: Mesh) -> None:
    alice = live.clients["alice"]
    lines = client_of(alice).log().lines
    assert "is up on" in " ".join(line.text for line in lines)
    written = alice.output()
    assert [line.text for line in lines if line.text.splitlines()[0] not in written] == []
    shown = alice.verb("logs", "-n", "1000").stdout
    assert shown.count("\n") >= len(lines)
    secrets = re.findall(
        r"^[A-Za-z0-9+/=]{40,}$", (alice.state_dir / "identity.pem").read_text(), re.MULTILINE
    )
    assert secrets
    assert [secret for secret in secrets if secret in shown] == []


def test_the_socket_is_open_to_the_group_alone(live: Mesh) -> None:
    status = live.clients["alice"].socket_path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, GROUP)
    assert stat.S_IMODE(live.clients["bob"].socket_path.stat().st_mode) == 0o600


class Terminal:
    """A terminal in which a command runs."""

    def __init__(self, command: list[str], columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def read(self, wait: float = 0.1) -> str:
        """All that was written so far."""
        while select.select([self._master], [], [], wait)[0]:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the other end has closed
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
            wait = 0.0
        return self.seen

    def until(self, *texts: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.read() for text in texts):
            missing = [text for text in texts if text not in self.seen]
            assert time.monotonic() < deadline, f"{missing} in {self.seen[-3000:]!r}"

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_top_shows_a_real_client(live: Mesh) -> None:
    alice, bob = live.clients["alice"], live.clients["bob"]
    command = [command_path("shadowmesh-client"), "top", "--socket", str(alice.socket_path)]
    terminal = Terminal(command, 160, 40)
    try:
        terminal.until("alice", "bob", "connected", "1 of 1 peers, 1 of 1 relays", "TRAFFIC", "is up on")
        with pinging(alice, bob):
            terminal.until("kbit/s")
        terminal.press("n")
        terminal.until("PEER ▼")
        terminal.press("q")
        wait_until(lambda: terminal.process.poll() is not None, PATIENCE, "it ends")
        assert terminal.process.returncode == 0
        assert "\x1b[?1049l" in terminal.read(), "the terminal is given back"
    finally:
        terminal.close()

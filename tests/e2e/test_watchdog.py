"""A supervisor with a watchdog: relay and client speak while they work, not when any part of them hangs."""

from __future__ import annotations

import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh, command_path, wait_gone
from shadowmesh.testing.process import wait_until
from tests.e2e.hanging import hung, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import Node

pytestmark = pytest.mark.root

LIMIT = 0.4
"""Seconds: what `WatchdogSec=` would be; each half of it the program looks at itself."""


class Supervisor:
    """What a service manager does for one program, apart from starting it again."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(node.directory / "notify"))
        self.socket.settimeout(20.0)

    def start(self, verb: str) -> None:
        self.node.write_config()
        environment = {
            "NOTIFY_SOCKET": str(self.node.directory / "notify"),
            "WATCHDOG_USEC": str(int(LIMIT * 1e6)),
        }
        command = [command_path(self.node.program), verb, "-c", str(self.node.config_path)]
        log = str(self.node.directory / "log")
        self.node.process = self.node.host.spawn(command, log, environment)
        while not self.socket.recv(1000).startswith(b"READY=1\n"):
            pass

    def hears(self, times: int) -> None:
        """Wait until the program has said so often that all is well."""
        while times:
            times -= self.socket.recv(1000) == b"WATCHDOG=1"

    def waits_in_vain(self) -> bool:
        """Whether the program lets a whole limit pass. What it said before is forgotten."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1000):
                pass
        except BlockingIOError:
            pass
        end = time.monotonic() + LIMIT
        try:
            while (left := end - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if self.socket.recv(1000) == b"WATCHDOG=1":
                    return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20.0)
        return True


@pytest.fixture(scope="module")
def watched(module_lab: Lab) -> Iterator[dict[str, Supervisor]]:
    """A relay and alice under supervisors, with bob beside; tests must leave them with a session."""
    mesh = Mesh(module_lab)
    relay, alice, bob = mesh.relay(), mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    found = {"relay": Supervisor(relay), "alice": Supervisor(alice)}
    found["relay"].start("serve")
    found["alice"].start("up")
    bob.start()
    alice.wait_peers("bob")
    yield found
    for one in found.values():
        one.socket.close()


def test_both_say_again_and_again_that_all_is_well(watched: dict[str, Supervisor]) -> None:
    for one in watched.values():
        one.hears(3)


@pytest.mark.parametrize("name", ["alice", "relay"])
def test_an_event_loop_that_hangs_is_silent(name: str, watched: dict[str, Supervisor]) -> None:
    one = watched[name]
    with hung(one.node.running_process.pid):
        wait_until(one.waits_in_vain, 20.0, "silence")
    one.hears(1)


@pytest.mark.parametrize(("name", "thread"), [("alice", "sm-inbound"), ("relay", "sm-forward")])
def test_a_thread_that_hangs_is_noticed_by_the_loop(
    name: str, thread: str, watched: dict[str, Supervisor]
) -> None:
    one = watched[name]
    alice, bob = watched["alice"].node, watched["alice"].node.mesh.clients["bob"]
    before = len(one.node.output())
    with hung(threads(one.node.running_process.pid, thread)[0]):
        # Something to do for the thread: frames from alice's TAP go through the relay.
        alice.host.run(["ping", "-c", "1", "-W", "0.2", bob.ipv4], check=False)
        wait_until(one.waits_in_vain, 20.0, "silence")
        told = one.node.output()[before:]
        assert re.search(r"ERROR the data plane hangs \(part \d", told)
    one.hears(1)
    alice.host.ping(bob.ipv4)


def test_whoever_is_silent_is_ended_with_the_stacks_in_the_log(watched: dict[str, Supervisor]) -> None:
    """As systemd does it: SIGABRT, then a new start."""
    one = watched["alice"]
    alice = one.node.mesh.clients["alice"]
    process = alice.running_process
    with hung(process.pid):
        wait_until(one.waits_in_vain, 20.0, "silence")
        process.send(signal.SIGABRT)
    assert process.wait(10.0) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in process.output()
    assert re.search(r'File ".*lifecycle\.py", line \d+ in _run', process.output())
    alice.socket_path.unlink()
    wait_gone(alice)
    one.start("up")
    alice.wait_peers("bob")
    one.hears(1)

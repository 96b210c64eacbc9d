"""What a machine does to its client or relay: disk, device, names, descriptors and memory give out."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until

from .test_recovery import RESUME_LIMIT, Pinging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode, Node

pytestmark = pytest.mark.root

RELAY_NAME = "relay.mesh.test"


@pytest.fixture(scope="module")
def pair(module_lab: Lab) -> Mesh:
    """alice, who knows her relay by name, and bob; tests must leave them with a session."""
    mesh = Mesh(module_lab)
    relay, alice = mesh.relay(), mesh.client("alice")
    mesh.client("bob")
    mesh.configure()
    alice.host.write_hosts({RELAY_NAME: relay.host.address})
    alice.config["relays"][0]["address"] = f"{RELAY_NAME}:4433"
    return mesh.start()


@contextlib.contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[None]:
    """A mount at `path` while the body runs, for processes that are started meanwhile."""
    subprocess.run(["mount", *arguments, str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def on_full_disk(node: Node) -> Iterator[Path]:
    """The state of a stopped node on a disk without a free byte; yields the file that fills it."""
    files = [path for path in node.state_dir.iterdir() if path.is_file()]
    kept = {path: (path.read_bytes(), path.stat().st_mode & 0o777) for path in files}
    with mounted(node.state_dir, "-t", "tmpfs", "-o", "size=96k,mode=0700", "none"):
        for path, (data, mode) in kept.items():
            path.write_bytes(data)
            path.chmod(mode)
        filler = node.state_dir / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield filler


def connected(alice: ClientNode, bob: ClientNode) -> None:
    alice.wait_peers("bob")
    bob.wait_peers("alice")
    alice.host.ping(bob.ipv4)


def test_disk_full_then_read_only(pair: Mesh) -> None:
    """It runs all the same and says what it can't keep; the identity is what it was."""
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    key = (alice.state_dir / "identity.pem").read_bytes()
    before = len(alice.output())
    alice.stop()
    with on_full_disk(alice) as filler:
        alice.start()
        connected(alice, bob)
        wait_until(lambda: "can't keep tickets" in alice.output()[before:], 5.0, "a word on it")
        filler.unlink()
        assert alice.stop() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(alice.state_dir)], check=True)
        alice.start()
        connected(alice, bob)
        wait_until(lambda: "Read-only file system" in alice.output()[before:], 5.0, "a word on it")
        second = alice.run(["up", "-c", str(alice.config_path)], check=False)
        assert second.returncode == 5, "the lock holds, though nothing can be written"
        assert (alice.state_dir / "identity.pem").read_bytes() == key
        assert alice.stop() == 0
    assert "Traceback" not in alice.output()[before:]
    alice.start()
    connected(alice, bob)


def test_interface_removed_from_outside(pair: Mesh) -> None:
    """The client ends with the reason, and a service manager starts it again."""
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    alice.host.ip_batch([f"link del {alice.interface}"])
    assert alice.running_process.wait(10.0) == 1
    assert f"the interface {alice.interface} was removed" in alice.running_process.output()
    assert alice.remains() == []
    alice.start()
    connected(alice, bob)


def test_interface_down_and_up(pair: Mesh) -> None:
    """Addresses of both families are there again, and the session never ended."""
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    began = alice.peer("bob")["last_handshake"]
    for _ in range(3):
        alice.host.ip_batch([f"link set {alice.interface} down", f"link set {alice.interface} up"])
    bob.host.ping(alice.ipv4)
    bob.host.ping(alice.ipv6)
    assert alice.peer("bob")["last_handshake"] > began


def test_underlay_flaps(pair: Mesh) -> None:
    """Ten times down and up in five seconds."""
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    port = f"port{alice.host.number}"
    pinging = Pinging(alice.host, bob.ipv4)
    used = alice.running_process.cpu_seconds()
    try:
        for _ in range(10):
            pair.lab.switch.ip_batch([f"link set {port} down"])
            time.sleep(0.25)
            pair.lab.switch.ip_batch([f"link set {port} up"])
            time.sleep(0.25)
        back = time.time()
        assert pinging.wait_reply(back, 3 * RESUME_LIMIT) - back < RESUME_LIMIT
    finally:
        pinging.stop()
    assert alice.running_process.cpu_seconds() - used < 3.0
    assert "Traceback" not in alice.output()


def test_names_are_gone(pair: Mesh) -> None:
    """The resolver dies under way: the relay is found where it was, and the status says what is wrong."""
    alice, bob, relay = pair.clients["alice"], pair.clients["bob"], pair.relays["relay"]
    alice.host.write_hosts({})
    try:
        alice.host.ping(bob.ipv4)
        relay.stop()
        wait_until(lambda: "can't resolve" in str(alice.relay_status()["last_error"]), 20.0, "the reason")
        relay.start()
        connected(alice, bob)
    finally:
        alice.host.write_hosts({RELAY_NAME: relay.host.address})


def test_names_lie(pair: Mesh) -> None:
    """The resolver tells where somebody else's relay is: the NodeID refuses that, and the truth is enough."""
    alice, bob, relay = pair.clients["alice"], pair.clients["bob"], pair.relays["relay"]
    liar = pair.relay("liar")
    pair.configure()
    liar.start()
    alice.host.write_hosts({RELAY_NAME: liar.host.address})
    try:
        relay.stop()
        wait_until(lambda: "that you pinned" in str(alice.relay_status()["last_error"]), 20.0, "the reason")
        relay.start()
    finally:
        alice.host.write_hosts({RELAY_NAME: relay.host.address})
        liar.stop()
    connected(alice, bob)


def limit(node: Node, what: str, amount: int | str) -> None:
    """Only the soft limit: to raise the hard one again would take a right that a container has not."""
    subprocess.run(["prlimit", f"--pid={node.running_process.pid}", f"--{what}={amount}:"], check=True)


def descriptors(node: Node) -> int:
    return len(list(Path(f"/proc/{node.running_process.pid}/fd").iterdir()))


def test_descriptors_give_out(pair: Mesh) -> None:
    """All are taken by callers of the local APIs: frames pass, nothing spins, and both answer afterwards."""
    alice, bob, relay = pair.clients["alice"], pair.clients["bob"], pair.relays["relay"]
    sockets: dict[Node, str] = {alice: str(alice.socket_path), relay: str(relay.state_dir / "relay.sock")}
    before = {node: (len(node.output()), descriptors(node)) for node in sockets}
    with contextlib.ExitStack() as stack:
        for node, path in sockets.items():
            limit(node, "nofile", descriptors(node) + 4)
            for _ in range(40):
                caller = stack.enter_context(socket.socket(socket.AF_UNIX))
                caller.setblocking(False)
                caller.connect_ex(path)
        used = {node: node.running_process.cpu_seconds() for node in sockets}
        bob.restart()
        bob.wait_peers("alice")
        alice.host.ping(bob.ipv4)
        time.sleep(2.0)  # beyond a sweep of the relay
        for node, seconds in used.items():
            assert node.running_process.cpu_seconds() - seconds < 1.5, node.name
    for node, path in sockets.items():
        limit(node, "nofile", 1024)
        ask = ["status", "--socket", path]
        wait_until(lambda n=node, a=ask: n.run(a, check=False).returncode == 0, 10.0, "the API")  # type: ignore[misc]
        length, count = before[node]
        wait_until(lambda n=node, c=count: descriptors(n) <= c + 1, 10.0, "its descriptors back")  # type: ignore[misc]
        assert "internal error" not in node.output()[length:]
    connected(alice, bob)


def test_memory_gives_out(pair: Mesh) -> None:
    """It may not map a page more: frames pass, what it can't do it tries again, and it recovers."""
    alice, bob, relay = pair.clients["alice"], pair.clients["bob"], pair.relays["relay"]
    status = Path(f"/proc/{alice.running_process.pid}/status").read_text()
    limit(alice, "as", int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) * 1024)
    alice.host.ping(bob.ipv4)
    alice.verb("status", check=False)
    relay.restart()
    bob.wait_relay()
    assert alice.running_process.running
    limit(alice, "as", "unlimited")
    connected(alice, bob)

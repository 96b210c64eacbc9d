"""The firewall over real devices: default deny, replies, and new rules under a running connection."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.traffic import send_tcp, send_udp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

OPEN, CLOSED = 5022, 5023
REFUSED = 3
DENIED = 10


def rules(*ports: int) -> dict[str, Any]:
    allow = {"action": "allow", "direction": "in", "groups": "admin", "proto": "tcp", "dst_port": list(ports)}
    return {"inbound": "deny", "rules": [allow] if ports else []}


@pytest.fixture(scope="module")
def mesh(module_lab: Lab) -> Mesh:
    """alice lets nothing in but TCP to one port from bob; bob has no firewall."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name)
    alice = mesh.configure().clients["alice"]
    alice.config["peers"][0]["groups"] = ["admin"]
    alice.config["firewall"] = rules(OPEN)
    return mesh.start()


@pytest.fixture
def alice(mesh: Mesh) -> Iterator[ClientNode]:
    """alice, with the rules of the module again afterwards."""
    client = mesh.clients["alice"]
    yield client
    client.config["firewall"] = rules(OPEN)
    client.write_config()
    client.verb("reload")


@pytest.fixture
def bob(mesh: Mesh) -> ClientNode:
    return mesh.clients["bob"]


@contextlib.contextmanager
def listening(client: ClientNode, port: int) -> Iterator[socket.socket]:
    with client.host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((client.ipv4, port))
        listener.listen(4)
        listener.settimeout(5.0)
        yield listener


@contextlib.contextmanager
def connection(near: ClientNode, far: ClientNode, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """TCP from `near` to `far`; TimeoutError within 1.5 s if it does not come about."""
    with listening(far, port) as listener, near.host.socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.settimeout(1.5)
        sender.connect((far.ipv4, port))
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(1.5)
            yield sender, receiver


def exchange(one: socket.socket, other: socket.socket, text: bytes) -> None:
    """Over the connection and back."""
    one.sendall(text)
    assert other.recv(100) == text
    other.sendall(text)
    assert one.recv(100) == text


def test_only_what_a_rule_allows_comes_in(alice: ClientNode, bob: ClientNode) -> None:
    with connection(bob, alice, OPEN) as (near, far):
        exchange(near, far, b"allowed")
    before = alice.status()["drops"]["firewall_in"]
    with pytest.raises(TimeoutError), connection(bob, alice, CLOSED):
        pass
    status = alice.status()
    assert status["drops"]["firewall_in"] > before
    assert status["firewall"]["rules"][0]["decided"] >= 3
    assert status["firewall"]["inbound_default"] >= 2
    done = alice.verb("firewall", "counters")
    assert "allow what comes from group admin by TCP to port 5022" in done.stdout
    with pytest.raises(LabError):
        bob.host.ping(alice.ipv4, timeout=1.5)


def test_replies_to_our_own_connections_come_back(alice: ClientNode, bob: ClientNode) -> None:
    for address in (bob.ipv4, bob.ipv6):
        alice.host.ping(address)
        send_tcp(alice.host, bob.host, address, b"x" * 300_000)
        send_udp(alice.host, bob.host, address, b"y" * 1200)
    assert alice.status()["firewall"]["default_replies"] > 0


def test_large_datagrams_are_answered_in_fragments(alice: ClientNode, bob: ClientNode) -> None:
    """A reply of several IP fragments: the later ones have no ports."""
    with (
        alice.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
        bob.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
    ):
        near.settimeout(5.0)
        far.settimeout(5.0)
        far.bind((bob.ipv4, CLOSED))
        near.sendto(b"ask", (bob.ipv4, CLOSED))
        _, source = far.recvfrom(100)
        far.sendto(b"z" * 5000, source)
        assert near.recv(6000) == b"z" * 5000


def test_a_reload_under_a_running_connection(alice: ClientNode, bob: ClientNode) -> None:
    process = alice.running_process.pid
    epoch = alice.peer("bob")["epoch"]
    with connection(bob, alice, OPEN) as (near, far):
        exchange(near, far, b"before")
        alice.config["firewall"] = rules(OPEN, CLOSED)
        alice.write_config()
        assert alice.verb("reload").stdout == "changed: firewall\n"
        exchange(near, far, b"after")
        with connection(bob, alice, CLOSED) as (other, end):
            exchange(other, end, b"the new rule")

        alice.config["firewall"] = rules(0)
        alice.config["firewall"]["inbound"] = "perhaps"
        alice.write_config()
        done = alice.verb("reload", check=False)
        assert done.returncode == REFUSED
        assert "firewall.inbound: 'perhaps' is neither allow nor deny" in done.stderr
        exchange(near, far, b"as before")

        alice.config["firewall"] = rules()
        alice.write_config()
        alice.running_process.send(signal.SIGHUP)
        wait_until(lambda: not alice.status()["firewall"]["rules"], 5.0, "the rules to go by SIGHUP")
        near.sendall(b"too late")
        with pytest.raises(TimeoutError):
            far.recv(100)
    assert alice.running_process.pid == process
    assert alice.peer("bob")["epoch"] >= epoch
    assert alice.peer("bob")["state"] == "connected"


def test_sighup_with_a_broken_file_tells_the_log(alice: ClientNode, bob: ClientNode) -> None:
    alice.config["firewall"] = {"inbound": "never"}
    alice.write_config()
    alice.running_process.send(signal.SIGHUP)
    alice.running_process.wait_for_line(r"ERROR nothing was changed: .*firewall\.inbound: 'never'", 5.0)
    with connection(bob, alice, OPEN) as (near, far):
        exchange(near, far, b"still")


def test_a_reload_names_what_needs_a_restart(alice: ClientNode) -> None:
    alice.config["listen"]["port"] = 4401
    alice.write_config()
    done = alice.verb("reload", "--json")
    alice.config["listen"]["port"] = 0
    assert json.loads(done.stdout)["restart"] == ["listen"]


def test_a_failing_test_of_the_file_stops_the_start(alice: ClientNode) -> None:
    test = {"expect": "allow", "direction": "in", "peer": "bob", "proto": "tcp", "dst_port": CLOSED}
    alice.config["firewall"] = {**rules(OPEN), "tests": [test]}
    alice.write_config()
    path = str(alice.config_path)
    for arguments in (["up", "-c", path], ["up", "--check", "-c", path]):
        done = alice.run(arguments, check=False)
        assert (done.returncode, "expected allow, but it is deny" in done.stderr) == (REFUSED, True)
    assert alice.verb("reload", check=False).returncode == REFUSED
    asked = ["firewall", "test", "-c", path, "--from", "bob", "--proto", "tcp", "--dst-port", str(CLOSED)]
    assert alice.run(asked, check=False).returncode == DENIED

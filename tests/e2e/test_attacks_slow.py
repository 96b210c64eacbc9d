"""Who begins and does not go on: handshakes stalled at each stage, half a TLS hello, half a request.

All of them at once, at a relay with UDP, TCP and metrics and at a client; others are served meanwhile, and
each of the slow ones is let go by a time limit of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.crypto.identity import Identity
from shadowmesh.session.link import HANDSHAKE_TIMEOUT, Link
from shadowmesh.session.machine import Opening
from shadowmesh.testing.mesh import RELAY_PORT, Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.web import HTTPS_PORT, block_udp, serve_tcp, use_tcp
from shadowmesh.units import LANES
from shadowmesh.web.server import REQUEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import RelayNode

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

METRICS_PORT = 9464
LIMIT = 6 * max(HANDSHAKE_TIMEOUT, REQUEST_TIMEOUT)
"""Seconds until who is slow has to be gone: its time and a busy machine's."""
STEP = 0.1
"""Seconds between two bytes of who sends one by one."""


class Stalled:
    """A handshake with the relay that is well-formed and does not go on beyond a stage."""

    def __init__(self, host: Host, relay: RelayNode, node: bytes, stage: str) -> None:
        self._stage, self._next_byte = stage, 0.0
        self._rest = b""
        self._written = 0
        self._socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((relay.host.ipv4, RELAY_PORT))
        self._socket.setblocking(False)
        random = secrets.token_bytes
        opening = Opening(nonce=random(32), instance=random(8), lanes=[random(8) for _ in range(LANES)])
        self.link = Link.initiate(Identity.generate("mallory"), node, opening, time.monotonic())
        self._write, self.link._write = self.link._write, self._hold  # type: ignore[method-assign]
        self.link._expires_at = None
        self._silent = False

    def _hold(self, data: bytes) -> None:
        """A message that is due: HELLO, then RESPONSE."""
        self._written += 1
        if self._stage == "HELLO byte by byte":
            self._rest += data
        elif self._stage == "no RESPONSE" and self._written == 1:
            self._write(data)

    def step(self) -> None:
        """Receive, and send what its stage allows."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self._socket.recv(2048):
                self._silent |= self._stage == "ClientHello" and data[0] & 0xF0 == 0xC0  # the answer to it
                if not self._silent:
                    self.link.handle_datagram(data, now)
        if self._rest and now >= self._next_byte and not self.link.ended:
            self._write(self._rest[:1])
            self._rest, self._next_byte = self._rest[1:], now + STEP
        self.link.handle_timer(now)
        for data in self.link.transmit(now):
            if not self._silent:
                with contextlib.suppress(ConnectionError):
                    self._socket.send(data)

    def close(self) -> None:
        self._socket.close()


STAGES = ("ClientHello", "no HELLO", "HELLO byte by byte", "no RESPONSE")


@pytest.fixture(scope="module")
def mesh(module_lab: object) -> Mesh:
    mesh = Mesh(module_lab)  # type: ignore[arg-type]
    relay = mesh.relay()
    relay.open = True
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    serve_tcp(relay)
    relay.config["metrics"] = f"127.0.0.1:{METRICS_PORT}"
    use_tcp(bob, relay.host)
    relay.start()
    alice.launch()
    block_udp(bob.host)
    alice.wait_relay()
    return mesh


def connected(host: Host, address: str | None, port: int) -> socket.socket:
    link = host.socket(socket.AF_INET, socket.SOCK_STREAM)
    link.connect((address, port))
    return link


def local(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(str(path))
    return link


def through_tls(link: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(link)


def gone(link: socket.socket) -> bool:
    """Whether the other end has let go."""
    link.setblocking(False)
    try:
        return link.recv(4096) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except (ConnectionError, ssl.SSLError):
        return True


def half_requests(mesh: Mesh, mallory: Host) -> dict[str, Callable[[], socket.socket]]:
    """How each connection is made, and the beginning of what would be said there."""
    relay, alice = mesh.relays["relay"], mesh.clients["alice"]
    head, body = (
        b"GET /v1/status HTTP/1.1\r\nHost:",
        b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    )

    def said(link: socket.socket, data: bytes) -> socket.socket:
        link.sendall(data)
        return link

    def tcp() -> socket.socket:
        return connected(mallory, relay.host.ipv4, HTTPS_PORT)

    def metrics() -> socket.socket:
        return connected(relay.host, "127.0.0.1", METRICS_PORT)

    own = relay.state_dir / "relay.sock"
    return {
        "nothing at 443": tcp,
        "half a TLS hello": lambda: said(tcp(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03half"),
        "half an HTTP head in TLS": lambda: said(through_tls(tcp()), b"GET /shadowmesh HTTP/1.1\r\nHo"),
        "nothing at the metrics": metrics,
        "half a request for metrics": lambda: said(metrics(), b"GET /metrics HTTP/1.1\r\nHost"),
        "half a head to the relay's API": lambda: said(local(own), head),
        "half a head to a client's API": lambda: said(local(alice.socket_path), head),
        "half a body to a client's API": lambda: said(local(alice.socket_path), body),
    }


def totals(relay: RelayNode) -> dict[str, Any]:
    command = ["status", "--socket", str(relay.state_dir / "relay.sock"), "--json"]
    found: dict[str, Any] = json.loads(relay.run(command).stdout)["totals"]
    return found


def test_the_slow_are_let_go_and_the_others_do_not_wait_for_them(mesh: Mesh) -> None:
    relay, alice, bob = mesh.relays["relay"], mesh.clients["alice"], mesh.clients["bob"]
    mallory = mesh.lab.host("mallory")
    node = base64.b32decode(relay.node_id.upper() + "====")
    with contextlib.ExitStack() as stack:
        stalled = {
            stage: stack.enter_context(contextlib.closing(Stalled(mallory, relay, node, stage)))
            for stage in STAGES
        }
        held = {name: stack.enter_context(make()) for name, make in half_requests(mesh, mallory).items()}

        def step() -> None:
            for one in stalled.values():
                one.step()

        def after_a_step(condition: Callable[[], bool]) -> bool:
            step()
            return condition()

        wait_until(
            lambda: after_a_step(lambda: all(one.link.heard for one in stalled.values())), 60.0, "answers"
        )
        bob.launch()  # by TCP, beside those who hold it
        wait_until(
            lambda: after_a_step(lambda: bob.answers() and bob.relay_status()["state"] == "connected"),
            60.0,
            "bob",
        )
        alice.wait_peers("bob")
        alice.host.ping(bob.ipv4)
        assert totals(relay)["handshakes_under_way"] <= len(STAGES)
        remaining = dict(held)

        def all_gone() -> bool:
            for name in [name for name, link in remaining.items() if gone(link)]:
                del remaining[name]
            return not remaining

        wait_until(lambda: after_a_step(all_gone), LIMIT, lambda: f"still held: {list(remaining)}")
        wait_until(
            lambda: after_a_step(lambda: totals(relay)["handshakes"]["failed"] == len(STAGES)),
            LIMIT,
            lambda: str(totals(relay)),
            interval=0.3,
        )
        assert totals(relay)["handshakes_under_way"] == 0
    alice.host.ping(bob.ipv4)
    assert "handshake took too long" in relay.output()
    assert "Traceback" not in alice.output() + relay.output()

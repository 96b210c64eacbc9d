"""What somebody on the underlay sees, and what they can do by sending: no plaintext, and no effect.

The capture runs from before the first packet of the first session, so that it holds every handshake.
"""

from __future__ import annotations

import base64
import secrets
import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from shadowmesh.testing.capture import CHANNEL_HEADER, Capture, SearchResult, read_datagrams, search
from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import MARKER_REPEATS, send_tcp, send_udp
from tests.e2e.frames import Port, barrier, mac_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from shadowmesh.testing.lab import Lab

pytestmark = pytest.mark.root

ALPN = b"shadowmesh/1"
CLIENT_PORT = 41_000
FRAME_MARKER = b"frame-marker-" + secrets.token_hex(12).encode()
FRAMES = 150
"""More frames than a session has control packets, so that the capture shows which ids carry frames."""

MIN_FRAME_PACKET = CHANNEL_HEADER + 29
"""Bytes: channel header and an empty frame packet."""

ID_PREFIX = 10
"""Characters of a NodeID that tables show: even those may not be on the wire."""


class Recorded(NamedTuple):
    """The mesh, still running, and what was captured of its start and of marked traffic."""

    mesh: Mesh
    path: Path
    markers: dict[str, bytes]
    sentinel: bytes


def send_markers(mesh: Mesh) -> dict[str, bytes]:
    """Send a marker by every way through the overlay; returns label -> marker."""
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    markers = {
        f"{kind} marker over {address}": f"marker-{secrets.token_hex(12)}".encode()
        for kind in ("UDP", "TCP")
        for address in (bob.ipv4, bob.ipv6)
    }
    for label, marker in markers.items():
        address = label.rpartition(" ")[2]
        alice.host.ping(address)
        send = send_udp if label.startswith("UDP") else send_tcp
        send(alice.host, bob.host, address, marker * (1 if label.startswith("UDP") else MARKER_REPEATS))
    with Port(alice.host, alice.interface) as one, Port(bob.host, bob.interface) as two:
        for number in range(FRAMES):
            frame = one.send(two.mac, FRAME_MARKER + bytes([number]))
        two.wait(frame)
    return {**markers, "frame marker": FRAME_MARKER}


@pytest.fixture(scope="module")
def recorded(module_lab: Lab) -> Recorded:
    """alice and bob on fixed UDP ports, recorded from before their start."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name)
    module_lab.host("mallory")
    mesh.configure()
    for client in mesh.clients.values():
        client.config["listen"]["port"] = CLIENT_PORT
    capture = Capture(module_lab).start()
    mesh.start()
    markers = send_markers(mesh)
    relay, mallory = mesh.relays["relay"], module_lab.host("mallory")
    # Positive control: the same search must find what really is in clear.
    control = b"in-clear-" + secrets.token_hex(12).encode()
    send_udp(mallory, relay.host, relay.host.address, control)
    return Recorded(mesh, capture.stop(), markers, control)


@pytest.fixture(scope="module")
def searched(recorded: Recorded) -> SearchResult:
    """One pass over the capture with every pattern that must or must not be there."""
    patterns = {"control": recorded.sentinel, **recorded.markers}
    nodes = [*recorded.mesh.relays.values(), *recorded.mesh.clients.values()]
    for node in nodes:
        patterns[f"NodeID of {node.name}"] = base64.b32decode(node.node_id.upper() + "====")
        for length in (len(node.node_id), ID_PREFIX):
            text = node.node_id[:length]
            patterns[f"NodeID of {node.name} as text ({length})"] = text.encode()
            patterns[f"NodeID of {node.name} in capitals ({length})"] = text.upper().encode()
    for client in recorded.mesh.clients.values():
        patterns[f"MAC of {client.name}"] = mac_bytes(client.status()["node"]["mac"])
    return search([recorded.path], patterns)


def test_search_finds_the_control(searched: SearchResult) -> None:
    assert any(text.startswith("control in packet") for text in searched.found)


def test_nothing_is_in_clear(searched: SearchResult) -> None:
    assert [text for text in searched.found if not text.startswith("control in packet")] == []


def test_initials_were_read_on_both_legs(searched: SearchResult) -> None:
    """Sessions with the relay and, inside channel packets, between the clients: all Initials decrypted."""
    direct = [connection for connection in searched.connections if not connection.relayed]
    relayed = [connection for connection in searched.connections if connection.relayed]
    assert len(direct) >= 2
    assert len(relayed) >= 1
    for connection in (*direct, *relayed):
        assert connection.client.data[:1] == b"\x01", "a ClientHello begins the CRYPTO stream"
    assert any(ALPN in connection.client.data for connection in relayed), "so the decryption works"
    assert any(connection.server.data[:1] == b"\x02" for connection in relayed), "a ServerHello was read"


def test_nothing_but_quic_leaves_the_clients(recorded: Recorded) -> None:
    """Every datagram between the nodes has the fixed bit of QUIC v1 (RFC 9000 section 17.2)."""
    seen = 0
    for datagram in read_datagrams(recorded.path):
        if CLIENT_PORT in (datagram.source_port, datagram.target_port):
            seen += 1
            assert datagram.payload[0] & 0x40, datagram
    assert seen > 20


def captured_frames(recorded: Recorded) -> list[bytes]:
    """Frame packets that the relay sent to bob in channel packets: one channel, one receiver id.

    Those with the most frequent pair of ids: the marked traffic is more than any control traffic.
    """
    bob = recorded.mesh.clients["bob"].host
    groups: dict[bytes, list[bytes]] = {}
    for datagram in read_datagrams(recorded.path):
        payload = datagram.payload
        to_bob = datagram.target == bob.ipv4 and datagram.target_port == CLIENT_PORT
        if to_bob and len(payload) >= MIN_FRAME_PACKET and payload[0] & payload[9] & 0xC0 == 0x40:
            groups.setdefault(payload[1:9] + payload[10:18], []).append(payload)
    return max(groups.values(), key=len, default=[])


def garbage(real: list[bytes]) -> dict[str, list[bytes]]:
    """Datagrams that must do nothing: kind -> datagrams, made from real ones and from nothing."""
    sample = real[-40:]
    flipped = []
    for number, packet in enumerate(sample):
        position = 9 + number % (len(packet) - 9)
        changed = packet[position] ^ (1 << number % 8)
        flipped.append(packet[:position] + bytes([changed]) + packet[position + 1 :])
    return {
        "replayed": sample,
        "altered": flipped,
        "truncated": [packet[: 9 + number % 28] for number, packet in enumerate(sample)],
        "extended": [packet + b"\0" for packet in sample],
        "random short header": [bytes([0x40 + number]) + secrets.token_bytes(60) for number in range(40)],
        "random long header": [b"\xc3\0\0\0\1\x08" + secrets.token_bytes(1194) for _ in range(40)],
        "random": [secrets.token_bytes(1 + 29 * number) for number in range(40)],
    }


def wait_drops(node: ClientNode, wanted: int, label: str) -> None:
    wait_until(
        lambda: node.drops() >= wanted,
        5.0,
        lambda: f"{label}: {node.drops()} drops, {wanted} wanted: {node.status()['drops']}",
    )


def test_injected_datagrams_are_dropped_and_counted(recorded: Recorded) -> None:
    """A host that is no member sends to bob's port; all of it is dropped, counted and without effect."""
    alice, bob = recorded.mesh.clients["alice"], recorded.mesh.clients["bob"]
    mallory = recorded.mesh.lab.host("mallory")
    real = captured_frames(recorded)
    assert len(real) >= FRAMES
    session = bob.peer("alice")["last_handshake"]
    with (
        Port(alice.host, alice.interface) as one,
        Port(bob.host, bob.interface) as two,
        mallory.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for label, datagrams in garbage(real).items():
            wanted = bob.drops() + len(datagrams)
            for datagram in datagrams:
                sender.sendto(datagram, (bob.host.address, CLIENT_PORT))
            barrier(one, two, label.encode())
            wait_drops(bob, wanted, label)
        assert not any(FRAME_MARKER in frame for frame in two.poll()), "a replayed frame came through"
    assert bob.peer("alice")["state"] == "connected"
    assert bob.peer("alice")["last_handshake"] >= session, "no new handshake was needed"
    alice.host.ping(bob.ipv4)


def test_injected_datagrams_do_not_move_the_path(recorded: Recorded) -> None:
    """Replays from a foreign address must not draw the traffic there."""
    alice, bob = recorded.mesh.clients["alice"], recorded.mesh.clients["bob"]
    mallory = recorded.mesh.lab.host("mallory")
    with mallory.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in captured_frames(recorded)[-100:]:
            sender.sendto(datagram, (bob.host.address, CLIENT_PORT))
        alice.host.ping(bob.ipv4)
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            sender.recv(2000)


def test_garbage_to_the_relay_changes_nothing(recorded: Recorded) -> None:
    alice, bob = recorded.mesh.clients["alice"], recorded.mesh.clients["bob"]
    mallory, relay = recorded.mesh.lab.host("mallory"), recorded.mesh.relays["relay"]
    with mallory.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagrams in garbage(captured_frames(recorded)).values():
            for datagram in datagrams:
                sender.sendto(datagram, (relay.host.address, 4433))
    text = alice.host.run(["ping", "-n", "-c", "50", "-i", "0.01", "-W", "2", bob.ipv4]).stdout
    assert " 0% packet loss" in text
    assert relay.running_process.running

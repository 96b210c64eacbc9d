"""Traffic for tests and the demo: iperf3 with parsed results, marked payloads over UDP and TCP.

Runs over any addresses of lab hosts, overlay or underlay; knows nothing of ShadowMesh.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shadowmesh.testing.process import LabError, LabTimeout, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shadowmesh.testing.lab import Host

IPERF_START = 10.0
IPERF_MARGIN = 20.0
"""Seconds beyond the test's own duration before iperf3 counts as hung."""
IPERF_BETWEEN = ("Connection refused", "server is busy")
"""What a client is told while the server puts the test before away: it opens its port anew each time."""

MARKER_PORT = 7007
MARKER_TIMEOUT = 10.0
PIECE = 65_536
MARKER_REPEATS = 64
"""The TCP payload repeats its marker, so that at least one copy is never split over two packets."""


@dataclass(frozen=True)
class Iperf:
    """Result of one iperf3 TCP run, as the receiver counted it."""

    gbit_per_second: float
    received_bytes: int
    retransmits: int
    congestion: str

    def __str__(self) -> str:
        return (
            f"{self.gbit_per_second:.3f} Gbit/s, {self.received_bytes / 1e6:.1f} MB received, "
            f"{self.retransmits} retransmits, congestion control {self.congestion}"
        )


@contextlib.contextmanager
def iperf_server(host: Host, address: str) -> Iterator[None]:
    """An iperf3 server on `address` of `host` while the body runs."""
    server = host.spawn(
        ["iperf3", "-s", "-B", address, "--forceflush"], f"iperf3-{host.name}-{len(host.processes)}.log"
    )
    try:
        server.wait_for_line("listening", IPERF_START)
        yield
    finally:
        server.terminate()


def iperf(
    client: Host,
    address: str,
    seconds: int = 3,
    congestion: str | None = None,
    reverse: bool = False,
    streams: int = 1,
) -> Iperf:
    """TCP to the server at `address` for `seconds` (whole: iperf3 takes 0 for ever), all streams summed."""
    command = ["iperf3", "-c", address, "-t", str(max(1, seconds)), "-P", str(streams), "-J"]
    command += ["-C", congestion] if congestion else []
    command += ["-R"] if reverse else []

    def attempt() -> Iperf | None:
        done = client.run(command, check=False, timeout=seconds + IPERF_MARGIN)
        try:
            return parse_iperf(done.stdout, " ".join(command))
        except LabError as error:
            if not any(reason in str(error) for reason in IPERF_BETWEEN):
                raise
            return None

    return wait_until(attempt, IPERF_START, f"the server for {' '.join(command)}")


def parse_iperf(text: str, what: str) -> Iperf:
    """The figures in iperf3's JSON.  `LabError` with its own error text if it failed."""
    try:
        document: dict[str, Any] = json.loads(text)
        if "error" in document:
            raise LabError(f"{what}: {document['error']}")
        end = document["end"]
        return Iperf(
            gbit_per_second=end["sum_received"]["bits_per_second"] / 1e9,
            received_bytes=end["sum_received"]["bytes"],
            retransmits=end["sum_sent"].get("retransmits", 0),
            congestion=end.get("sender_tcp_congestion", "unknown"),
        )
    except (ValueError, KeyError) as error:
        raise LabError(f"{what}: unexpected output ({error!r})\n{text[:2000]}") from None


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def send_udp(source: Host, target: Host, address: str, payload: bytes) -> None:
    """Send `payload` to `address` of `target` until it has arrived there, unchanged."""
    family = _family(address)
    kind = socket.SOCK_DGRAM
    with source.socket(family, kind) as sender, target.socket(family, kind) as receiver:
        receiver.bind((address, MARKER_PORT))
        receiver.settimeout(0.2)

        def arrived() -> bool:
            sender.sendto(payload, (address, MARKER_PORT))
            with contextlib.suppress(TimeoutError):
                return receiver.recv(65_536) == payload
            return False

        wait_until(arrived, MARKER_TIMEOUT, f"UDP from {source.name} to {address} of {target.name}")


def send_tcp(source: Host, target: Host, address: str, payload: bytes) -> None:
    """Send `payload` over a TCP connection to `address` of `target` and back, and compare both."""
    family = _family(address)
    kind = socket.SOCK_STREAM
    with source.socket(family, kind) as near, target.socket(family, kind) as listener:
        # A close by the reset that SO_LINGER 0 sends leaves no TIME_WAIT behind for the next call.
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, MARKER_PORT))
        listener.listen(1)
        for side in (near, listener):
            side.settimeout(MARKER_TIMEOUT)
        near.connect((address, MARKER_PORT))
        far, _ = listener.accept()
        with far:
            far.settimeout(MARKER_TIMEOUT)
            near.sendall(payload)
            echo = _receive(far.recv, len(payload))
            far.sendall(echo)
            if _receive(near.recv, len(payload)) != payload:
                raise LabError(f"TCP from {source.name} to {target.name}: the payload came back changed")


def transfer_tcp(source: Host, target: Host, address: str, size: int, timeout: float) -> float:
    """`size` random bytes over one TCP connection to `address` of `target`, and other ones back meanwhile.

    Returns the seconds that it took.  `LabError` if the SHA-256 of what arrived is another than that of what
    was sent, `LabTimeout` after `timeout` s.
    """
    family = _family(address)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        near, listener = (
            stack.enter_context(host.socket(family, socket.SOCK_STREAM)) for host in (source, target)
        )
        listener.bind((address, 0))
        listener.listen(1)
        for side in (near, listener):
            side.settimeout(timeout)
        try:
            near.connect(listener.getsockname())
            far = stack.enter_context(listener.accept()[0])
        except OSError as error:
            raise LabTimeout(f"TCP from {source.name} to {address} of {target.name}: {error}") from None
        ends = [_End(near, size), _End(far, size)]
        while not all(end.done for end in ends):
            if time.monotonic() - begun > timeout:
                raise LabTimeout(f"TCP from {source.name} to {target.name}, after {timeout:g} s: {ends}")
            _pump(ends)
        taken = time.monotonic() - begun
        if any(one.sent_hash != other.got.digest() for one, other in (ends, reversed(ends))):
            raise LabError(f"TCP between {source.name} and {target.name}: what arrived is not what was sent")
    return taken


class _End:
    """One end of a transfer: sends `size` random bytes, and hashes as many that come."""

    def __init__(self, link: socket.socket, size: int) -> None:
        self.link = link
        link.setblocking(False)
        data = secrets.token_bytes(size)
        self.sent_hash = hashlib.sha256(data).digest()
        self.left = memoryview(data)
        self.got = hashlib.sha256()
        self.missing = size

    def __repr__(self) -> str:
        return f"{len(self.left)} bytes not sent, {self.missing} not received"

    @property
    def done(self) -> bool:
        return not self.left and not self.missing


def _pump(ends: list[_End]) -> None:
    """Move what can be moved now, or wait a little for that."""
    by_link = {end.link.fileno(): end for end in ends}
    sending = [number for number, end in by_link.items() if end.left]
    readable, writable, _ = select.select(list(by_link), sending, [], 0.1)
    for number in writable:
        end = by_link[number]
        end.left = end.left[end.link.send(end.left[:PIECE]) :]
    for number in readable:
        end = by_link[number]
        piece = end.link.recv(PIECE)
        if not piece:
            raise LabError(f"TCP: the stream ended with {end}")
        end.missing -= len(piece)
        end.got.update(piece)


def _receive(receive: Callable[[int], bytes], size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = receive(size - len(data))
        if not piece:
            raise LabError(f"TCP: the stream ended after {len(data)} of {size} bytes")
        data += piece
    return bytes(data)

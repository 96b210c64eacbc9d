"""Does every byte of a large transfer come out as it went in?

Random data over TCP between two clients, half of it each way at the same time, IPv4 one way and IPv6 the
other: SHA-256 of what was sent against what was received.  Then UDP datagrams, as super-frames of many
sizes, each with its sequence number and its content checked: lost ones are counted, and one that is
changed, repeated or overtaken by another is a failure.  Once over the direct path, once through the
relay.  Needs root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import READY_TIMEOUT, Mesh
from shadowmesh.testing.process import LabError, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from shadowmesh.testing.mesh import ClientNode

DIRECT, RELAYED = "direct", "relayed"
DIRECT_PORT = 4400
PORT = 7100
PIECE = 1 << 20
PROGRESS = 250_000_000
STALL = 30.0
"""Seconds without a byte after which a transfer counts as failed."""

UDP_SEGMENT = 103
BURST = 40
"""Datagrams in one send: a super-frame of at most 52 kB."""

AHEAD = 1000
"""Datagrams that may be under way: more than the buffers hold would only measure them."""

PAUSE = 0.05
"""Seconds without a datagram after which those under way count as lost."""


@dataclass(frozen=True)
class Stream:
    """One direction of one TCP transfer."""

    path: str
    direction: str
    size: int
    seconds: float
    sent: str
    received: str

    @property
    def intact(self) -> bool:
        return self.sent == self.received

    def __str__(self) -> str:
        return (
            f"{self.path:<8} TCP {self.direction:<12} {self.size / 1e9:>8.3f} GB "
            f"{self.size * 8 / self.seconds / 1e9:>7.2f} Gbit/s  SHA-256 {self.received[:16]}… "
            f"{'equal at both ends' if self.intact else f'BUT SENT {self.sent[:16]}…'}"
        )


@dataclass
class Datagrams:
    """What became of numbered datagrams; `late` ones were overtaken by one that was sent after them."""

    path: str
    sent: int = 0
    received: int = 0
    changed: int = 0
    repeated: int = 0
    late: int = 0

    @property
    def intact(self) -> bool:
        return self.changed == self.repeated == self.late == 0 and self.received > 0

    def __str__(self) -> str:
        lost = self.sent - self.received - self.changed + self.repeated
        return (
            f"{self.path:<8} UDP {self.sent} datagrams, {self.received} received, {lost} lost, "
            f"{self.changed} changed, {self.repeated} repeated, {self.late} late"
        )


def together(*actions: Callable[[], None]) -> None:
    """Run all in threads of their own; the first failure is raised when all have ended."""
    failures: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# ---- TCP -------------------------------------------------------------------------------------


def _send(sock: socket.socket, size: int, digest: hashlib._Hash) -> None:
    left = size
    while left:
        piece = os.urandom(min(PIECE, left))
        digest.update(piece)
        sock.sendall(piece)
        left -= len(piece)
    sock.shutdown(socket.SHUT_WR)


def _receive(sock: socket.socket, size: int, digest: hashlib._Hash, what: str) -> None:
    buffer = memoryview(bytearray(PIECE))
    got, told = 0, 0
    while count := sock.recv_into(buffer):
        digest.update(buffer[:count])
        got += count
        if got - told >= PROGRESS:
            told = got
            print(f"{what}: {got / 1e9:.2f} of {size / 1e9:.2f} GB", file=sys.stderr)
    if got != size:
        raise LabError(f"{what}: the stream ended after {got} of {size} bytes")


def stream(path: str, near: ClientNode, far: ClientNode, ipv6: bool, size: int) -> Stream:
    """Send `size` random bytes from `near` to `far`."""
    family, address = (socket.AF_INET6, far.ipv6) if ipv6 else (socket.AF_INET, far.ipv4)
    sent, received = hashlib.sha256(), hashlib.sha256()
    direction = f"{near.name}→{far.name}"
    with (
        far.host.socket(family, socket.SOCK_STREAM) as listener,
        near.host.socket(family, socket.SOCK_STREAM) as sender,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(1)
        sender.settimeout(STALL)
        sender.connect((address, PORT))
        receiver, _ = listener.accept()
        start = time.monotonic()
        with receiver:
            receiver.settimeout(STALL)
            together(
                lambda: _send(sender, size, sent),
                lambda: _receive(receiver, size, received, f"{path} {direction}"),
            )
    seconds = time.monotonic() - start
    return Stream(path, direction, size, seconds, sent.hexdigest(), received.hexdigest())


def streams(path: str, near: ClientNode, far: ClientNode, size: int) -> list[Stream]:
    """Half of `size` each way, at the same time."""
    made: list[Stream] = []
    together(
        lambda: made.append(stream(path, near, far, False, size // 2)),
        lambda: made.append(stream(path, far, near, True, size - size // 2)),
    )
    return made


# ---- UDP -------------------------------------------------------------------------------------

NOISE = random.Random(1).randbytes(4096)


def _content(number: int, size: int) -> bytes:
    """`size` bytes (8..1300) that no other number has."""
    start = number * 37 % 2048
    return number.to_bytes(8, "big") + NOISE[start : start + size - 8]


def _judge(result: Datagrams, datagram: bytes, seen: set[int], newest: int) -> int:
    """Count one; returns the newest number so far."""
    number = int.from_bytes(datagram[:8], "big")
    if datagram != _content(number, len(datagram)) or number >= result.sent:
        result.changed += 1
        return newest
    result.received += 1
    result.repeated += number in seen
    result.late += number < newest and number not in seen
    seen.add(number)
    return max(newest, number)


def datagrams(path: str, near: ClientNode, far: ClientNode, count: int) -> Datagrams:
    """`count` datagrams from `near` to `far`, of sizes that change from burst to burst."""
    result = Datagrams(path)
    draw = random.Random(2)
    seen: set[int] = set()
    newest = -1
    with (
        far.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        near.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((far.ipv4, PORT))
        receiver.settimeout(PAUSE)
        sender.connect((far.ipv4, PORT))
        under_way = 0
        while result.sent < count or under_way > 0:
            while result.sent < count and under_way < AHEAD:
                size = draw.choice((8, 64, 500, 1200, 1300))
                burst = [_content(result.sent + i, size) for i in range(min(BURST, count - result.sent))]
                control = (socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))
                result.sent += len(burst)
                under_way += len(burst)
                sender.sendmsg([b"".join(burst)], [control])
            try:
                newest = _judge(result, receiver.recv(65_536), seen, newest)
                under_way -= 1
            except TimeoutError:
                under_way = 0
    return result


# ---- the mesh --------------------------------------------------------------------------------


def configure(mesh: Mesh, path: str) -> None:
    """Write the paths into the configurations of alice and bob."""
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    mesh.configure()
    for client, other in ((alice, bob), (bob, alice)):
        client.config["paths"] = {"direct": "static" if path == DIRECT else "never"}
        if path == DIRECT:
            client.config["listen"]["port"] = DIRECT_PORT
            client.config["peers"][0]["endpoint"] = f"{other.host.address}:{DIRECT_PORT}"


def on_path(client: ClientNode, peer: str, path: str) -> bool:
    """Whether frames take that kind of path now."""
    shown = client.peer(peer)["path"] or ""
    return str(shown).startswith("direct" if path == DIRECT else "relay")


def measure(path: str, size: int, count: int) -> tuple[list[Stream], Datagrams]:
    """All transfers over one path, in a lab of its own."""
    with Lab() as lab:
        mesh = Mesh(lab)
        mesh.relay()
        alice, bob = mesh.client("alice"), mesh.client("bob")
        configure(mesh, path)
        mesh.start()
        for client, other in ((alice, bob), (bob, alice)):
            wait_until(
                lambda client=client, other=other: on_path(client, other.name, path),  # type: ignore[misc]
                READY_TIMEOUT,
                f"no {path} path of {client.name}",
            )
        made = streams(path, alice, bob, size)
        numbered = datagrams(path, alice, bob, count)
        for client in (alice, bob):
            status = client.status()
            drops = {reason: value for reason, value in status["drops"].items() if value}
            joined = status["counters"]["coalesced_frames"]
            print(f"{path}: {client.name} joined {joined} super-frames; drops: {drops}", file=sys.stderr)
    lab.check_leaks()
    return made, numbered


def main() -> int:
    """Parse the arguments, transfer, print; exit code 1 if anything was not intact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="TCP data per path (default 1)")
    parser.add_argument("--datagrams", type=int, default=500_000, help="UDP per path (default 500000)")
    parser.add_argument("--path", choices=(DIRECT, RELAYED), help="only this one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="64 MB and 4000 datagrams: does it run at all?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.gigabytes, arguments.datagrams = 0.064, 4000
    made: list[Stream] = []
    numbered: list[Datagrams] = []
    try:
        for path in (arguments.path,) if arguments.path else (DIRECT, RELAYED):
            results = measure(path, int(arguments.gigabytes * 1e9), arguments.datagrams)
            made += results[0]
            numbered.append(results[1])
    except (LabError, OSError) as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        document = {"tcp": [asdict(one) for one in made], "udp": [asdict(one) for one in numbered]}
        print(json.dumps({"schema": "shadowmesh.bench.transfer/1", **document}, indent=2))
    else:
        print(*made, *numbered, sep="\n")
    verdicts = [one.intact for one in made] + [one.intact for one in numbered]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

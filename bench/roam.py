"""How long is traffic interrupted when a client's address changes, and does TCP survive it?

A client in public and one behind a port-restricted NAT, on a direct path.  One TCP connection and a
stream of numbered datagrams each way cross the overlay.  Again and again the first client's underlay
address is replaced by another one, as if it had moved to another network.  Prints the distribution of
the interruptions: of the datagrams (the longer one of the two directions) and of the bytes of the TCP
connection, which must be the same connection all the time.  Needs root.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from bench.fallback import Figures, histogram, quantiles
from shadowmesh.testing.natlab import Kind, NatLab
from shadowmesh.testing.pair import DIRECT, NatPair
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.stream import Stream

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host

RATE = 500
"""Datagrams a second in each direction."""
TICK = 0.01
"""Seconds between two writes to the TCP connection."""
TCP_PORT = 5401
SETTLED = 2.0
"""Seconds before a change."""
GIVE_UP = 30.0


class TcpTicks:
    """A TCP connection over the overlay on which a byte is sent every `TICK`; knows the longest pause."""

    def __init__(self, near: Host, far: Host, address: str) -> None:
        with far.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, TCP_PORT))
            listener.listen(1)
            self._near = near.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._near.settimeout(GIVE_UP)
            self._near.connect((address, TCP_PORT))
            self._far, _ = listener.accept()
        self._far.settimeout(GIVE_UP)
        self._near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=job) for job in (self._write, self._read)]
        self.problem = ""
        """Why the connection broke; empty while it lives."""
        self._arrivals = [time.monotonic()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for link in (self._near, self._far):
            link.close()

    def longest_pause(self, since: float) -> float:
        """Seconds, among the pauses that ended after `since` (monotonic)."""
        arrivals = list(self._arrivals)
        pauses = [later - earlier for earlier, later in pairwise(arrivals) if later > since]
        return max(pauses, default=0.0)

    def last_arrival(self) -> float:
        """When the last bytes came, monotonic."""
        return self._arrivals[-1]

    def _write(self) -> None:
        try:
            while not self._stopping.wait(TICK):
                self._near.sendall(b"x")
            self._near.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.problem = f"writing: {error}"

    def _read(self) -> None:
        try:
            while self._far.recv(65_536):
                self._arrivals.append(time.monotonic())
        except OSError as error:
            self.problem = f"reading: {error}"


def change_address(host: Host, step: int) -> None:
    """Replace the host's IPv4 underlay address by the next of two others."""
    old = host.ipv4
    host.ipv4 = f"10.99.0.{100 + step % 100}"
    # In this order: an address that is added beside one of the same network would go together with it.
    host.ip_batch([f"address del {old}/24 dev under0", f"address add {host.ipv4}/24 dev under0"])


def repeat(
    pair: NatPair, step: int, ticks: TcpTicks, streams: tuple[Stream, Stream], figures: Figures
) -> None:
    """Change alice's address and wait until everything flows on a direct path again."""
    time.sleep(SETTLED)
    begun, wall = time.monotonic(), time.time()
    change_address(pair.alice.host, step)
    wait_until(
        lambda: ticks.last_arrival() > begun + 0.5 or ticks.problem,
        GIVE_UP,
        "bytes after the change of address",
    )
    if ticks.problem:
        raise LabError(f"the TCP connection broke: {ticks.problem}")
    pair.wait(DIRECT, GIVE_UP)
    figures["direct again"].append(time.monotonic() - begun)
    time.sleep(0.3)
    gaps = [gap.length for stream in streams for gap in stream.gaps() if gap.began > wall - 0.1]
    figures["datagrams"].append(max(gaps, default=0.0))
    figures["tcp"].append(ticks.longest_pause(begun))


def measure(repetitions: int) -> Figures:
    """Seconds, for each repetition."""
    figures: Figures = {"datagrams": [], "tcp": [], "direct again": []}
    with NatLab() as lab:
        pair = NatPair(lab, (None, lab.router("far", Kind.PORT_RESTRICTED))).start()
        pair.wait(DIRECT, GIVE_UP)
        alice, bob = pair.clients
        there = Stream(alice.host, bob.host, bob.ipv4, RATE)
        back = Stream(bob.host, alice.host, alice.ipv4, RATE)
        with there, back, TcpTicks(alice.host, bob.host, bob.ipv4) as ticks:
            for stream in (there, back):
                stream.wait_flowing()
            for step in range(repetitions):
                repeat(pair, step, ticks, (there, back), figures)
                last = {name: round(values[-1], 3) for name, values in figures.items()}
                print(f"change {step + 1}: {last}", file=sys.stderr)
    lab.check_leaks()
    return figures


def main() -> int:
    """Parse the arguments, measure, print; 1 if the TCP connection broke."""
    parser = bench_parser(__doc__, "one change")
    parser.add_argument("repetitions", type=int, nargs="?", default=20, help="default 20")
    arguments = parser.parse_args()
    figures = measured(lambda: measure(1 if arguments.smoke else arguments.repetitions))
    if arguments.json:
        print(
            json.dumps(
                {"schema": "shadowmesh.bench.roam/1", "cores": os.cpu_count(), "runs": figures}, indent=2
            )
        )
        return 0
    for name, values in figures.items():
        marks = "  ".join(f"{mark} {value:.3f}" for mark, value in quantiles(values).items())
        print(f"{name} (s, {len(values)} changes): {marks}")
        print("\n".join(histogram(values, 0.1)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

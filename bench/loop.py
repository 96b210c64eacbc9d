"""What does a bridged loop cost the other members?

Two members bridge a network each, and a host in one of them broadcasts. A TCP stream runs between two other
members, in turns without a loop and from the moment on in which a cable joins both networks beside the
overlay: so the seconds until the loop is found are in the figure. Also counted: how long until one port is
blocked, and how many frames another member got for each broadcast. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.lab import UNDERLAY_INTERFACE, Lab
from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.site import Site, allow_bridges
from shadowmesh.testing.traffic import iperf, iperf_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Host

FRAME = b"\xff" * 6 + b"\x02\x77\x00\x00\x00\x01" + b"\x88\xb6" + bytes(86)
"""A broadcast of a station, 100 bytes."""
RECOVERY = 400.0
"""Seconds that a blocked port may need, after many loops in a row."""
BOUND = 0.9
"""Of the rate without a loop: what the others must keep."""


@dataclass(frozen=True)
class Turn:
    """One stream. `blocked_after`: seconds from the cable to the block; `copies`: frames per broadcast."""

    gbit: float
    copies: float
    blocked_after: float | None = None


class Bench:
    """alice and bob with their networks, carol and dave with the stream."""

    def __init__(self, lab: Lab, rate: int) -> None:
        mesh = Mesh(lab)
        mesh.relay()
        self.bridged = [mesh.client(name) for name in ("alice", "bob")]
        self.others = [mesh.client(name) for name in ("carol", "dave")]
        mesh.configure()
        self.sites = [Site(client) for client in self.bridged]
        allow_bridges(mesh, "alice", "bob")
        self.host = self.sites[0].host("anna", "10.77.0.101/24")
        self.sites[1].host("ben", "10.77.0.102/24")
        mesh.start()
        self._rate = rate
        self.wait_calm()

    def states(self) -> list[str]:
        return sorted(client.status()["node"]["bridge"]["state"] for client in self.bridged)

    def wait_calm(self) -> None:
        """Until both ports carry frames."""
        wait_until(lambda: self.states() == ["forwarding"] * 2, RECOVERY, lambda: f"ports: {self.states()}")

    def turn(self, seconds: int, loop: bool) -> Turn:
        """One stream, with the cable or without."""
        carol, dave = self.others
        before = received(carol)
        blocked: list[float] = []
        with broadcasts(self.host, self._rate) as sent, self._cable(loop, blocked):
            result = iperf(carol.host, dave.ipv4, seconds)
        copies = (received(carol) - before) / max(1, sent[0])
        if loop:
            self.wait_calm()
        return Turn(result.gbit_per_second, copies, blocked[0] if blocked else None)

    @contextlib.contextmanager
    def _cable(self, loop: bool, blocked: list[float]) -> Iterator[None]:
        if not loop:
            yield
            return
        begun = time.monotonic()
        self.sites[0].cable(self.sites[1])
        watch = threading.Thread(target=self._watch, args=(begun, blocked))
        watch.start()
        try:
            yield
        finally:
            watch.join()
            self.sites[0].uncable()

    def _watch(self, begun: float, blocked: list[float]) -> None:
        with contextlib.suppress(LabError):
            # Seldom: asking costs the clients, which share the cores with the stream.
            wait_until(lambda: "blocked" in self.states(), 10.0, "", interval=0.25)
            blocked.append(time.monotonic() - begun)


def received(client: ClientNode) -> int:
    """Frames from the members that bridge."""
    return sum(client.peer(name)["rx_frames"] for name in ("alice", "bob"))


@contextlib.contextmanager
def broadcasts(host: Host, rate: int) -> Iterator[list[int]]:
    """A host that broadcasts so often a second while the body runs; how often it did."""
    sent, stop = [0], threading.Event()
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((UNDERLAY_INTERFACE, 0))

        def send() -> None:
            while not stop.wait(1 / rate):
                sender.send(FRAME)
                sent[0] += 1

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield sent
        finally:
            stop.set()
            thread.join()


def measure(arguments: argparse.Namespace) -> dict[str, list[Turn]]:
    """`rounds` turns of each kind."""
    turns: dict[str, list[Turn]] = {"without": [], "loop": []}
    with Lab() as lab:
        bench = Bench(lab, arguments.rate)
        with iperf_server(bench.others[1].host, bench.others[1].ipv4):
            for number in range(arguments.rounds):
                for kind, some in turns.items():
                    turn = bench.turn(arguments.seconds, kind == "loop")
                    some.append(turn)
                    print(f"round {number + 1} {kind:<8} {turn}", file=sys.stderr)
    lab.check_leaks()
    return turns


def main() -> int:
    """Parse the arguments, measure, print; 1 if the others kept too little, or no port was blocked."""
    parser = bench_parser(__doc__, "one round of 2 s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="of each stream (default 5)")
    parser.add_argument("--rate", type=int, default=100, help="broadcasts a second (default 100)")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 1, 2
    turns = measured(lambda: measure(arguments))
    rates = {kind: statistics.median(turn.gbit for turn in some) for kind, some in turns.items()}
    copies = {kind: statistics.median(turn.copies for turn in some) for kind, some in turns.items()}
    times = [turn.blocked_after for turn in turns["loop"]]
    share = rates["loop"] / rates["without"]
    if arguments.json:
        document = {"schema": "shadowmesh.bench.loop/1", "cores": os.cpu_count(), "share": share}
        print(json.dumps({**document, **{k: [asdict(one) for one in v] for k, v in turns.items()}}, indent=2))
    else:
        for kind, rate in rates.items():
            print(f"{kind:<8} {rate:.3f} Gbit/s, {copies[kind]:.2f} frames for each broadcast")
        print(f"the others keep {share:.1%}; a port was blocked after {times} s")
    return int(None in times or (share < BOUND and not arguments.smoke))


if __name__ == "__main__":
    sys.exit(main())

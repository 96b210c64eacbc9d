"""One more client of the relay of `clients.py`, which asks all the time: is what needs no handshake served?

It sends a BIND and waits for BOUND, fifty times a second: that is the forwarder's work, as are the datagrams
of channels.  A program of its own, so that nothing but the relay and the cores keeps it waiting.  It writes a
line for each: when it asked (CLOCK_MONOTONIC), and the seconds that it took.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.crowd import Crowd
from shadowmesh.crypto import identity as identities
from shadowmesh.testing.process import Process
from shadowmesh.units import Address, NodeId
from shadowmesh.values import parse_host_port, parse_node_id

PAUSE, PATIENCE = 0.02, 1.0
"""Seconds between two questions, and after which one is given up."""


class Pulse:
    """The other process.

    :param folder: where its identity and its answers are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.node_id: NodeId = identities.create(folder / "pulse", "pulse").node_id
        self._answers = folder / "answers"
        self._answers.touch()

    @contextmanager
    def running(self, relay: Address, relay_id: str, core: int) -> Iterator[None]:
        """While this lasts, it asks."""
        command = [sys.executable, __file__, str(self._folder), str(relay), relay_id]
        process = Process(command, self._folder / "pulse.log")
        os.sched_setaffinity(process.pid, {core})
        try:
            process.wait_for(lambda: self._answers.stat().st_size, 30.0, "the first answer")
            yield
        finally:
            process.kill()

    def between(self, begin: float, end: float) -> list[float]:
        """Seconds that each answer took, in that time."""
        pairs = (line.split() for line in self._answers.read_text().splitlines()[:-1])
        return [float(took) for at, took in pairs if begin <= float(at) < end]


def ask(folder: Path, relay: Address, relay_id: NodeId) -> None:
    """Until killed."""
    crowd = Crowd(relay, relay_id)
    station = crowd.add(identities.load(folder / "pulse"))
    crowd.start(station)
    with (folder / "answers").open("a", buffering=1) as answers:
        while True:
            if station.connected_at is None:
                crowd.run(lambda: crowd.up > 0, PATIENCE)
                continue
            began = time.monotonic()
            if crowd.run(station.hurry(began), PATIENCE):
                answers.write(f"{began} {time.monotonic() - began}\n")
            crowd.run(lambda: False, PAUSE)


if __name__ == "__main__":
    ask(Path(sys.argv[1]), Address(*parse_host_port(sys.argv[2])), parse_node_id(sys.argv[3]))

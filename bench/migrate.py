"""Is a datagram lost or doubled when traffic moves from the relay to a direct path? How long does it take?

Two clients behind port-restricted NATs whose direct path is cut at first.  One stream of numbered
datagrams, at 60 % of the highest rate that this run found to be free of loss on the relay; the same
again without any event, as a control.  In the other run the cut is mended and the network of both
clients changes, so that they look for a better path.  What the kernel drops in its queues is counted
apart.  Then the same under one TCP stream, of which the dip is shown.  Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.natlab import Kind, NatLab, change_addresses, cut, mend
from shadowmesh.testing.pair import DIRECT, RELAY, NatPair
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.stream import Result, Stream, queue_drops
from shadowmesh.testing.traffic import iperf_server

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import ClientNode

Event = Callable[[], float]

RATES = (2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000)
"""Datagrams a second that are tried, until one loses something."""
SHARE = 0.6
TCP_HALF = 4
"""Seconds of a TCP stream before the event, and after it."""
TRIAL = 1.5
"""Seconds at each rate."""
GIVE_UP = 60.0
LOOK, QUIET = 0.002, 1.0
"""Seconds between two looks at the relay's counters, and without the stream after which it has left."""
SETTLED = 2.0
"""Seconds before the event, and after it."""


@dataclass(frozen=True)
class Run:
    """One stream, with or without the event."""

    result: Result
    queue_drops: int
    """In the kernel's queues of the relay and both clients: not the overlay's."""
    switch: float | None
    """What the event returned: seconds from the sender's decision until the relay was quiet; None without."""
    path: str
    """Of the sender, afterwards."""


class Pair:
    """The pair whose direct path can be cut and mended."""

    def __init__(self, lab: NatLab) -> None:
        near, self._far = lab.router("near", Kind.PORT_RESTRICTED), lab.router("far", Kind.PORT_RESTRICTED)
        self._near = near
        self.cut()
        self.nodes = NatPair(lab, (near, self._far)).start()

    def cut(self) -> None:
        """Let nothing pass between the two NATs."""
        cut(self._near.host, self._far.wan)

    def fall_back(self) -> None:
        """Cut, and wait until both use the relay."""
        self.cut()
        self.nodes.wait(RELAY, GIVE_UP)

    def mend(self) -> None:
        """Let it pass, and give both clients a reason to look: a change of their addresses."""
        mend(self._near.host)
        for client in self.nodes.clients:
            change_addresses(client.host)


def drops(nodes: NatPair) -> int:
    """In the kernel's queues, up to now."""
    hosts = (nodes.relay.host, *(client.host for client in nodes.clients))
    clients = (client.host for client in nodes.clients)
    return sum(queue_drops(host, "under0") for host in hosts) + sum(
        queue_drops(host, "smesh0") for host in clients
    )


def highest_rate(nodes: NatPair, size: int) -> int:
    """The highest of RATES at which nothing was lost, before the first at which something was."""
    best = 0
    for rate in RATES:
        result = stream(nodes, rate, size, TRIAL).result
        print(f"rate {rate}: {result}", file=sys.stderr)
        if result.lost or result.per_second < 0.98 * rate:
            break
        best = rate
    if not best:
        raise LabError(f"even {RATES[0]} datagrams a second lose something")
    return best


def stream(nodes: NatPair, rate: int, size: int, seconds: float, event: Event | None = None) -> Run:
    """Run a stream from alice to bob; call `event`, which returns the time it took, in the middle."""
    alice, bob = nodes.clients
    before = drops(nodes)
    with Stream(alice.host, bob.host, bob.ipv4, rate, size) as running:
        running.wait_flowing()
        time.sleep(seconds)
        switch = event() if event else None
        time.sleep(seconds)
        result = running.stop()
    return Run(result, drops(nodes) - before, switch, alice.peer("bob")["path"])


def migrate(pair: Pair, rate: int) -> float:
    """Mend, wait for the direct path; seconds from the decision until the relay was quiet, at least LOOK."""
    relay = pair.nodes.relay.host
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: relay.inside(lambda: watch(rate)))
        pair.mend()
        quiet_at = watching.result()
    pair.nodes.wait(DIRECT, GIVE_UP)
    return max(LOOK, quiet_at - decided_at(pair.nodes.alice))


def watch(rate: int) -> float:
    """When the stream last crossed the namespace of the calling thread, by the wall clock."""
    table = Path("/proc/thread-self/net/dev")
    end = time.time() + GIVE_UP
    busy_at = looked_at = time.time()
    seen = 0
    while (now := time.time()) < end:
        line = next(line for line in table.read_text().splitlines() if "under0:" in line)
        packets = int(line.split()[2])
        if packets - seen > max(2.0, 0.2 * rate * (now - looked_at)):
            busy_at = now
        elif now - busy_at > QUIET:
            return busy_at
        seen, looked_at = packets, now
        time.sleep(LOOK)
    raise LabError("the stream never left the relay")


def decided_at(client: ClientNode) -> float:
    """When the log of this client last told of a change to a direct path, by the wall clock."""
    times = re.findall(r"^(\S+) .*: takes direct", client.output(), re.MULTILINE)
    if not times:
        raise LabError(f"{client.name} has logged no change to a direct path\n{client.output()[-2000:]}")
    return datetime.fromisoformat(times[-1]).timestamp()


def tcp_dip(pair: Pair) -> tuple[float, float]:
    """A TCP stream that migrates: median Gbit/s before, and the least of a tenth of a second after."""
    alice, bob = pair.nodes.clients
    with iperf_server(bob.host, bob.ipv4):
        command = ["iperf3", "-c", bob.ipv4, "-t", str(2 * TCP_HALF), "-i", "0.1", "-J"]
        running = alice.host.spawn(command, f"iperf3-{len(alice.host.processes)}.json")
        time.sleep(TCP_HALF)
        pair.mend()
        pair.nodes.wait(DIRECT, GIVE_UP)
        running.wait(GIVE_UP)
    rates = [one["sum"]["bits_per_second"] / 1e9 for one in json.loads(running.output())["intervals"]]
    middle = 10 * TCP_HALF
    return statistics.median(rates[5:middle]), min(rates[middle:-1])


@dataclass(frozen=True)
class Findings:
    """All of it: datagrams a second, the runs by name, and for each round the two figures of `tcp_dip`."""

    rate: int
    runs: dict[str, list[Run]]
    tcp_gbit: list[tuple[float, float]]


def measure(arguments: argparse.Namespace) -> Findings:
    """The highest rate, then the runs with and without the event, in turns."""
    runs: dict[str, list[Run]] = {"control": [], "migration": []}
    tcp: list[tuple[float, float]] = []
    with NatLab() as lab:
        pair = Pair(lab)
        wait_until(lambda: pair.nodes.are(RELAY), GIVE_UP, "both paths to be the relay's")
        rate = arguments.rate or int(SHARE * highest_rate(pair.nodes, arguments.size))
        for number in range(arguments.rounds):
            runs["control"].append(stream(pair.nodes, rate, arguments.size, SETTLED))
            event = partial(migrate, pair, rate)
            runs["migration"].append(stream(pair.nodes, rate, arguments.size, SETTLED, event))
            for name, done in runs.items():
                print(f"round {number + 1} {name}: {describe(done[-1])}", file=sys.stderr)
            pair.fall_back()
            tcp.append(tcp_dip(pair))
            pair.fall_back()
    lab.check_leaks()
    return Findings(rate, runs, tcp)


def describe(run: Run) -> str:
    """One run for people."""
    switch = (
        "" if run.switch is None else f", off the relay within {1000 * run.switch:.0f} ms of the decision"
    )
    return f"{run.result}, {run.queue_drops} dropped in kernel queues{switch}, then {run.path}"


def main() -> int:
    """Parse the arguments, measure, print; 1 if a datagram was lost or doubled."""
    parser = bench_parser(__doc__, "one round")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind (default 5)")
    parser.add_argument("--size", type=int, default=1000, help="bytes of UDP payload (default 1000)")
    parser.add_argument(
        "--rate", type=int, default=0, help="datagrams a second (default: 60 %% of the highest)"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.rate = 1, arguments.rate or RATES[0]
    found = measured(lambda: measure(arguments))
    if arguments.json:
        print(
            json.dumps(
                {"schema": "shadowmesh.bench.migrate/1", "cores": os.cpu_count(), **asdict(found)}, indent=2
            )
        )
    else:
        print(f"{found.rate} datagrams of {arguments.size} bytes a second")
        for name, done in found.runs.items():
            print("\n".join(f"{name}: {describe(run)}" for run in done))
        for before, least in found.tcp_gbit:
            print(
                f"TCP: {before:.2f} Gbit/s on the relay, at least {least:.2f} in any 100 ms after the event"
            )
    return int(any(run.result.lost or run.result.doubled for done in found.runs.values() for run in done))


if __name__ == "__main__":
    sys.exit(main())

"""What does a member that floods broadcast cost the traffic between two others?

alice sends bob one TCP stream, in turns while erin floods, who has sessions with others only (aside), while
carol does, whose client keeps to its budget, and while dave does, whose client has none, so that alice and
bob must cut the storm.  Prints the median rates and their ratios to the first.  Needs root.

Where there are two cores, alice, bob and the stream have the first one; all the others and the program that
makes the storm have the other: on machines of their own they take no time from alice and bob.
What the kernel does for a packet on its way, it does where its sender runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from bench.measurement import flood_arguments
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import OVERLAY_INTERFACE, Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import iperf, iperf_server

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import ClientNode, Node

GROUP = "239.77.0.1"
"""A multicast group that nobody has joined: to the overlay it is broadcast."""
KINDS = {"aside": "erin", "budget": "carol", "hostile": "dave"}
"""What is measured, and who floods meanwhile."""
NO_BUDGET = {"rate": 1_000_000, "burst": 1_000_000}
SETTLE = 0.3
"""Seconds between the begin of a storm and of the stream: the victims' budget is spent then."""


def pin(node: Node, core: int) -> None:
    """Let all threads of its process run on this core only."""
    for task in Path(f"/proc/{node.running_process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def start(mesh: Mesh, cores: list[int]) -> None:
    """Five clients with direct paths, each process on its core; erin knows carol and dave only."""
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name, [one for one in ("alice", "bob", "carol", "dave") if one != name])
    for name in ("carol", "dave"):
        mesh.client(name)
    mesh.client("erin", ["carol", "dave"])
    mesh.configure()
    for client in mesh.clients.values():
        client.config["paths"] = {"direct": "auto"}
    for name in ("dave", "erin"):
        mesh.clients[name].config["interface"]["broadcast"] = NO_BUDGET
    mesh.start()
    for client in mesh.clients.values():
        wait_until(lambda c=client: all_direct(c), 20.0, f"direct paths of {client.name}")  # type: ignore[misc]
    for name in KINDS.values():
        mesh.clients[name].host.run(["ip", "route", "add", GROUP, "dev", OVERLAY_INTERFACE])
    for node in (*mesh.relays.values(), *mesh.clients.values()):
        pin(node, cores[0] if node.name in ("alice", "bob") else cores[-1])


def all_direct(client: ClientNode) -> bool:
    """Whether it reaches every peer without the relay."""
    return all((peer["path"] or "").startswith("direct") for peer in client.status()["peers"])


def sent(client: ClientNode) -> int:
    """Frames that have left, towards the peer that got most."""
    return max(int(peer["tx_frames"]) for peer in client.status()["peers"])


def stream(mesh: Mesh, kind: str, arguments: argparse.Namespace, core: int) -> tuple[float, float]:
    """Gbit/s of one run, and thousands of frames of the storm a second that left meanwhile to each peer."""
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    source = mesh.clients[KINDS[kind]]
    command = [*flood_arguments("send", GROUP, arguments.seconds + 60), str(arguments.pace)]
    storm = source.host.spawn(["taskset", "-c", str(core), *command], f"storm-{kind}.log")
    try:
        time.sleep(SETTLE)
        before, begun = sent(source), time.monotonic()
        rate = iperf(alice.host, bob.ipv4, arguments.seconds).gbit_per_second
        return rate, (sent(source) - before) / (time.monotonic() - begun) / 1000
    finally:
        storm.terminate()


def measure(arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """`rounds` runs of each kind, in turns."""
    results: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    cores = sorted(os.sched_getaffinity(0))
    with Lab() as lab:
        mesh = Mesh(lab)
        start(mesh, cores)
        os.sched_setaffinity(0, {cores[0]})  # what is started from here: both ends of the stream
        alice, bob = mesh.clients["alice"], mesh.clients["bob"]
        alice.host.ping(bob.ipv4)
        with iperf_server(bob.host, bob.ipv4):
            for number in range(arguments.rounds):
                for kind in KINDS:
                    results[kind].append(stream(mesh, kind, arguments, cores[-1]))
                    rate, storm = results[kind][-1]
                    line = f"round {number + 1} {kind:<8} {rate:.3f} Gbit/s, {storm:.1f} k/s of broadcast"
                    print(line, file=sys.stderr)
        refused = {name: alice.peer(name)["refused"].get("broadcast_budget", 0) for name in ("carol", "dave")}
        print(f"alice refused {refused['carol']} of carol and {refused['dave']} of dave", file=sys.stderr)
        os.sched_setaffinity(0, cores)
    lab.check_leaks()
    return results


def summary(
    results: dict[str, list[tuple[float, float]]], arguments: argparse.Namespace
) -> dict[str, object]:
    """Medians, ratios and the conditions, as `--json` prints them."""
    medians = {kind: statistics.median(rate for rate, _ in runs) for kind, runs in results.items()}
    return {
        "schema": "shadowmesh.bench.storm/1",
        "ratio": {kind: medians[kind] / medians["aside"] for kind in KINDS if kind != "aside"},
        "median_gbit_per_second": medians,
        "storm_kpps": {kind: statistics.median(storm for _, storm in runs) for kind, runs in results.items()},
        "pace": arguments.pace,
        "seconds": arguments.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "runs": results,
    }


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = bench_parser(__doc__, "one round of one second")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="duration of one run (default 5)")
    parser.add_argument("--pace", type=int, default=0, help="datagrams a second of the storm (0: all it can)")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = arguments.seconds = 1
    results = measured(lambda: measure(arguments))
    found = summary(results, arguments)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for kind, runs in results.items():
        rates, storm = [rate for rate, _ in runs], statistics.median(storm for _, storm in runs)
        median = statistics.median(rates)
        ratio = median / statistics.median(rate for rate, _ in results["aside"])
        print(
            f"{kind:<8} {median:>7.3f} Gbit/s ({min(rates):.3f} to {max(rates):.3f}), {ratio:.3f} of aside, "
            f"{storm:.1f} thousand broadcast frames a second"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

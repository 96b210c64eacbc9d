"""How much does a relay leg over TCP carry, compared with one by UDP?

iperf3 through one relay to the same client: from alice, whose leg runs by UDP, and from carol, whose UDP is
blocked, so that hers runs over a WebSocket with TLS; in turns, both directions.  Also the round-trip time of
each while nothing else runs and under the load of its own stream: a stream that carries streams can only
wait.  Both relay legs of the UDP pair and one of the TCP pair share the cores with everything else.
Needs root.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.process import LabError
from shadowmesh.testing.traffic import Iperf, iperf, iperf_server
from shadowmesh.testing.web import block_udp, serve_tcp, use_tcp

KINDS = ("udp", "tcp")
DIRECTIONS = ("up", "down")
Results = dict[str, list[Iperf]]


def measure(rounds: int, seconds: int) -> tuple[Results, dict[str, float]]:
    """`rounds` runs of each kind and direction, in turns; and milliseconds of round trips."""
    results: Results = {f"{kind} {direction}": [] for kind in KINDS for direction in DIRECTIONS}
    delays: dict[str, float] = {}
    with Lab() as lab:
        mesh = Mesh(lab)
        relay = mesh.relay()
        alice, bob, carol = (mesh.client(name) for name in ("alice", "bob", "carol"))
        mesh.configure()
        serve_tcp(relay)
        use_tcp(carol, relay.host)
        block_udp(carol.host)
        mesh.start()
        if (alice.relay_status()["transport"], carol.relay_status()["transport"]) != KINDS:
            raise LabError("the legs do not run as they should")
        clients = dict(zip(KINDS, (alice, carol), strict=True))
        with iperf_server(bob.host, bob.ipv4):
            for kind, client in clients.items():
                client.host.ping(bob.ipv4)
                delays[f"{kind} idle"] = ping(client, bob.ipv4, 3)
            for number in range(rounds):
                for kind, client in clients.items():
                    for direction in DIRECTIONS:
                        result = iperf(client.host, bob.ipv4, seconds, reverse=direction == "down")
                        results[f"{kind} {direction}"].append(result)
                        print(f"round {number + 1} {kind} {direction:<4} {result}", file=sys.stderr)
            for kind, client in clients.items():
                command = ["iperf3", "-c", bob.ipv4, "-t", "8", "--forceflush"]
                load = client.host.spawn(command, f"load-{kind}.log")
                load.wait_for_line("sec", 10.0)
                delays[f"{kind} loaded"] = ping(client, bob.ipv4, 4)
                load.wait(30.0)
        print(f"legs: {carol.relay_status()}", file=sys.stderr)
    lab.check_leaks()
    return results, delays


def ping(client: ClientNode, address: str, seconds: int) -> float:
    """Median round-trip time in milliseconds."""
    text = client.host.run(["ping", "-n", "-i", "0.05", "-w", str(seconds), address]).stdout
    return statistics.median(float(found) for found in re.findall(r"time=([0-9.]+)", text))


def summary(results: Results, delays: dict[str, float], seconds: int) -> dict[str, Any]:
    """As `--json` prints it."""
    medians = {kind: statistics.median(run.gbit_per_second for run in runs) for kind, runs in results.items()}
    return {
        "schema": "shadowmesh.bench.tcp/1",
        "ratio": {way: medians[f"tcp {way}"] / medians[f"udp {way}"] for way in DIRECTIONS},
        "median_gbit_per_second": medians,
        "median_round_trip_ms": delays,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "runs": {kind: [asdict(run) for run in runs] for kind, runs in results.items()},
    }


def print_table(found: dict[str, Any]) -> None:
    """The summary for people."""
    print(
        f"{'':<6} {'up':>8} {'down':>8}   Gbit/s, one TCP stream {'':>8} idle {'':>4} loaded   ms round trip"
    )
    for kind in KINDS:
        rates = [found["median_gbit_per_second"][f"{kind} {way}"] for way in DIRECTIONS]
        delays = [found["median_round_trip_ms"][f"{kind} {load}"] for load in ("idle", "loaded")]
        print(f"{kind:<6} {rates[0]:>8.3f} {rates[1]:>8.3f} {delays[0]:>38.2f} {delays[1]:>11.2f}")
    print(f"{'ratio':<6} {found['ratio']['up']:>8.3f} {found['ratio']['down']:>8.3f}   tcp / udp")


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = bench_parser(__doc__, "one round of one second")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="duration of one run (default 5)")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = arguments.seconds = 1
    results, delays = measured(lambda: measure(arguments.rounds, arguments.seconds))
    found = summary(results, delays, arguments.seconds)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

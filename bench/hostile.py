"""What share of its loss-free throughput does TCP keep on a bad link, over the overlay and without it?

A middlebox in alice's cable (shadowmesh.testing.cable) impairs all that she sends and receives.  Under each
condition, in turns: iperf3 from alice to bob over the bare underlay, over the overlay on the direct path, and
over the overlay through the relay to carol; then alice begins anew, and her sessions are waited for.  All
conditions have the same rate and delay, far below what the middlebox can move, so that it is the link that
limits.  Prints medians, their share of the clean link's, and overlay / underlay of the same condition.
Needs root.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.cable import Cable
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.lab import UNDERLAY_INTERFACE, Lab
from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import iperf, iperf_server

if TYPE_CHECKING:
    from collections.abc import Sequence

UNDERLAY, DIRECT, RELAYED = "underlay", "direct", "relayed"
PATHS = (UNDERLAY, DIRECT, RELAYED)
SET_UP = "set-up"
CLEAN = "clean"
LINK = Impairment(delay=0.01, rate=4_000_000, queue=0.05)
"""32 Mbit/s, 20 ms round trip."""
CONDITIONS = {
    CLEAN: LINK,
    "loss 1 %": replace(LINK, loss=0.01),
    "loss 5 %": replace(LINK, loss=0.05),
    "loss 20 %": replace(LINK, loss=0.2),
    "bursts of 50 ms, 5 %": replace(LINK, loss=0.05, burst=0.05),
    "delay 100 ms": replace(LINK, delay=0.1),
    "jitter 30 ms": replace(LINK, jitter=0.03),
    "reorder 5 %": replace(LINK, reorder=0.05),
    "duplicate 10 %": replace(LINK, duplicate=0.1),
    "corrupt 5 %": replace(LINK, corrupt=0.05),
    "MTU 1280": replace(LINK, mtu=1280),
    "MTU 1280, loss 5 %": replace(LINK, mtu=1280, loss=0.05),
    "all, mild": replace(
        LINK, jitter=0.01, loss=0.01, burst=0.02, duplicate=0.02, reorder=0.02, corrupt=0.01
    ),
}
SETTLE = 30.0
SET_UP_TIMEOUT = 120.0
SMALL_SEGMENT = 1228
"""Bytes that TCP puts into an IPv4 packet of 1280, less timestamps."""

Figures = dict[str, dict[str, list[float]]]


def start(lab: Lab) -> tuple[ClientNode, ClientNode, ClientNode]:
    """alice, bob with a direct path to her, carol without one."""
    mesh = Mesh(lab)
    mesh.relay()
    alice = mesh.client("alice", ["bob", "carol"])
    bob, carol = (mesh.client(name, ["alice"]) for name in ("bob", "carol"))
    mesh.configure()
    for client in (alice, bob):
        client.config["paths"] = {"direct": "auto"}
    mesh.start()
    return alice, bob, carol


def settle(alice: ClientNode, bob: ClientNode) -> None:
    """Wait for the direct path both ways."""
    ends = ((alice, "bob"), (bob, "alice"))
    wait_until(
        lambda: all(str(client.peer(peer)["path"]).startswith("direct") for client, peer in ends),
        SETTLE,
        lambda: str([client.peer(peer)["path"] for client, peer in ends]),
    )


def measure(names: list[str], rounds: int, seconds: int, congestion: str | None) -> Figures:
    """Mbit/s of each path, and seconds of set-up, under each condition."""
    figures: Figures = {name: {path: [] for path in (*PATHS, SET_UP)} for name in names}
    with Lab(ipv6=False) as lab:
        alice, bob, carol = start(lab)
        cable = Cable(alice.host)
        targets = {UNDERLAY: (bob, bob.host.address), DIRECT: (bob, bob.ipv4), RELAYED: (carol, carol.ipv4)}
        servers = [iperf_server(client.host, address) for client, address in targets.values()]
        with servers[0], servers[1], servers[2]:
            for _ in range(rounds):
                for name in names:
                    settle(alice, bob)
                    limit_segments((alice, bob), CONDITIONS[name].mtu < lab.mtu)
                    cable.impair(CONDITIONS[name])
                    for path, (_, address) in targets.items():
                        found = iperf(alice.host, address, seconds, congestion)
                        figures[name][path].append(found.gbit_per_second * 1000)
                    figures[name][SET_UP].append(set_up(alice))
                    cable.clear()
                    last = {path: round(values[-1], 2) for path, values in figures[name].items()}
                    print(f"{name}: {last}", file=sys.stderr)
    lab.check_leaks()
    return figures


def limit_segments(ends: Sequence[ClientNode], small: bool) -> None:
    """Let TCP on the underlay offer only segments that fit: it does not look for a black hole."""
    limit = f" advmss {SMALL_SEGMENT}" if small else ""
    for client in ends:
        source = f"dev {UNDERLAY_INTERFACE} src {client.host.address}"
        client.host.ip_batch([f"route change 10.99.0.0/24 {source}{limit}"])


def share(one: float, other: float) -> float | None:
    """Their ratio; None where the other could do nothing."""
    return one / other if other else None


def set_up(alice: ClientNode) -> float:
    """Seconds from the start of alice's program until she has both sessions."""
    alice.stop()
    begun = time.monotonic()
    alice.launch()
    alice.wait_peers("bob", "carol", timeout=SET_UP_TIMEOUT)
    return time.monotonic() - begun


def summary(figures: Figures, seconds: int) -> dict[str, Any]:
    """As `--json` prints it."""
    medians = {
        name: {path: statistics.median(values) for path, values in found.items()}
        for name, found in figures.items()
    }
    return {
        "schema": "shadowmesh.bench.hostile/1",
        "median_mbit_per_second": {
            name: {path: found[path] for path in PATHS} for name, found in medians.items()
        },
        "share_of_clean": {
            name: {path: share(found[path], medians[CLEAN][path]) for path in PATHS}
            for name, found in medians.items()
        },
        "overlay_by_underlay": {
            name: {path: share(found[path], found[UNDERLAY]) for path in (DIRECT, RELAYED)}
            for name, found in medians.items()
        },
        "set_up_seconds": {name: found[SET_UP] for name, found in medians.items()},
        "seconds": seconds,
        "cores": os.cpu_count(),
        "runs": figures,
    }


def print_table(found: dict[str, Any]) -> None:
    """The summary for people."""
    print(f"{'':<22}" + "".join(f"{path:>17}" for path in PATHS) + f"{'direct/under':>14}{'set-up s':>10}")
    for name, rates in found["median_mbit_per_second"].items():
        shares = found["share_of_clean"][name]
        cells = "".join(f"{rates[path]:>10.2f} {shares[path] or 0:>5.0%} " for path in PATHS)
        ratio = found["overlay_by_underlay"][name][DIRECT] or float("inf")
        print(f"{name:<22}{cells}{ratio:>14.2f}{found['set_up_seconds'][name]:>10.2f}")
    print(
        "Mbit/s, one TCP stream, and the share of the clean link's; overlay / underlay of the same condition"
    )


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = bench_parser(__doc__, "two conditions, one round of one second")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="duration of one run (default 5)")
    parser.add_argument("--congestion", help="congestion control, e.g. cubic (default: the system's)")
    arguments = parser.parse_args()
    names = list(CONDITIONS)
    if arguments.smoke:
        arguments.rounds = arguments.seconds = 1
        names = names[:2]
    figures = measured(lambda: measure(names, arguments.rounds, arguments.seconds, arguments.congestion))
    found = summary(figures, arguments.seconds)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

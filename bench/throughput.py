"""How much of the raw link does one TCP stream get through the overlay?

iperf3 between two clients over the overlay (through the relay, which shares the same cores), and in
the same run between the same hosts over the bare veth link, in turns.  Prints the median of each and
their ratio: absolute figures differ from day to day and from machine to machine.  Needs root.

With --firewall N, in the same turns also with N rules at both clients (the last one lets the stream in) and
--flows connections that their firewalls know, both taken over by the verb reload.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.traffic import Iperf, iperf, iperf_server

RAW, OVERLAY, FIREWALL = "raw", "overlay", "firewall"
IPERF_PORT = 5201
FIRST_FLOW = 10_000
"""Lowest port of the connections that fill the table."""


@dataclass(frozen=True)
class Run(Iperf):
    """`cpu_seconds`: of both clients meanwhile."""

    cpu_seconds: float = 0.0

    @property
    def cpu_per_gigabyte(self) -> float:
        """Seconds; tells more than the rate where others use the machine."""
        return self.cpu_seconds / self.received_bytes * 1e9


def cpu_seconds(clients: list[ClientNode]) -> float:
    """User and system time that the clients have used."""
    total = 0
    for client in clients:
        # After the name in parentheses: field 3 and on (proc(5)); utime and stime are 14 and 15.
        fields = Path(f"/proc/{client.running_process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """`rounds` runs of each, in turns, so that a slow minute of the machine meets both."""
    kinds = [RAW, OVERLAY, *([FIREWALL] if arguments.firewall else [])]
    results: dict[str, list[Run]] = {kind: [] for kind in kinds}
    with Lab(mtu=arguments.mtu) as lab:
        mesh = Mesh(lab)
        mesh.relay()
        alice, bob = mesh.client("alice"), mesh.client("bob")
        mesh.start()
        alice.host.ping(bob.ipv4)
        addresses = {RAW: bob.host.address, OVERLAY: bob.ipv4, FIREWALL: bob.ipv4}
        with iperf_server(bob.host, addresses[RAW]), iperf_server(bob.host, addresses[OVERLAY]):
            for number in range(arguments.rounds):
                # To and fro, so that none of them always has the other's aftermath.
                for kind in kinds if number % 2 == 0 else reversed(kinds):
                    if arguments.firewall:
                        set_firewall(
                            [alice, bob], arguments.firewall if kind == FIREWALL else 0, arguments.flows
                        )
                    used = cpu_seconds([alice, bob])
                    found = iperf(alice.host, addresses[kind], arguments.seconds, arguments.congestion)
                    result = Run(**asdict(found), cpu_seconds=cpu_seconds([alice, bob]) - used)
                    results[kind].append(result)
                    print(f"round {number + 1} {kind:<8} {result}", file=sys.stderr)
    lab.check_leaks()
    return results


def set_firewall(clients: list[ClientNode], rules: int, flows: int) -> None:
    """Give both clients this many rules (0: no firewall), and fill the tables of their firewalls."""
    for client in clients:
        client.config.pop("firewall", None)
        if rules:
            client.config["firewall"] = firewall(rules)
        client.write_config()
        client.verb("reload")
    if rules:
        alice, bob = clients
        with alice.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port in range(FIRST_FLOW, FIRST_FLOW + flows):
                sender.sendto(b"flow", (bob.ipv4, port))


def firewall(rules: int) -> dict[str, Any]:
    """Rules of several kinds, none of which matches the stream but the last."""
    kinds: list[dict[str, Any]] = [
        {"action": "deny", "proto": "tcp", "dst_port": "1-1023"},
        {"action": "deny", "src": "192.0.2.0/24"},
        {"action": "allow", "proto": "udp", "dst_port": "10000-60000"},
        {"action": "deny", "vlan": 10},
        {"action": "deny", "proto": "tcp", "src": "10.77.9.0/24", "dst_port": [8080, 8443]},
    ]
    # Copies, since a configuration takes no YAML aliases.
    found = [{"direction": ("in", "out")[i % 2], **deepcopy(kinds[i % len(kinds)])} for i in range(rules - 1)]
    allow = {"action": "allow", "direction": "in", "proto": "tcp", "dst_port": IPERF_PORT}
    return {"inbound": "deny", "rules": [*found, allow]}


def paired(results: dict[str, list[Run]], value: Callable[[Run], float]) -> float:
    """Median over the rounds of the value with a firewall by that without."""
    both = zip(results[FIREWALL], results[OVERLAY], strict=True)
    return statistics.median(value(one) / value(other) for one, other in both)


def summary(results: dict[str, list[Run]], arguments: argparse.Namespace) -> dict[str, object]:
    """Medians, ratio, spread and the conditions, as `--json` prints them."""
    rates = {kind: [run.gbit_per_second for run in runs] for kind, runs in results.items()}
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    with_rules = {}
    if FIREWALL in medians:
        with_rules = {
            "firewall_ratio": paired(results, lambda run: run.gbit_per_second),
            "firewall_cpu_ratio": paired(results, lambda run: run.cpu_per_gigabyte),
            "firewall_rules": arguments.firewall,
            "firewall_flows": arguments.flows,
        }
    return {
        "schema": "shadowmesh.bench.throughput/1",
        "ratio": medians[OVERLAY] / medians[RAW],
        **with_rules,
        "median_gbit_per_second": medians,
        "range_gbit_per_second": {kind: [min(values), max(values)] for kind, values in rates.items()},
        "congestion_control": results[OVERLAY][0].congestion,
        "underlay_mtu": arguments.mtu,
        "seconds": arguments.seconds,
        "cores": os.cpu_count(),
        "runs": {kind: [asdict(run) for run in runs] for kind, runs in results.items()},
    }


def print_table(results: dict[str, list[Run]], arguments: argparse.Namespace) -> None:
    """The summary for people."""
    print(
        f"{'':<10} {'median':>9} {'min':>9} {'max':>9}   Gbit/s, TCP, one stream, "
        f"{arguments.rounds} x {arguments.seconds} s, {results[OVERLAY][0].congestion}"
    )
    for kind, runs in results.items():
        rates = [run.gbit_per_second for run in runs]
        print(f"{kind:<10} {statistics.median(rates):>9.3f} {min(rates):>9.3f} {max(rates):>9.3f}")
    found = summary(results, arguments)
    if FIREWALL in results:
        print(
            f"{'ratio':<10} {found['firewall_ratio']:>9.4f}   with {arguments.firewall} rules and "
            f"{arguments.flows} known connections / without a firewall, "
            "round by round"
        )
        print(f"{'ratio':<10} {found['firewall_cpu_ratio']:>9.4f}   of the clients' CPU seconds per byte")
    print(
        f"{'ratio':<10} {found['ratio']:>9.4f}   overlay / raw link; iperf3, both clients and the relay on "
        f"{os.cpu_count()} cores"
    )


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = bench_parser(__doc__, "one round of one second")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="duration of one run (default 5)")
    parser.add_argument("--congestion", help="congestion control, e.g. cubic (default: the system's)")
    parser.add_argument("--mtu", type=int, default=1500, help="MTU of the underlay (default 1500)")
    parser.add_argument("--firewall", type=int, default=0, metavar="RULES", help="measure with rules, too")
    parser.add_argument("--flows", type=int, default=0, help="connections that the firewalls know then")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = arguments.seconds = 1
    results = measured(lambda: measure(arguments))
    if arguments.json:
        print(json.dumps(summary(results, arguments), indent=2))
    else:
        print_table(results, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())

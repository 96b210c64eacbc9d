"""How does ShadowMesh compare with other overlays on this machine, in one run?

Every system runs between the same two hosts of a lab, one at a time; a round measures each once, so
that a slow minute of the machine meets all.  Prints medians, and the ratio of ShadowMesh to each: only
those can be compared between days.  Needs root; systems that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.systems import SYSTEMS
from bench.systems.base import INNER_MTU
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.process import LabError
from shadowmesh.testing.traffic import iperf, iperf_server

if TYPE_CHECKING:
    from bench.systems.base import System
    from shadowmesh.testing.lab import Host

Run = dict[str, float]

SCHEMA = "shadowmesh.bench.compare/1"
FLOOD = Path(__file__).resolve().parent / "flood.py"
FLOOD_PORT = 5301
FLOOD_RATES = (50_000, 100_000, 200_000, 400_000, 0)
"""Datagrams a second offered, one after another; 0 is without a limit.  The peak is the best of them."""

PING_INTERVAL = 0.01
"""Seconds.  Below 10 ms ping polls instead of sleeping, and keeps a core awake that is idle otherwise."""

SETTLE = 0.5
"""Seconds between the first answer and the first measurement."""


class Measurement:
    """One system that is up: the figures of one round, each by its own method."""

    def __init__(
        self, system: System, near: Host, far: Host, address: str, options: argparse.Namespace
    ) -> None:
        self._system = system
        self._near = near
        self._far = far
        self._address = address
        self._options = options

    def all(self) -> Run:
        """Everything of one round, in an order that leaves the idle figures undisturbed."""
        run: Run = {}
        run |= self._ping("idle")
        run |= self._tcp()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(self._iperf, self._options.seconds + 1)
            time.sleep(0.5)
            run |= self._ping("load")
            load.result()
        run |= self._floods()
        if self._system.ends:
            run["rss_mb"] = max(resident(process.pid) for process in self._system.ends) / 1e6
        return run

    def _iperf(self, seconds: int, reverse: bool = False, streams: int = 1) -> tuple[float, int]:
        done = iperf(self._near, self._address, seconds, self._options.congestion, reverse, streams)
        return done.gbit_per_second, done.received_bytes

    def _cpu(self) -> float:
        return sum(process.cpu_seconds() for process in (*self._system.ends, *self._system.helpers))

    def _tcp(self) -> Run:
        seconds = self._options.seconds
        before = self._cpu()
        one, received = self._iperf(seconds)
        run = {"tcp1_gbit": one}
        if self._system.ends:
            run["cpu_s_per_gb"] = (self._cpu() - before) / (received / 1e9)
        run["tcp4_gbit"], _ = self._iperf(seconds, streams=4)
        run["reverse_gbit"], _ = self._iperf(seconds, reverse=True)
        return run

    def _ping(self, state: str) -> Run:
        """p50 and p99 in µs of `seconds` of echoes."""
        count = max(10, int(self._options.seconds / PING_INTERVAL))
        command = ["ping", "-n", "-i", str(PING_INTERVAL), "-c", str(count), "-W", "1", self._address]
        done = self._near.run(command, check=False, timeout=self._options.seconds + 30)
        times = sorted(float(value) * 1000 for value in re.findall(r"time=([0-9.]+) ms", done.stdout))
        if not times:
            raise LabError(f"{' '.join(command)}: no answer\n{done.stdout}{done.stderr}")
        return {
            f"rtt_{state}_p50_us": times[len(times) // 2],
            f"rtt_{state}_p99_us": times[min(len(times) - 1, len(times) * 99 // 100)],
        }

    def _floods(self) -> Run:
        rates = (0,) if self._options.smoke else FLOOD_RATES
        received = {rate: self._flood(rate) for rate in rates}
        return {"udp64_peak_kpps": max(received.values()), "udp64_flood_kpps": received[0]}

    def _flood(self, rate: int) -> float:
        """64-byte datagrams received, in thousands a second, at one offered rate."""
        seconds = str(min(self._options.seconds, 2))
        arguments = [self._address, str(FLOOD_PORT), seconds]
        # -S: no site packages, and so nothing to load but the standard library.
        python = [sys.executable, "-S", str(FLOOD)]
        sink = self._far.spawn([*python, "receive", *arguments], f"flood-{len(self._far.processes)}.log")
        try:
            sink.wait_for_line("listening", 10.0)
            self._near.run([*python, "send", *arguments, str(rate)])
            sink.wait(30.0)
            if sink.returncode:
                raise LabError(sink.report())
            return float(json.loads(sink.output().splitlines()[-1])["per_second"]) / 1000
        finally:
            sink.terminate()


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def one_round(lab: Lab, system: System, options: argparse.Namespace) -> Run:
    """Start the system, measure it, stop it."""
    near, far = lab.host("alice"), lab.host("bob")
    try:
        address = system.start(lab, near, far)
        try:
            near.ping(address, timeout=30.0)
        except LabError as error:
            raise LabError(f"{error}\n{system.reports()}") from None
        time.sleep(SETTLE)
        with iperf_server(far, address):
            return Measurement(system, near, far, address, options).all()
    finally:
        system.stop()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all systems: the document that `--json` prints."""
    chosen = {name: SYSTEMS[name]() for name in options.systems}
    skipped = {name: reason for name, system in chosen.items() if (reason := system.available())}
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    runs: dict[str, list[Run]] = {name: [] for name in chosen if name not in skipped}
    for number in range(options.rounds):
        for name, found in runs.items():
            # A lab of its own for each: no interface, route or neighbour entry of the one before.
            with Lab(mtu=options.mtu) as lab:
                try:
                    found.append(one_round(lab, chosen[name], options))
                    line = ", ".join(f"{key} {value:.4g}" for key, value in found[-1].items())
                except LabError as error:
                    skipped[name] = line = f"failed: {str(error).splitlines()[0]}"
                    print(error, file=sys.stderr)
            lab.check_leaks()
            print(f"round {number + 1} {name}: {line}", file=sys.stderr)
    systems = {name: entry(chosen[name], found) for name, found in runs.items() if found}
    return document(systems, skipped, options)


def entry(system: System, runs: list[Run]) -> dict[str, Any]:
    """One system of the document: medians, range and every run."""
    keys = runs[0].keys()
    return {
        "layer": system.layer,
        "version": system.version(),
        "cipher": system.cipher,
        "mtu": system.mtu,
        "median": {key: statistics.median(run[key] for run in runs) for key in keys},
        "range": {key: [min(run[key] for run in runs), max(run[key] for run in runs)] for key in keys},
        "runs": runs,
    }


def document(
    systems: dict[str, dict[str, Any]], skipped: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Everything, with the conditions and the ratios of ShadowMesh to each."""
    return {
        "schema": SCHEMA,
        "congestion_control": options.congestion,
        "underlay_mtu": options.mtu,
        "inner_mtu": INNER_MTU,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "ours": (ours := report.own(systems)),
        "systems": systems,
        "skipped": skipped,
        "ratios": report.ratios(systems, ours),
    }


def system_names(text: str) -> list[str]:
    """The argument of --systems."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(SYSTEMS)}")
    return names


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--systems", type=system_names, help=f"some of {','.join(SYSTEMS)} (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every system (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="duration of one measurement (default 3)")
    parser.add_argument("--congestion", default="cubic", help="congestion control (default cubic)")
    parser.add_argument("--mtu", type=int, default=1500, help="MTU of the underlay (default 1500)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="one system, one second: does it run at all?")
    parser.add_argument("--save", action="store_true", help="write bench/results and the table in README.md")
    parser.add_argument("--render", action="store_true", help="as --save, from the results of the last run")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = arguments.seconds = 1
    arguments.systems = arguments.systems or (["raw"] if arguments.smoke else list(SYSTEMS))
    return arguments


def main() -> int:
    """Measure, print, save."""
    options = parse_arguments()
    try:
        result = report.load() if options.render else measure(options)
    except (LabError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if options.json else report.text(result))
    if options.save or options.render:
        for path in report.save(result):
            print(f"written: {path}", file=sys.stderr)
    return 0 if result["systems"] else 1


if __name__ == "__main__":
    sys.exit(main())

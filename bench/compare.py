"""How does ShadowMesh compare with other overlays on this machine, in one run?

Every system runs between the same two hosts of a lab, one at a time; a round measures each once, so
that a slow minute of the machine meets all.  Prints medians, and the ratio of ShadowMesh to each: only
those can be compared between days.  Needs root; systems that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.measurement import FLOOD_SECONDS, Measurement, Run, flood_ceiling
from bench.systems import SYSTEMS
from bench.systems.base import INNER_MTU
from bench.verdict import judge
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.process import LabError
from shadowmesh.testing.traffic import iperf_server

if TYPE_CHECKING:
    from bench.systems.base import System

SCHEMA = "shadowmesh.bench.compare/1"
SETTLE = 0.5
"""Seconds between the first answer and the first measurement."""


@dataclass
class Results:
    """What the rounds have found so far."""

    runs: dict[str, list[Run]]
    failures: dict[str, str] = field(default_factory=dict)
    ceiling: float = 0.0
    load: float = 0.0
    """Processes that wanted to run before the first measurement: others share the machine then."""
    interrupted: bool = False


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


def rounds(chosen: dict[str, System], options: argparse.Namespace, results: Results) -> None:
    """Measure all systems in turns; every second round backwards, so that none always follows the same."""
    for number in range(options.rounds):
        for name in list(chosen) if number % 2 == 0 else reversed(chosen):
            # A lab of its own for each: no interface, route or neighbour entry of the one before.
            lab = Lab(mtu=options.mtu)
            try:
                with lab:
                    found = one_round(lab, chosen[name], options)
                lab.check_leaks()
                results.runs[name].append(found)
                line = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            except LabError as error:
                line = f"round {number + 1} failed: {str(error).splitlines()[0]}"
                results.failures[name] = line
                print(error, file=sys.stderr)
            print(f"round {number + 1} {name}: {line}", file=sys.stderr)


def ceiling(options: argparse.Namespace) -> float:
    """What the source of small datagrams can do by itself on this machine, in thousands a second."""
    with Lab(mtu=options.mtu) as lab:
        return flood_ceiling(lab.host("alice"), min(options.seconds, FLOOD_SECONDS))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all systems: the document that `--json` prints.  An interrupt ends it early."""
    chosen = {name: SYSTEMS[name]() for name in options.systems}
    skipped = {name: reason for name, system in chosen.items() if (reason := system.available())}
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
        del chosen[name]
    results = Results({name: [] for name in chosen}, load=os.getloadavg()[0])
    try:
        results.ceiling = ceiling(options)
        rounds(chosen, options, results)
    except KeyboardInterrupt:
        results.interrupted = True
    systems = {name: entry(chosen[name], runs) for name, runs in results.runs.items() if runs}
    return document(systems, skipped, results, options)


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
    systems: dict[str, dict[str, Any]],
    skipped: dict[str, str],
    results: Results,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Everything, with the conditions, the ratios of ShadowMesh to each, and the requirements."""
    return {
        "schema": SCHEMA,
        "congestion_control": options.congestion,
        "underlay_mtu": options.mtu,
        "inner_mtu": INNER_MTU,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "load_before": results.load,
        "interrupted": results.interrupted,
        "flood_ceiling_kpps": results.ceiling,
        "ours": (ours := report.own(systems)),
        "systems": systems,
        "skipped": skipped,
        "failures": results.failures,
        "ratios": report.ratios(systems, ours),
        "verdicts": [verdict.row() for verdict in judge(systems)],
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


def _interrupted(_number: int, _frame: object) -> None:
    """SIGTERM becomes what Ctrl-C is, so that the lab cleans up."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print, save; 130 after an interrupt (nothing is saved then), 1 if anything failed."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        result = report.load() if options.render else measure(options)
    except (LabError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if options.json else report.text(result))
    if result["interrupted"]:
        return 130
    if options.save or options.render:
        for path in report.save(result):
            print(f"written: {path}", file=sys.stderr)
    return 0 if result["systems"] and not result["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())

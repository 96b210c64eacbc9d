"""Is a datagram lost or doubled when a session takes fresh keys?

Two public clients with a direct path.  One stream of numbered datagrams, at 60 % of the highest rate that
this run found to be free of loss, while the session rekeys again and again; the same before, with rekeys
at their ordinary pace, as a control.  What the kernel drops in its queues is counted apart.  Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from bench.migrate import RATES, SETTLED, SHARE, Run, describe, highest_rate, stream
from shadowmesh.testing.natlab import NatLab
from shadowmesh.testing.pair import DIRECT, NatPair
from shadowmesh.testing.process import wait_until

PACE = 2
"""Seconds between rekeys: the least that the configuration allows."""
CONTROL = 10.0
"""Seconds of the control run."""


def started(lab: NatLab, pace: int | None) -> NatPair:
    """A pair on its direct path; `pace` None is the configuration's default."""
    pair = NatPair(lab, (None, None))
    for client in pair.clients:
        if pace is not None:
            client.config["session"] = {"rekey_seconds": pace}
    pair.start().wait(DIRECT)
    return pair


def wait_rekeys(pair: NatPair, count: int) -> float:
    """Return when the session has taken fresh keys `count` times; how often it did, really."""
    begun = pair.alice.peer("bob")["epoch"]

    def taken() -> bool:
        return bool(pair.alice.peer("bob")["epoch"] >= begun + count)

    wait_until(taken, 2.0 * PACE * count + 30.0, f"{count} rekeys")
    return float(pair.alice.peer("bob")["epoch"] - begun)


def measure(arguments: argparse.Namespace) -> tuple[int, dict[str, Run]]:
    """Datagrams a second, and both runs; `Run.switch` of the second is the number of rekeys."""
    with NatLab() as lab:
        pair = started(lab, None)
        rate = arguments.rate or int(SHARE * highest_rate(pair, arguments.size))
        runs = {"control": stream(pair, rate, arguments.size, CONTROL / 2)}
        print(f"control: {describe(runs['control'])}", file=sys.stderr)
    lab.check_leaks()
    with NatLab() as lab:
        pair = started(lab, PACE)
        event = partial(wait_rekeys, pair, arguments.rekeys)
        runs["rekeys"] = stream(pair, rate, arguments.size, SETTLED, event)
    lab.check_leaks()
    return rate, runs


def main() -> int:
    """Parse the arguments, measure, print; 1 if a datagram was lost or doubled."""
    parser = bench_parser(__doc__, "two rekeys")
    parser.add_argument("--rekeys", type=int, default=200, help="how many, 2 s apart (default 200)")
    parser.add_argument("--size", type=int, default=1000, help="bytes of UDP payload (default 1000)")
    parser.add_argument(
        "--rate", type=int, default=0, help="datagrams a second (default: 60 %% of the highest)"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rekeys, arguments.rate = 2, arguments.rate or RATES[0]
    rate, runs = measured(lambda: measure(arguments))
    if arguments.json:
        document = {"schema": "shadowmesh.bench.rekey/1", "cores": os.cpu_count(), "rate": rate}
        print(json.dumps({**document, **{name: asdict(run) for name, run in runs.items()}}, indent=2))
    else:
        print(f"{rate} datagrams of {arguments.size} bytes a second")
        for name, run in runs.items():
            times = f" ({run.switch:.0f} rekeys)" if run.switch else ""
            print(f"{name}{times}: {run.result}, {run.queue_drops} dropped in kernel queues, then {run.path}")
    return int(any(run.result.lost or run.result.doubled for run in runs.values()))


if __name__ == "__main__":
    sys.exit(main())

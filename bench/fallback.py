"""How long is traffic interrupted when a direct path dies, and when is it back?

Two clients behind port-restricted NATs, a stream of numbered datagrams each way.  Again and again an
nftables rule in one router drops everything between the two, in both directions at once; the clients
have to notice and take the relay.  Then the rule goes, and they have to find back: in every tenth
repetition by themselves, otherwise, to save time, after a change of their networks, which makes them look at
once.  Prints the distributions: the interruption (the longer one of the two directions) and the time until
both say that they are direct again.  Needs root.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from shadowmesh.testing.natlab import Kind, NatLab, change_addresses, cut, mend
from shadowmesh.testing.pair import DIRECT, RELAY, NatPair
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.stream import Stream

LIMIT = 1.0
"""Seconds within which traffic must flow again: the project's requirement."""
RATE = 500
"""Datagrams a second in each direction: an arrival every 2 ms, so that a gap is known to 2 ms."""
SETTLED = 1.5
"""Seconds on a direct path before it is cut."""
GIVE_UP = 45.0
"""Seconds after which a fallback or a return counts as failed: rounds of a path that fails again and again
are up to 30 s apart."""
ALONE = 10
"""The return of every such repetition, from the first on, is left to the clients alone."""

Figures = dict[str, list[float]]


def repeat(pair: NatPair, routers: tuple[str, str], streams: tuple[Stream, Stream], figures: Figures) -> None:
    """Cut, wait for the streams to flow by the relay, mend, wait for the direct path."""
    near, far = (pair.lab.routers[name] for name in routers)
    time.sleep(SETTLED)
    begun = time.time()
    cut(near.host, far.wan)

    def gaps() -> list[float]:
        found = [[gap.length for gap in stream.gaps() if gap.began > begun - 0.1] for stream in streams]
        return [max(lengths) for lengths in found if lengths]

    try:
        wait_until(lambda: len(gaps()) == 2 and pair.are(RELAY), GIVE_UP, "both streams to take the relay")
        time.sleep(0.2)
        figures["interrupted"].append(max(gaps()))
    finally:
        mend(near.host)
    mended = time.monotonic()
    alone = len(figures["interrupted"]) % ALONE == 1
    for client in () if alone else pair.clients:
        change_addresses(client.host)
    pair.wait(DIRECT, GIVE_UP)
    figures["returned" if alone else "returned at once"].append(time.monotonic() - mended)


def measure(repetitions: int) -> Figures:
    """Seconds of interruption and until the return, for each repetition."""
    figures: Figures = {"interrupted": [], "returned": [], "returned at once": []}
    with NatLab() as lab:
        routers = (lab.router("near", Kind.PORT_RESTRICTED), lab.router("far", Kind.PORT_RESTRICTED))
        pair = NatPair(lab, routers).start()
        pair.wait(DIRECT, GIVE_UP)
        alice, bob = pair.clients
        there = Stream(alice.host, bob.host, bob.ipv4, RATE)
        back = Stream(bob.host, alice.host, alice.ipv4, RATE)
        with there, back:
            for stream in (there, back):
                stream.wait_flowing()
            for number in range(repetitions):
                repeat(pair, ("near", "far"), (there, back), figures)
                last = {name: round(values[-1], 3) for name, values in figures.items() if values}
                print(f"repetition {number + 1}: {last}", file=sys.stderr)
            for stream in (there, back):
                print(f"stream: {stream.stop()}", file=sys.stderr)
    lab.check_leaks()
    return figures


def quantiles(values: list[float]) -> dict[str, float]:
    """Minimum, quartiles, 90th and 99th percentile and maximum; seconds."""
    ordered = sorted(values)
    marks = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(mark * (len(ordered) - 1))] for name, mark in marks.items()}


def histogram(values: list[float], width: float) -> list[str]:
    """Lines with a bar for each class of `width` seconds from the first to the last that is not empty."""
    classes = [int(value / width) for value in values]
    return [
        f"{index * width:>6.2f} s {'#' * classes.count(index)}"
        for index in range(min(classes), max(classes) + 1)
    ]


def print_table(figures: Figures) -> None:
    """The distributions for people."""
    for name, values in ((name, values) for name, values in figures.items() if values):
        marks = "  ".join(f"{mark} {value:.3f}" for mark, value in quantiles(values).items())
        print(f"{name} (s, {len(values)} repetitions, mean {statistics.mean(values):.3f}): {marks}")
        print("\n".join(histogram(values, 0.1 if name == "interrupted" else 0.5)))
    late = sum(value > LIMIT for value in figures["interrupted"])
    print(f"interrupted for longer than {LIMIT:g} s: {late} of {len(figures['interrupted'])}")


def main() -> int:
    """Parse the arguments, measure, print; 1 if an interruption was too long."""
    parser = bench_parser(__doc__, "one repetition")
    parser.add_argument("repetitions", type=int, nargs="?", default=100, help="default 100")
    arguments = parser.parse_args()
    figures = measured(lambda: measure(1 if arguments.smoke else arguments.repetitions))
    if arguments.json:
        summary = {name: quantiles(values) for name, values in figures.items() if values}
        document = {
            "schema": "shadowmesh.bench.fallback/1",
            "cores": os.cpu_count(),
            **summary,
            "runs": figures,
        }
        print(json.dumps(document, indent=2))
    else:
        print_table(figures)
    return int(max(figures["interrupted"]) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

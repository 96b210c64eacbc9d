"""How much does a relay forward on one core, how long does it delay a packet, and who suffers from a flood?

A forwarder as the relay starts it, with 20,000 channels, has one core; sources and sinks have another. In
turns with it, the same trains go through a bare limit: the same system calls without tables and ids. Then:
what the way through the relay adds to the delay of a packet, while it is idle and at half of its rate; and
what a client that sends 20,000 small datagrams a second loses while another floods. Loopback only; no root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import trains
from bench.trains import FLOODING, MODERATE, PROBED, Child, Shape

PROTOTYPE = {
    Shape(1400, True): 2_100_000,
    Shape(64, True): 9_600_000,
    Shape(1400, False): 209_000,
    Shape(64, False): 235_000,
}
"""Datagrams a second of the design's prototype, one core, a table of 20,000."""
ASKED = 0.6
"""Of these."""
BARE, RELAY = "bare", "relay"
BUSY = 0.3
"""Load average from which the machine was not idle before."""
SETTLE = 0.5
"""Seconds until queues and shares are what they stay; a smoke test has no such patience."""
SMOKE_RATE = 10_000
"""Datagrams a second beside the probes of a smoke test, which a relay carries on any machine."""
PROBE_INTERVAL = 0.001
LATE = 2.0
"""Seconds after which a probe is lost."""
MODEST = Shape(200, False)
MODEST_RATE = 20_000
MOST_LOST = 0.1
"""Of what the moderate client sends."""
HALF = 0.505
"""Of the machine, and the error of a tick. Beyond, a figure is that of sources and sinks, not the relay's."""


@dataclass(frozen=True)
class Run:
    """Datagrams a second; of its core what the relay used, and of all cores what sources and sinks did."""

    offered: float
    forwarded: float
    delivered: float
    refused: float
    queue_full: float
    used: float
    generators: float

    @property
    def per_core(self) -> float:
        """Of a second of CPU time: the rate of a core that nobody else wants."""
        return self.forwarded / max(self.used, 1e-3)


@dataclass(frozen=True)
class Delay:
    """Microseconds, directly and through the relay; `generators` as in `Run`."""

    load: float
    direct_p50: float
    direct_p99: float
    relayed_p50: float
    relayed_p99: float
    generators: float


@dataclass(frozen=True)
class Fairness:
    """What the moderate client lost by itself and beside the flood, of 1; datagrams a second of the flood."""

    alone_lost: float
    lost: float
    flood_offered: float
    flood_forwarded: float
    generators: float


class Bench:
    """One core for the relay, one for the rest."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.relay_core, self.other_core = cores[0], cores[-1]
        self.all_cores = set(cores)
        self.cores = len(cores)
        self.settle = min(SETTLE, arguments.seconds)
        self.seconds: float = arguments.seconds
        self.channels: int = arguments.channels

    def other(self, run: Any, *given: object, room: int = 8) -> Child:
        """A source or a sink."""
        return Child({self.other_core}, run, *given, room=room)

    @contextlib.contextmanager
    def forwarder(self, sink: int, special: dict[int, int], threads: int = 1) -> Iterator[tuple[Child, int]]:
        """A relay that serves, and its port. Several threads may use all cores."""
        cores = {self.relay_core} if threads == 1 else self.all_cores
        with contextlib.ExitStack() as stack:
            links = [stack.enter_context(link) for link in trains.served(threads)]
            given = (links, sink, special, self.channels)
            child = stack.enter_context(Child(cores, trains.forwarder, *given))
            wait_for(lambda: child.counts[4] > 0)
            yield child, links[0].getsockname()[1]

    def active(self) -> list[int]:
        """Channels that carry trains: 64 of all, of as many clients."""
        step = max(1, self.channels // 64)
        return list(range(0, self.channels, step + 1 if step % 2 else step))

    def forward(self, kind: str, shape: Shape, threads: int = 1) -> Run:
        """One run of the relay, or of the bare limit."""
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(trains.bound())
            port = link.getsockname()[1]
            sink = stack.enter_context(self.other(trains.sink, link, shape))
            if kind == RELAY:
                relay, target = stack.enter_context(self.forwarder(port, {}, threads))
            else:
                own = stack.enter_context(trains.served()[0])
                target = own.getsockname()[1]
                relay = stack.enter_context(Child({self.relay_core}, trains.bare, own, port, shape))
            given = (target, shape, self.active(), 0, threads)
            source = stack.enter_context(self.other(trains.source, *given))
            return self._watch(relay, source, sink)

    def _watch(self, relay: Child, source: Child, sink: Child) -> Run:
        time.sleep(self.settle)
        begin, before = time.monotonic(), _state(relay, source, sink)
        time.sleep(self.seconds)
        after, elapsed = _state(relay, source, sink), time.monotonic() - begin
        gone = [b - a for a, b in zip(before, after, strict=True)]
        counted = gone[2] / 1e9 or elapsed  # the relay notes its counters from time to time
        return Run(
            offered=gone[5] / elapsed,
            forwarded=gone[1] / counted,
            delivered=gone[6] / elapsed,
            refused=gone[3] / counted,
            queue_full=gone[4] / counted,
            used=gone[7] / elapsed,
            generators=gone[0] / elapsed / self.cores,
        )

    def delay(self, rate: float, shape: Shape) -> Delay:
        """Probes through the relay and past it in turns, at so many datagrams a second beside them."""
        number = max(10, int(self.seconds / PROBE_INTERVAL / 2))
        with contextlib.ExitStack() as stack:
            link, end = (stack.enter_context(trains.bound()) for _ in range(2))
            children = [self.other(trains.sink, link, shape)]
            ends = self.other(trains.delays, end, room=2 + 2 * number)
            children.append(ends)
            special = {PROBED: end.getsockname()[1]}
            _, target = stack.enter_context(self.forwarder(link.getsockname()[1], special))
            if rate:
                children.append(self.other(trains.source, target, shape, self.active(), int(rate)))
            given = (target, end.getsockname()[1], number, PROBE_INTERVAL)
            for child in children:
                stack.enter_context(child)
            time.sleep(self.settle)
            prober = stack.enter_context(self.other(trains.probes, *given))
            begin, before = time.monotonic(), sum(child.cpu() for child in children)
            wait_for(lambda: prober.counts[0] == 2 * number, 10 * self.seconds + 10)
            generators = sum(child.cpu() for child in children) - before + prober.cpu()
            generators /= (time.monotonic() - begin) * self.cores
            with contextlib.suppress(RuntimeError):  # some may be lost
                wait_for(lambda: ends.counts[0] == ends.counts[1] == number, LATE)
            found = [_quantiles(list(ends.counts[2 + way : 2 + 2 * ends.counts[way] : 2])) for way in (0, 1)]
            return Delay(rate, *found[0], *found[1], generators)

    def fairness(self, shape: Shape) -> Fairness:
        """The moderate client by itself, then beside a flood of this shape."""
        with contextlib.ExitStack() as stack:
            link, modest_end, flood_end = (stack.enter_context(trains.bound()) for _ in range(3))
            ends = [
                stack.enter_context(self.other(trains.sink, one, kind))
                for one, kind in ((modest_end, MODEST), (flood_end, shape))
            ]
            special = {MODERATE: modest_end.getsockname()[1], FLOODING: flood_end.getsockname()[1]}
            relay, target = stack.enter_context(self.forwarder(link.getsockname()[1], special))
            modest = stack.enter_context(self.other(trains.source, target, MODEST, [-MODERATE], MODEST_RATE))
            alone = self._lost(modest, ends[0])
            flood = stack.enter_context(self.other(trains.source, target, shape, [-FLOODING], 0))
            time.sleep(self.settle)
            begin, children = time.monotonic(), (modest, flood, *ends)
            before, offered, forwarded = sum(c.cpu() for c in children), flood.counts[0], relay.counts[1]
            lost = self._lost(modest, ends[0])
            used = sum(c.cpu() for c in children) - before
            elapsed = time.monotonic() - begin
            return Fairness(
                alone,
                lost,
                (flood.counts[0] - offered) / elapsed,
                (relay.counts[1] - forwarded) / elapsed,
                used / elapsed / self.cores,
            )

    def _lost(self, source: Child, sink: Child) -> float:
        time.sleep(self.settle)
        before = source.counts[0], sink.counts[0]
        time.sleep(self.seconds)
        sent, arrived = source.counts[0] - before[0], sink.counts[0] - before[1]
        return max(0.0, 1.0 - int(arrived) / max(1, int(sent)))


def _state(relay: Child, source: Child, sink: Child) -> list[float]:
    """CPU of the generators; forwarded, when, refused, lost; offered, delivered; CPU of the relay."""
    counts = relay.counts
    return [
        source.cpu() + sink.cpu(),
        counts[1],
        counts[4],
        counts[2],
        counts[3],
        source.counts[0],
        sink.counts[0],
        relay.cpu(),
    ]


def _quantiles(nanoseconds: list[int]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    found = sorted(nanoseconds)
    if not found:
        raise RuntimeError("no probe came through")
    return found[len(found) // 2] / 1000, found[min(len(found) - 1, len(found) * 99 // 100)] / 1000


def wait_for(condition: Any, timeout: float = 30.0) -> None:
    """Raises RuntimeError when time is up."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("a process of the benchmark does not answer")
        time.sleep(0.005)


# ---- a whole run -----------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run, as `--json` prints them; medians over the rounds."""
    bench = Bench(arguments)
    forwarding: list[dict[str, Any]] = []
    for shape in PROTOTYPE:
        runs: dict[str, list[Run]] = {BARE: [], RELAY: []}
        for number in range(arguments.rounds):
            for kind in (BARE, RELAY) if number % 2 == 0 else (RELAY, BARE):
                runs[kind].append(bench.forward(kind, shape))
                print(f"round {number + 1} {shape} {kind:<5} {runs[kind][-1]}", file=sys.stderr)
        forwarding.append(forwarding_of(shape, runs))
    kinds = (1, arguments.threads)
    shared = {
        shape: {kind: [bench.forward(RELAY, shape, kind) for _ in range(arguments.rounds)] for kind in kinds}
        for shape in PROTOTYPE
        if shape.joined
    }
    large = Shape(1400, True)
    rate = SMOKE_RATE if arguments.smoke else forwarding[0][RELAY]["forwarded"] / 2
    delays = [bench.delay(load, large) for load in (0.0, rate)]
    floods = [(shape, bench.fairness(shape)) for shape in PROTOTYPE]
    return {
        "schema": "shadowmesh.bench.relay/1",
        "cores": bench.cores,
        "kernel": os.uname().release,
        "channels": arguments.channels,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "load_before": arguments.load_before,
        "forwarding": forwarding,
        "threads": [threads_of(shape, runs) for shape, runs in shared.items()],
        "delay": [delay_of(delay) for delay in delays],
        "fairness": [fairness_of(shape, found) for shape, found in floods],
    }


def forwarding_of(shape: Shape, runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians of both kinds, their ratio, and what was asked."""
    entry: dict[str, Any] = {**asdict(shape), "void": False}
    for kind, some in runs.items():
        median = {key: statistics.median(asdict(run)[key] for run in some) for key in asdict(some[0])}
        entry[kind] = {**median, "per_core": statistics.median(run.per_core for run in some)}
        entry["void"] |= median["generators"] > HALF
    rate = entry[RELAY]["per_core"]
    entry["gbit_per_second"] = rate * shape.size * 8 / 1e9
    entry["ratio"] = rate / max(entry[BARE]["per_core"], 1.0)
    entry["of_prototype"] = rate / PROTOTYPE[shape]
    entry["met"] = entry["of_prototype"] >= ASKED and not entry["void"]
    return entry


def threads_of(shape: Shape, runs: dict[int, list[Run]]) -> dict[str, Any]:
    """What a core's second carries with several threads, against one."""
    one, several = (statistics.median(run.per_core for run in some) for some in runs.values())
    return {**asdict(shape), "threads": max(runs), "per_core": several, "ratio": several / max(one, 1.0)}


def delay_of(delay: Delay) -> dict[str, Any]:
    """What the relay adds."""
    return {
        **asdict(delay),
        "added_p50": delay.relayed_p50 - delay.direct_p50,
        "added_p99": delay.relayed_p99 - delay.direct_p99,
        "void": delay.generators > HALF,
    }


def fairness_of(shape: Shape, found: Fairness) -> dict[str, Any]:
    """The loss, and whether it is within what is asked."""
    void = found.generators > HALF
    return {**asdict(shape), **asdict(found), "void": void, "met": found.lost <= MOST_LOST and not void}


def verdict(entry: dict[str, Any]) -> str:
    """Of one figure: void before all."""
    if entry["void"]:
        return "void: sources and sinks used more than half of the machine"
    return "met" if entry["met"] else "missed"


def text(document: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"Forwarding on one core, {document['channels']} channels; medians of {document['rounds']} rounds of "
        f"{document['seconds']:g} s, kernel {document['kernel']}, {document['cores']} cores.",
        f"{'datagrams':<14}{'kpps':>8}{'Gbit/s':>8}{'of bare':>9}{'asked':>8}{'offered':>9}{'arrived':>9}"
        f"{'core':>7}{'generators':>12}",
    ]
    for entry in document["forwarding"]:
        shape, relay = Shape(entry["size"], entry["joined"]), entry[RELAY]
        lines.append(
            f"{shape!s:<14}{relay['per_core'] / 1e3:>8.0f}{entry['gbit_per_second']:>8.2f}"
            f"{entry['ratio']:>9.2f}{ASKED * PROTOTYPE[shape] / 1e3:>8.0f}{relay['offered'] / 1e3:>9.0f}"
            f"{relay['delivered'] / 1e3:>9.0f}{relay['used']:>7.0%}{relay['generators']:>12.0%}  "
            + verdict(entry)
        )
    lines.append("kpps: per second of the relay's CPU time; arrived: per second of the clock.")
    for entry in document["threads"]:
        shape = Shape(entry["size"], entry["joined"])
        lines.append(
            f"{shape!s:<14}{entry['per_core'] / 1e3:>8.0f} kpps per second of CPU time with "
            f"{entry['threads']} threads, {entry['ratio']:.2f} of one thread"
        )
    lines += ["", "Delay, µs: directly, through the relay, and what that adds."]
    for entry in document["delay"]:
        load = f"at {entry['load'] / 1e3:.0f} kpps of 1400 B" if entry["load"] else "idle"
        lines.append(
            f"{load:<26} p50 {entry['direct_p50']:.0f}, {entry['relayed_p50']:.0f}: +{entry['added_p50']:.0f}"
            f"   p99 {entry['direct_p99']:.0f}, {entry['relayed_p99']:.0f}: +{entry['added_p99']:.0f}"
            f"   generators {entry['generators']:.0%}{' (void)' if entry['void'] else ''}"
        )
    lines += ["", f"Lost by a client that sends {MODEST_RATE} datagrams a second, beside one that floods:"]
    for entry in document["fairness"]:
        shape = Shape(entry["size"], entry["joined"])
        lines.append(
            f"{shape!s:<14}{entry['lost']:.1%} (by itself {entry['alone_lost']:.1%}), flood "
            f"{entry['flood_offered'] / 1e3:.0f} kpps, generators {entry['generators']:.0%}  {verdict(entry)}"
        )
    if document["load_before"] > BUSY:
        lines.append(f"Load average before the run: {document['load_before']:.1f}; something else ran here.")
    return "\n".join(lines)


def main() -> int:
    """Parse the arguments, measure, print; 1 if something that was asked is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--seconds", type=float, default=3, help="of each run (default 3)")
    parser.add_argument("--channels", type=int, default=20_000, help="in the table (default 20000)")
    parser.add_argument("--threads", type=int, default=2, help="beside one (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--smoke", action="store_true", help="one round of 0.1 s: does it run at all?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.channels = 1, 0.1, 1000
    arguments.load_before = os.getloadavg()[0]
    try:
        document = measure(arguments)
    except (OSError, RuntimeError) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2) if arguments.json else text(document))
    every = (*document["forwarding"], *document["fairness"])
    return int(not arguments.smoke and not all(entry["met"] for entry in every))


if __name__ == "__main__":
    sys.exit(main())

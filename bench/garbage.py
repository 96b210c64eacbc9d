"""How many datagrams of garbage a second do a client and a relay survive, and keep 80 % of their traffic?

alice sends bob small datagrams at a quarter of what the way between them carries, directly (the victim is
bob) and through the relay (the victim is the relay).  Meanwhile a stranger sends garbage of the same size to
the victim's port, as fast as it can or, where that is too much, at the highest rate that is found to leave
80 %: `random` behind random ids; `live`: random behind the id that alice's own datagrams carry; `replayed`:
alice's own datagrams, recorded before; each datagram by datagram, and in trains of one system call, which
cost the kernel less on both sides; `initial`: what begins a QUIC handshake, 1200 bytes, from one address.

The victim has the first core, everybody else the other one.  What the kernel does for a datagram on its way,
it does where its sender runs, so the generator takes time from alice: the same garbage is sent aside, to a
third machine, and where the good traffic suffers there too the figure is void.  The bare limit is what a
program that only receives gets of the same garbage, in the victim's place.  Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import bench_parser, measured
from bench.storm import pin
from bench.trains import SINGLE_MESSAGES, SOL_UDP, UDP_GRO, Child, Messages, Shape, paced, sink
from shadowmesh.testing.capture import parse_datagram
from shadowmesh.testing.lab import UNDERLAY_INTERFACE, Lab
from shadowmesh.testing.mesh import RELAY_PORT, Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import Node

CLIENT, RELAY = "client", "relay"
KINDS = {CLIENT: ("random", "live", "replayed"), RELAY: ("random", "live", "replayed", "initial")}
SMOKE_KIND = "replayed"
KEPT = 0.8
"""Of the good traffic."""
UNDISTURBED = 0.95
"""Of it, beside the same garbage aside: below, the generator took what it needs."""
SHARE = 0.25
"""Of the way's capacity: what the good traffic is."""
GOOD_SIZE = 200
"""Bytes of a datagram of the good traffic, as in bench/relay.py."""
AT_ONCE = 8
"""Trains of a system call, as in bench/trains.py."""
RECORDED = 512
"""Different datagrams of garbage, sent in turns."""
STEPS = 5
"""Halvings of the range in which the rate is sought: 3 % of the whole."""
SETTLE = 0.3
"""Seconds until queues are what they stay."""
CLIENT_PORT, GOOD_PORT, BARE_PORT = 7777, 9100, 7778
SO_RCVBUFFORCE, BUFFER = 33, 4 << 20
ETH_P_ALL = 0x0003


@dataclass(frozen=True)
class Garbage:
    """Datagrams of one size, and whether a system call sends a train of them."""

    kind: str
    datagrams: Sequence[bytes]
    joined: bool = False

    @property
    def shape(self) -> Shape:
        """Of a train."""
        return Shape(len(self.datagrams[0]), self.joined)


@dataclass(frozen=True)
class Run:
    """Datagrams a second; `kept`: of the good ones, of 1; CPU of victim and generator, in cores."""

    offered: float
    kept: float
    victim: float
    generator: float


class Place:
    """alice, bob and a relay on their cores, and what is sent between them and to them."""

    def __init__(self, lab: Lab, victim: str, arguments: argparse.Namespace) -> None:
        self.lab, self.seconds = lab, float(arguments.seconds)
        self.mesh = Mesh(lab)
        self.relay = self.mesh.relay()
        self.alice, self.bob = self.mesh.client("alice"), self.mesh.client("bob")
        self.mesh.configure()
        for client in (self.alice, self.bob):
            client.config["paths"] = {"direct": "auto" if victim == CLIENT else "never"}
            client.config["listen"]["port"] = CLIENT_PORT
        self.mesh.start()
        if victim == CLIENT:
            wait_until(lambda: self.bob.peer("alice")["path"].startswith("direct"), 20.0, "a direct path")
        self.victim: Node = self.bob if victim == CLIENT else self.relay
        self.port = CLIENT_PORT if victim == CLIENT else RELAY_PORT
        self.mallory, self.aside = lab.host("mallory"), lab.host("aside")
        cores = sorted(os.sched_getaffinity(0))
        self.own, self.other = {cores[0]}, {cores[-1]}
        for node in (self.relay, self.alice, self.bob):
            pin(node, cores[0] if node is self.victim else cores[-1])
        os.sched_setaffinity(0, self.other)
        self.rate = self._quarter()

    def _quarter(self) -> int:
        """Datagrams a second of the good traffic."""
        with self._good(0) as (_, end):
            time.sleep(SETTLE)
            begin, before = time.monotonic(), end.counts[0]
            time.sleep(self.seconds)
            return int(SHARE * (end.counts[0] - before) / (time.monotonic() - begin)) + 1

    @contextlib.contextmanager
    def _good(self, rate: int) -> Iterator[tuple[Child, Child]]:
        """Source and sink of the good traffic, at so many a second."""
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(_bound(self.bob.host, self.bob.ipv4, GOOD_PORT))
            end = stack.enter_context(Child(self.other, sink, link, Shape(GOOD_SIZE, False)))
            out = stack.enter_context(_connected(self.alice.host, self.bob.ipv4, GOOD_PORT))
            yield stack.enter_context(Child(self.other, good, out, rate)), end

    def record(self, kind: str) -> list[bytes]:
        """The garbage."""
        if kind == "initial":
            return [_initial() for _ in range(RECORDED)]
        real = self._authentic()
        size = len(real[0])
        if kind == "replayed":
            return real
        head = real[0][1:9]
        return [
            bytes((0x40 | secrets.randbelow(64),))
            + (head if kind == "live" else secrets.token_bytes(8))
            + secrets.token_bytes(size - 9)
            for _ in range(RECORDED)
        ]

    def _authentic(self) -> list[bytes]:
        """What alice sends the victim, as it is on the wire: behind one id, of one size."""
        self.lab.segment(True)
        found: Counter[tuple[bytes, int]] = Counter()
        seen: list[bytes] = []
        with self.victim.host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
            tap.bind((UNDERLAY_INTERFACE, ETH_P_ALL))
            tap.settimeout(10.0)
            with self._good(min(self.rate, 5000)):
                while not found or found.most_common(1)[0][1] < RECORDED:
                    datagram = parse_datagram(tap.recv(65536))
                    if datagram is None or datagram.target_port != self.port:
                        continue
                    if datagram.source == self.alice.host.ipv4:
                        seen.append(datagram.payload)
                        found[datagram.payload[1:9], len(datagram.payload)] += 1
        self.lab.segment(False)
        ((head, size), _), *_ = found.most_common(1)
        return [data for data in seen if data[1:9] == head and len(data) == size][:RECORDED]

    def run(self, garbage: Garbage, rate: int, aside: bool = False) -> Run:
        """One run at so many datagrams of garbage a second; 0: as fast as it goes."""
        target = (self.aside if aside else self.victim.host).address
        with contextlib.ExitStack() as stack:
            source, end = stack.enter_context(self._good(self.rate))
            if aside:
                stack.enter_context(_bound(self.aside, target, self.port))
            link = stack.enter_context(_connected(self.mallory, target, self.port))
            generator = stack.enter_context(Child(self.other, attack, link, garbage, rate))
            time.sleep(SETTLE)
            begin, before = time.monotonic(), self._state(source, end, generator)
            time.sleep(self.seconds)
            elapsed, after = time.monotonic() - begin, self._state(source, end, generator)
        sent, came, offered, victim, used = (b - a for a, b in zip(before, after, strict=True))
        return Run(offered / elapsed, min(1.0, came / max(1, sent)), victim / elapsed, used / elapsed)

    def _state(self, source: Child, end: Child, generator: Child) -> tuple[float, ...]:
        process = self.victim.running_process
        counts = source.counts[0], end.counts[0], generator.counts[0]
        return *counts, process.cpu_seconds(), generator.cpu()

    def bare(self, garbage: Garbage) -> float:
        """Datagrams a second of it that a program gets which does nothing but receive."""
        host = self.victim.host
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(_bound(host, host.address, BARE_PORT))
            link.setsockopt(SOL_UDP, UDP_GRO, 1)
            end = stack.enter_context(Child(self.own, sink, link, garbage.shape))
            out = stack.enter_context(_connected(self.mallory, host.address, BARE_PORT))
            stack.enter_context(Child(self.other, attack, out, garbage, 0))
            time.sleep(SETTLE)
            begin, before = time.monotonic(), end.counts[0]
            time.sleep(self.seconds)
            return float((end.counts[0] - before) / (time.monotonic() - begin))


def _bound(host: Host, address: str, port: int) -> socket.socket:
    link = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    link.bind((address, port))
    return link


def _connected(host: Host, address: str, port: int) -> socket.socket:
    link = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    link.connect((address, port))
    return link


def _initial() -> bytes:
    """It looks like a client's first datagram, and has no token."""
    head = b"\xc3\0\0\0\1\x08" + secrets.token_bytes(8) + b"\x08" + secrets.token_bytes(8) + b"\0\x44\x9a"
    return head + secrets.token_bytes(1200 - len(head))


def good(counts: Any, link: socket.socket, rate: int) -> None:
    """The source of the good traffic."""
    paced(counts, link.fileno(), Messages(SINGLE_MESSAGES, [GOOD_SIZE]), 16, 1, rate)


def attack(counts: Any, link: socket.socket, garbage: Garbage, rate: int) -> None:
    """The generator: each of them in its turn."""
    shape = garbage.shape
    length = shape.length if garbage.joined else 1
    count = len(garbage.datagrams) // length
    messages = Messages(count, [shape.size * length], shape.size if garbage.joined else 0)
    memoryview(messages.buffer).cast("B")[:] = b"".join(garbage.datagrams[: count * length])
    at_once = AT_ONCE if garbage.joined else SINGLE_MESSAGES
    paced(counts, link.fileno(), messages, at_once, length, rate)


def seek(place: Place, garbage: Garbage, steps: int) -> tuple[Run, bool]:
    """The run of the highest rate that leaves `KEPT`, and whether it is as fast as the generator goes."""
    fastest = place.run(garbage, 0)
    if fastest.kept >= KEPT:
        return fastest, True
    low, high, best = 0.0, fastest.offered, None
    for _ in range(steps):
        rate = (low + high) / 2
        run = place.run(garbage, max(1, int(rate)))
        if run.kept >= KEPT:
            low, best = rate, run
        else:
            high = rate
    return best or Run(0.0, 1.0, 0.0, 0.0), False


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, as `--json` prints them; medians over the rounds."""
    found: list[dict[str, Any]] = []
    affinity = os.sched_getaffinity(0)
    for victim, kinds in ({CLIENT: (SMOKE_KIND,)} if arguments.smoke else KINDS).items():
        with Lab() as lab:
            try:
                place = Place(lab, victim, arguments)
                for kind in kinds:
                    garbage = place.record(kind)
                    for joined in (False,) if arguments.smoke or kind == "initial" else (False, True):
                        found.append(_entry(place, victim, Garbage(kind, garbage, joined), arguments))
                        print(line(found[-1]), file=sys.stderr)
            finally:
                os.sched_setaffinity(0, affinity)
        lab.check_leaks()
    return {
        "schema": "shadowmesh.bench.garbage/1",
        "kept": KEPT,
        "share": SHARE,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "cores": len(affinity),
        "kernel": os.uname().release,
        "results": found,
    }


def _entry(place: Place, victim: str, garbage: Garbage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds of one kind of garbage."""
    runs, most, asides, bares = [], [], [], []
    for _ in range(arguments.rounds):
        run, fastest = seek(place, garbage, arguments.steps)
        runs.append(run)
        most.append(fastest)
        asides.append(place.run(garbage, 0 if fastest else max(1, int(run.offered)), aside=True).kept)
        bares.append(place.bare(garbage))
    entry = {key: statistics.median(asdict(run)[key] for run in runs) for key in asdict(runs[0])}
    return judged(
        {
            "victim": victim,
            "kind": garbage.kind,
            "joined": garbage.joined,
            "bytes": garbage.shape.size,
            "good_rate": place.rate,
            "survived": entry["offered"],
            "fastest": all(most),
            "kept": entry["kept"],
            "kept_aside": statistics.median(asides),
            "bare": statistics.median(bares),
            "victim_cores": entry["victim"],
            "generator_cores": entry["generator"],
        }
    )


def judged(entry: dict[str, Any]) -> dict[str, Any]:
    """With the ratio to the bare limit, and whether the figure is the victim's at all."""
    void = entry["kept_aside"] < UNDISTURBED and not entry["fastest"]
    return {**entry, "ratio": entry["survived"] / max(1.0, entry["bare"]), "void": void}


def line(entry: dict[str, Any]) -> str:
    """For people."""
    sign = ">=" if entry["fastest"] else "  "
    kind = f"{entry['kind']}{' trains' if entry['joined'] else ''}"
    return (
        f"{entry['victim']:<7}{kind:<16}{entry['bytes']:>5} B {sign}{entry['survived'] / 1e3:>7.1f} k/s"
        f"{entry['ratio']:>7.2f} of bare {entry['bare'] / 1e3:>6.0f} k/s; kept {entry['kept']:.2f} of "
        f"{entry['good_rate'] / 1e3:.1f} k/s, aside {entry['kept_aside']:.2f}; cores: victim "
        f"{entry['victim_cores']:.2f}, generator {entry['generator_cores']:.2f}"
        + ("; void: the generator itself disturbs" if entry["void"] else "")
    )


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = bench_parser(__doc__, "a client and one kind, a fifth of a second, two steps")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of one run (default 2)")
    arguments = parser.parse_args()
    arguments.steps = STEPS
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.steps = 1, 0.2, 2
    found = measured(lambda: measure(arguments))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for entry in found["results"]:
            print(line(entry))
    return 0


if __name__ == "__main__":
    sys.exit(main())

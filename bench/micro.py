"""What does one packet, one look-up, one handshake cost, and how much of it is the primitive alone?

Runs the data plane's compiled functions in loops without Python (ext/microbench.pyx), and whole session
handshakes with both sides in memory.  Rounds of all figures are interleaved; of each the best counts, but
of handshakes the median, because the time of an ML-DSA signature is random.  Needs neither root nor network.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.handshake import handshake, primitives
from bench.systems.shadowmesh import find_aead_library
from shadowmesh._ext import aead
from shadowmesh._ext.engine import Engine, SendKeys
from shadowmesh._ext.microbench import Judging, Lookup, Packets, Task, window
from shadowmesh.crypto.identity import Identity
from shadowmesh.io.udp import to_sockaddr
from shadowmesh.overlay.compilation import Party
from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import FirewallSection, Ports, Rule, parse_network, parse_protocol
from shadowmesh.units import LANES, Address

SCHEMA = "shadowmesh.bench.micro/1"
SIZES = (64, 256, 1400, 8192)
"""Bytes of a payload; 1400 is a full segment, 8192 a jumbo frame."""
RUN_BYTES = 0x18000
"""Bytes of packets that the outbound thread seals before it sends (SEND_FULL of ext/outbound.pyx)."""
MASK_BATCHES = (1, 8, 64)
MASK_REPEATS = 64
TABLE_SIZES = (2, 1000, 20_000)
LOOKUPS = 20_000
NUMBERS = 50_000
MEMORY_PEERS = 1000
FRAME = 1414
SYN, ACK = 2, 16
HERE, THERE = "10.77.0.1", "10.77.0.2"
CONNECTIONS = range(20_000, 30_000)
"""Source ports of what the firewall knows."""
JUDGED = 2000

Step = Callable[[], float]


@dataclass
class Figure:
    """One thing that is measured: nanoseconds of one operation, and of the primitive alone in it."""

    group: str
    name: str
    library: str
    step: Step
    alone: Step | None = None
    best: float = float("inf")
    best_alone: float = float("inf")

    def measure(self) -> None:
        """One round."""
        self.best = min(self.best, self.step())
        if self.alone is not None:
            self.best_alone = min(self.best_alone, self.alone())

    def row(self) -> dict[str, Any]:
        """As `--json` shows it."""
        row: dict[str, Any] = {"group": self.group, "name": self.name, "library": self.library}
        row["ns"] = self.best
        if self.alone is not None:
            row |= {"alone_ns": self.best_alone, "ratio": self.best / self.best_alone}
        return row


def packet_figures(library: str, batches: int) -> list[Figure]:
    """Seal and open by size, and header masks by batch, under keys of the library in use now."""
    figures = []
    for size in SIZES:
        count = min(64, RUN_BYTES // (size + aead.PacketLayout.OVERHEAD))
        packets = Packets(os.urandom(76), size, count)

        def step(task: Task, packets: Packets = packets, count: int = count) -> Step:
            return lambda: packets.run(task, batches) / (batches * count)

        for name, task, alone in (("seal", Task.SEAL, Task.SEAL_ALONE), ("open", Task.OPEN, Task.OPEN_ALONE)):
            figures.append(Figure(name, f"{name} {size} B", library, step(task), step(alone)))
    return figures


def mask_figures(batches: int) -> list[Figure]:
    """Header masks: AES is OpenSSL's, whichever library seals."""
    figures = []
    repeats = batches * MASK_REPEATS
    for count in MASK_BATCHES:
        packets = Packets(os.urandom(76), 1400, count)

        def step(task: Task, packets: Packets = packets, count: int = count) -> Step:
            return lambda: packets.run(task, repeats) / (repeats * count)

        name = f"header masks, {count} at once"
        figures.append(Figure("masks", name, "OpenSSL", step(Task.MASK), step(Task.MASK_ALONE)))
    return figures


def _packed(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def window_figures() -> list[Figure]:
    """The replay window, for numbers that come in order, out of order, or a second time."""
    shuffled = [
        number
        for start in range(0, NUMBERS, 64)
        for number in random.Random(start).sample(range(start, start + 64), 64)
    ]
    cases = {"in order": list(range(NUMBERS)), "reordered by up to 64": shuffled, "duplicates": [7] * NUMBERS}

    def step(numbers: list[int], fresh: int) -> Step:
        packed = _packed(numbers)

        def run() -> float:
            taken, found = window(packed)
            assert found == fresh
            return taken / len(numbers)

        return run

    return [
        Figure("window", f"replay window, {name}", "", step(numbers, len(set(numbers))))
        for name, numbers in cases.items()
    ]


def lookup_figures() -> list[Figure]:
    """The table of ids and MAC addresses: ids that are there, in random order, and ids that are not."""
    figures = []
    draw = random.Random(1)
    for size in TABLE_SIZES:
        ids = draw.sample(range(1, 1 << 48), size)
        table = Lookup(_packed(ids))
        present = _packed(draw.choices(ids, k=LOOKUPS))
        absent = _packed(draw.choices(range(1 << 48, 1 << 60), k=LOOKUPS))
        for name, wanted, expected in (("found", present, LOOKUPS), ("absent", absent, 0)):

            def run(table: Lookup = table, wanted: bytes = wanted, expected: int = expected) -> float:
                taken, found = table.run(wanted)
                assert found == expected
                return taken / LOOKUPS

            figures.append(Figure("table", f"look-up among {size}, {name}", "", run))
    return figures


def _tcp(source: str, target: str, ports: tuple[int, int], flags: int) -> bytes:
    """An Ethernet frame of a full segment, without checksums, which the firewall does not look at."""
    size = FRAME - 14
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, 6, 0)
    addresses = b"".join(ip_address(text).packed for text in (source, target))
    transport = struct.pack("!HHIIBB", *ports, 0, 0, 0x50, flags)
    return (bytes(12) + b"\x08\x00" + head + addresses + transport).ljust(FRAME, b"\0")


def _judging() -> Judging:
    """A firewall with 1,000 rules, the last of which lets port 5201 in, and 10,000 connections to that."""
    kinds = ({"dst": (parse_network("192.0.2.0/24"),)}, {"vlans": (10,)}, {"dst_ports": (Ports(1, 1023),)})
    tcp = (parse_protocol("tcp"),)
    rules = [
        Rule(line=1, action="deny", direction="in", protocols=tcp, **kinds[number % 3])
        for number in range(999)
    ]
    rules.append(Rule(line=1, action="allow", direction="in", protocols=tcp, dst_ports=(Ports(5201, 5201),)))
    section = FirewallSection(inbound="deny", outbound="allow", rules=tuple(rules))
    judging = Judging(Firewall(section, [Party("bob", "", number=1)]).compiled())
    opening = [_tcp(THERE, HERE, (port, 5201), SYN) for port in CONNECTIONS]
    judging.run(False, b"".join(opening), FRAME, 1)
    judging.run(True, _tcp(HERE, THERE, (5201, CONNECTIONS[0]), SYN | ACK), FRAME, 1)
    return judging


def firewall_figures() -> list[Figure]:
    """A frame at such a firewall; of 100 connections in turn, most are not of one of the frames before."""
    judging, first = _judging(), CONNECTIONS[0]
    in_turn = [_tcp(THERE, HERE, (port, 5201), ACK) for port in CONNECTIONS[:100]]
    figures = []
    for name, outbound, frames, passes in (
        ("frame of a connection", False, in_turn[:1], True),
        ("reply", True, [_tcp(HERE, THERE, (5201, first), ACK)], True),
        ("100 connections in turn", False, in_turn, True),
        ("denied", False, [_tcp(THERE, HERE, (first, 6000), SYN)], False),
    ):
        data, rounds = b"".join(frames), JUDGED // len(frames)

        def run(
            outbound: bool = outbound, data: bytes = data, rounds: int = rounds, passes: bool = passes
        ) -> float:
            taken, passed = judging.run(outbound, data, FRAME, rounds)
            assert passed == JUDGED * passes
            return taken / JUDGED

        figures.append(Figure("firewall", f"firewall, {name}", "", run))
    return figures


def handshake_figures(rounds: int) -> dict[str, Any]:
    """Medians of whole session handshakes, and of the primitives that one consists of."""
    alice, bob = Identity.generate("alice"), Identity.generate("bob")
    runs = [(handshake(alice, bob), primitives()) for _ in range(rounds)]
    initiator = statistics.median(run.initiator_cpu for run, _ in runs)
    responder = statistics.median(run.responder_cpu for run, _ in runs)
    alone = statistics.median(seconds for _, seconds in runs)
    last = runs[-1][0]
    return {
        "initiator_cpu_ms": initiator * 1e3,
        "responder_cpu_ms": responder * 1e3,
        "primitives_alone_ms": alone * 1e3,
        "ratio": (initiator + responder) / alone,
        "bytes_to_responder": last.bytes_to_responder,
        "bytes_to_initiator": last.bytes_to_initiator,
        "datagrams": last.datagrams,
    }


def _resident() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_per_peer() -> float:
    """Bytes that the engine holds for one idle peer with route and receive keys, no packet received."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    event_fd = os.eventfd(0)
    target = to_sockaddr(Address("127.0.0.1", 4400), socket.AF_INET)
    with near, far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        engine = Engine(udp.fileno(), near.fileno(), event_fd, bytes((2, 0, 0, 0, 0, 0)))
        try:
            before = 0
            # The first half fills what the allocator keeps anyway.
            for peer in range(1, 2 * MEMORY_PEERS + 1):
                if peer == MEMORY_PEERS + 1:
                    before = _resident()
                engine.add_peer(peer, bytes((2, 1, 0, 0)) + peer.to_bytes(2, "big"))
                engine.set_lane(peer, SendKeys(os.urandom(76)), 1, os.urandom(8))
                engine.set_endpoint(peer, target, b"")
                engine.install_receive(peer, peer, [os.urandom(8) for _ in range(LANES)], os.urandom(76))
            return (_resident() - before) / MEMORY_PEERS
        finally:
            engine.stop()
            os.close(event_fd)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything: the document that `--json` prints."""
    memory = memory_per_peer()
    figures = packet_figures("OpenSSL", options.batches)
    figures += mask_figures(options.batches) + window_figures() + lookup_figures() + firewall_figures()
    if (library := options.aead_library) is not None:
        aead.use_library(str(library))
        figures += packet_figures(library.parent.name + "/" + library.name, options.batches)
    for _ in range(options.rounds):
        for figure in figures:
            figure.measure()
    return {
        "schema": SCHEMA,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "rounds": options.rounds,
        "aead_library": str(library) if library else None,
        "figures": [figure.row() for figure in figures],
        "handshake": handshake_figures(options.handshakes),
        "memory": {"engine_bytes_per_idle_peer": memory},
    }


def text(document: dict[str, Any]) -> str:
    """The same as a table."""
    rows = document["figures"]
    reference = next(row["ns"] for row in rows if row["name"] == "seal 1400 B")
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':<{width}}  {'ns':>8}  {'alone':>8}  {'ratio':>6}"]
    for row in rows:
        line = f"{row['name']:<{width}}  {row['ns']:>8.1f}  "
        if "alone_ns" in row:
            lines.append(f"{line}{row['alone_ns']:>8.1f}  {row['ratio']:>5.2f}x  {row['library']}")
        else:
            lines.append(f"{line}{'':>8}  {'':>6}  {row['ns'] / reference:.2%} of a seal of 1400 B")
    one = document["handshake"]
    return "\n".join(
        [
            *lines,
            "",
            f"session handshake: {one['initiator_cpu_ms']:.2f} ms of CPU at the initiator, "
            f"{one['responder_cpu_ms']:.2f} at the responder; its primitives alone "
            f"{one['primitives_alone_ms']:.2f}, ratio {one['ratio']:.2f}x",
            f"on the wire: {one['bytes_to_responder']} bytes to the responder, {one['bytes_to_initiator']} "
            f"to the initiator, {one['datagrams']} datagrams",
            f"engine memory per idle peer: {document['memory']['engine_bytes_per_idle_peer'] / 1000:.1f} kB "
            "(asked at most 50, aim 10)",
            "",
            f"Best of {document['rounds']} interleaved rounds (handshake: median); alone: the calls of the "
            "library with all arguments ready, without packet, number, header masks, look-up and window.",
        ]
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="rounds of every figure (default 50)")
    parser.add_argument("--handshakes", type=int, default=50, help="handshakes (default 50)")
    parser.add_argument(
        "--aead-library",
        type=Path,
        help="the second library (default: Debian's android-libboringssl, if there)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="few rounds: does it run at all?")
    arguments = parser.parse_args()
    arguments.batches = 20
    arguments.aead_library = arguments.aead_library or find_aead_library()
    if arguments.smoke:
        arguments.rounds = arguments.handshakes = arguments.batches = 2
    return arguments


def main() -> int:
    """Measure and print."""
    options = parse_arguments()
    began = time.monotonic()
    try:
        document = measure(options)
    except ValueError as error:
        print(f"micro: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2) if options.json else text(document))
    print(f"took {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

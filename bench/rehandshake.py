"""What does a re-handshake cost each side in CPU time?

    python bench/rehandshake.py [COUNT]

Two path sets talk in memory; every payload is sealed and opened as on the wire, nothing else is counted.
Prints medians in microseconds: up to COMPLETE, and up to frames on the direct path (full-size probe and
search of the path MTU included).
"""

from __future__ import annotations

import random
import statistics
import sys
import time

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.path.candidates import Candidate, CandidateKind
from shadowmesh.path.paths import PathSet
from shadowmesh.path.way import Way
from shadowmesh.session.lane import ControlLane
from shadowmesh.units import Address
from shadowmesh.wire.payload import Kind


class Side:
    """One end: its path set, its sealing lane, the keys of the other's, and the CPU seconds it took."""

    def __init__(self, address: Address, seals: bytes, opens: bytes) -> None:
        self.address = address
        self.paths = PathSet(random.randbytes, 0.0)
        self.paths.start(0.0)
        self.spent = 0.0
        self._lane = ControlLane(bytearray(seals), bytes(8))
        self._keys = PacketKeys(bytearray(opens))

    def begin(self, other: Address) -> list[bytes]:
        """Learn of a candidate; returns packets."""
        started = time.thread_time()
        self.paths.set_candidates([Candidate(other, CandidateKind.LOCAL)], 1.0)
        packets = self._packets(1.0)
        self.spent += time.thread_time() - started
        return packets

    def handle(self, packet: bytes, source: Address, now: float) -> tuple[int, list[bytes]]:
        """Take a packet; its kind, and the packets that answer it."""
        started = time.thread_time()
        _, payload = self._keys.open(0, packet)
        self.paths.handle_payload_untrusted(payload, Way(source), now)
        packets = self._packets(now)
        self.spent += time.thread_time() - started
        return payload[0], packets

    def _packets(self, now: float) -> list[bytes]:
        sealed = (self._lane.seal(payload, now) for payload, _ in self.paths.poll_transmit())
        return [packet for packet in sealed if packet is not None]


def once() -> tuple[float, float, float, float]:
    """CPU seconds of asker and asked up to COMPLETE, and of both up to the end."""
    keys = random.randbytes(76), random.randbytes(76)
    asker = Side(Address("198.51.100.1", 5000), *keys)
    asked = Side(Address("198.51.100.2", 5000), *reversed(keys))
    queue = [(asked, asker, packet) for packet in asker.begin(asked.address)]
    complete = (0.0, 0.0)
    now = 1.0
    while queue:
        now += 0.01
        target, source, packet = queue.pop(0)
        kind, packets = target.handle(packet, source.address, now)
        queue += [(source, target, packet) for packet in packets]
        if kind == Kind.PATH_COMPLETE:
            complete = asker.spent, asked.spent
    assert asker.paths.direct is not None
    assert asked.paths.direct is not None
    return *complete, asker.spent, asked.spent


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    columns = zip(*(once() for _ in range(count)), strict=True)
    medians = [statistics.median(column) * 1e6 for column in columns]
    print(f"re-handshake, CPU: asker {medians[0]:.0f} us, asked {medians[1]:.0f} us")
    print(f"up to frames on the direct path: asker {medians[2]:.0f} us, asked {medians[3]:.0f} us")


if __name__ == "__main__":
    main()

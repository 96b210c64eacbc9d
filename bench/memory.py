"""How much memory does a client take, and how much does one more idle peer cost its engine?

RSS of a process that only imported what the client needs, RSS of a client with two peers after TCP both
ways has touched its pools, and what the engine grows by when a thousand peers with sealing lane, route and
receive keys are added that send nothing (replay windows are allocated by the first packet).  Exit code
1 if a limit is exceeded.  Needs root, except with --engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.transfer import RELAYED, streams
from shadowmesh._ext.engine import Engine, SendKeys
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import LabError
from shadowmesh.units import LANES

CLIENT_LIMIT_MB, PEER_LIMIT_KB = 70.0, 50.0
PEERS = 1000
TOUCH = 40_000_000
"""Bytes to and from each peer: several times what all pools hold together."""

IMPORTS = "import shadowmesh.cli.main, shadowmesh.node.lifecycle; print(open('/proc/self/status').read())"


@dataclass(frozen=True)
class Memory:
    """MB are 10^6 bytes, kB 10^3."""

    imports_mb: float
    client_mb: float
    peer_kb: float

    @property
    def within_limits(self) -> bool:
        return self.client_mb <= CLIENT_LIMIT_MB and self.peer_kb <= PEER_LIMIT_KB

    def __str__(self) -> str:
        return (
            f"{'imports alone':<34} {self.imports_mb:>7.1f} MB\n"
            f"{'client with 2 peers, after traffic':<34} {self.client_mb:>7.1f} MB "
            f"(limit {CLIENT_LIMIT_MB:g})\n"
            f"{'engine, each further idle peer':<34} {self.peer_kb:>7.1f} kB (limit {PEER_LIMIT_KB:g})"
        )


def rss(status: str) -> float:
    """MB of resident memory, from the text of /proc/PID/status."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise LabError("no VmRSS in /proc/PID/status")
    return int(found[1]) * 1024 / 1e6


def imports() -> float:
    """RSS of an interpreter that has imported the client and did nothing."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    return rss(done.stdout)


def idle_peers(count: int) -> float:
    """kB per peer: an engine before and after `count` peers, in this process."""
    event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, near, far:
        udp.bind(("127.0.0.1", 0))
        engine = Engine(udp.fileno(), near.fileno(), event_fd, b"\x02" + bytes(5))
        engine.start()
        try:
            # The first hundred pay for what is shared: libcrypto's tables, malloc's arenas.
            _add(engine, range(1, 101))
            before = rss(Path("/proc/self/status").read_text())
            _add(engine, range(101, 101 + count))
            return (rss(Path("/proc/self/status").read_text()) - before) * 1000 / count
        finally:
            engine.stop()
            os.close(event_fd)


def _add(engine: Engine, numbers: range) -> None:
    """As a session does it: receive keys with all lanes, one sealing lane, a route."""
    sockaddr = socket.AF_INET.to_bytes(2, sys.byteorder) + (4400).to_bytes(2, "big") + bytes([127, 0, 0, 1])
    for number in numbers:
        engine.add_peer(number, b"\x02" + number.to_bytes(5, "big"))
        engine.install_receive(number, number, [os.urandom(8) for _ in range(LANES)], os.urandom(76))
        engine.set_lane(number, SendKeys(os.urandom(76)), 1, os.urandom(8))
        engine.set_endpoint(number, sockaddr + bytes(8), b"")


def client(size: int) -> float:
    """RSS of alice, who has talked much with bob and with carol."""
    with Lab() as lab:
        mesh = Mesh(lab)
        mesh.relay()
        alice, *others = (mesh.client(name) for name in ("alice", "bob", "carol"))
        mesh.start()
        for other in others:
            alice.host.ping(other.ipv4)
            if not all(stream.intact for stream in streams(RELAYED, alice, other, size)):
                raise LabError("a transfer came out changed")
        alice.status()
        used = rss(Path(f"/proc/{alice.running_process.pid}/status").read_text())
    lab.check_leaks()
    return used


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=int, default=PEERS, help=f"idle peers (default {PEERS}, up to 3900)")
    parser.add_argument("--engine", action="store_true", help="only kB per idle peer: needs no root")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="less traffic: does it run at all?")
    arguments = parser.parse_args()
    per_peer = idle_peers(arguments.peers)
    if arguments.engine:
        print(f"{per_peer:.1f} kB per idle peer")
        return 0 if per_peer <= PEER_LIMIT_KB else 1
    try:
        result = Memory(imports(), client(TOUCH // 10 if arguments.smoke else TOUCH), per_peer)
    except LabError as error:
        print(f"memory: {error}", file=sys.stderr)
        return 1
    document = {"schema": "shadowmesh.bench.memory/1", **asdict(result)}
    print(json.dumps(document, indent=2) if arguments.json else result)
    return 0 if result.within_limits else 1


if __name__ == "__main__":
    sys.exit(main())

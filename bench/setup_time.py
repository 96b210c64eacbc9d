"""How long is it from `up` to the first frame between two clients through a relay, and what does it cost?

Three cases: `join` (one client is up already, the other starts), `both` (both start at once), each as if
for the first time, and `restart` (as `join`, but the newcomer was there before, and resumes its relay
session).  The clients are initialised before; the time includes the start of Python and the TAP device.
Broadcast probes every 2 ms in both directions find the moment: they need no ARP, whose retries take a second.
With `--rtt-ms` the way to the relay is long, and the number of round trips can be read off.  Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.delay import DelayProxy
from shadowmesh.testing.lab import UNDERLAY_INTERFACE, Host, Lab
from shadowmesh.testing.mesh import RELAY_PORT, ClientNode, Mesh
from shadowmesh.testing.process import LabError, LabTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = ("join", "both", "restart")
TICKETS = "tickets"
"""In the state directory: what a first start has not yet."""
PROBE_PORT = 7009
PROBE_INTERVAL = 0.005
BROADCAST = "10.77.0.255"
FRAME_TIMEOUT = 30.0


@dataclass(frozen=True)
class Round:
    """One start.  Times in seconds from `up`; CPU seconds and bytes until frames cross both ways.

    `after_relay`: first frame after the newcomer showed its relay as connected (only with --rtt-ms,
    because asking for it costs CPU time that would be measured as well).
    """

    case: str
    first_frame: float
    both_ways: float
    after_relay: float | None
    client_cpu: float
    relay_cpu: float
    client_bytes: int


class Probes:
    """Sends broadcasts from each overlay interface and notes when the first came in at the other end."""

    def __init__(self, clients: list[ClientNode]) -> None:
        self._links = {
            client.name: client.host.socket(socket.AF_INET, socket.SOCK_DGRAM) for client in clients
        }
        for link in self._links.values():
            link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            link.setblocking(False)
            link.bind(("", PROBE_PORT))
        self.arrived: dict[str, float] = {}
        self._next_send = 0.0

    def close(self) -> None:
        """Close the sockets."""
        for link in self._links.values():
            link.close()

    def step(self) -> bool:
        """Send from everywhere, at most once per `PROBE_INTERVAL`, and look; True when all have received."""
        if time.monotonic() >= self._next_send:
            self._next_send = time.monotonic() + PROBE_INTERVAL
            for name, link in self._links.items():
                # Until the interface has its address there is no route to the broadcast address.
                with contextlib.suppress(OSError):
                    link.sendto(name.encode(), (BROADCAST, PROBE_PORT))
        ready, _, _ = select.select(list(self._links.values()), [], [], PROBE_INTERVAL)
        now = time.monotonic()
        for name, link in self._links.items():
            if link in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        if link.recv(100) != name.encode():
                            self.arrived.setdefault(name, now)
        return len(self.arrived) == len(self._links)


def wire_bytes(host: Host) -> int:
    """Bytes sent and received so far by the underlay interface, Ethernet headers included."""
    link = host.link(UNDERLAY_INTERFACE) or {}
    return int(link["stats64"]["rx"]["bytes"]) + int(link["stats64"]["tx"]["bytes"])


def one_round(mesh: Mesh, case: str, watch_relay: bool) -> Round:
    """Start the clients as the case says and measure; both are stopped afterwards."""
    clients = list(mesh.clients.values())
    starting = clients if case == "both" else clients[1:]
    if case != "restart":
        for client in starting:
            (client.state_dir / TICKETS).unlink(missing_ok=True)
    if case != "both":
        clients[0].start().wait_relay()
    relay = mesh.relays["relay"].running_process
    relay_cpu = relay.cpu_seconds()
    counted = sum(wire_bytes(client.host) for client in starting)
    probes = Probes(clients)
    try:
        begin = time.monotonic()
        for client in starting:
            client.launch()
        relay_at = watch(probes, starting, begin, watch_relay)
        cpu = [client.running_process.cpu_seconds() for client in starting]
        return Round(
            case=case,
            first_frame=min(probes.arrived.values()) - begin,
            both_ways=max(probes.arrived.values()) - begin,
            after_relay=min(probes.arrived.values()) - relay_at if relay_at else None,
            client_cpu=statistics.mean(cpu),
            relay_cpu=relay.cpu_seconds() - relay_cpu,
            client_bytes=(sum(wire_bytes(client.host) for client in starting) - counted) // len(starting),
        )
    finally:
        probes.close()
        for client in clients:
            client.stop()


def watch(probes: Probes, starting: list[ClientNode], begin: float, watch_relay: bool) -> float | None:
    """Probe until frames cross both ways; the moment the last client had its relay, if it is watched."""
    relay_at: float | None = None
    while not probes.step():
        if time.monotonic() - begin > FRAME_TIMEOUT:
            logs = "\n".join(client.running_process.report() for client in starting)
            raise LabTimeout(f"no frame within {FRAME_TIMEOUT:g} s of `up`\n{logs}")
        if watch_relay and relay_at is None and all(connected(client) for client in starting):
            relay_at = time.monotonic()
    return relay_at


def connected(client: ClientNode) -> bool:
    """Whether the client answers and shows its relay as connected."""
    return client.socket_path.exists() and client.answers() and client.relay_status()["state"] == "connected"


def python_start(client: ClientNode) -> float:
    """Seconds of `up --check`: what a start costs before anything is done."""
    client.write_config()
    times = []
    for _ in range(3):
        begin = time.monotonic()
        client.run(["up", "-c", str(client.config_path), "--check"])
        times.append(time.monotonic() - begin)
    return statistics.median(times)


@contextlib.contextmanager
def prepared(rtt_ms: float) -> Iterator[Mesh]:
    """A running relay and two initialised clients, with a long way between if `rtt_ms` is not zero."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        mesh = Mesh(lab)
        relay = mesh.relay()
        for name in ("alice", "bob"):
            mesh.client(name)
        mesh.configure()
        relay.start()
        if rtt_ms:
            proxy = lab.host("delay")
            target = (relay.host.address, RELAY_PORT)
            stack.enter_context(DelayProxy(proxy, RELAY_PORT, target, rtt_ms / 2000))
            for client in mesh.clients.values():
                client.config["relays"][0]["address"] = f"{proxy.address}:{RELAY_PORT}"
        yield mesh
    lab.check_leaks()


def print_table(rounds: list[Round], check: float, rtt_ms: float) -> None:
    """Medians for people."""
    print(
        f"{'case':<8} {'rounds':>6} {'first frame':>12} {'max':>8} {'both ways':>10} {'client CPU':>11} "
        f"{'relay CPU':>10} {'bytes/client':>13}"
    )
    for case in CASES:
        chosen = [entry for entry in rounds if entry.case == case]
        if not chosen:
            continue
        first = [entry.first_frame for entry in chosen]
        print(
            f"{case:<8} {len(chosen):>6} {statistics.median(first):>10.3f} s {max(first):>6.3f} s "
            f"{statistics.median(entry.both_ways for entry in chosen):>8.3f} s "
            f"{statistics.median(entry.client_cpu for entry in chosen):>9.3f} s "
            f"{statistics.median(entry.relay_cpu for entry in chosen):>8.3f} s "
            f"{statistics.median(entry.client_bytes for entry in chosen):>13.0f}"
        )
    print(f"Of each start, `up --check` alone takes {check:.3f} s: Python, its imports, the configuration.")
    print(f"{os.cpu_count()} cores, shared by everything; bytes as on the client's wire, both directions.")
    # A resumed session carries messages before it is shown as connected.
    full = [entry for entry in rounds if entry.case != "restart"]
    after = [entry.after_relay for entry in full if entry.after_relay is not None]
    if rtt_ms and after:
        # A frame between the clients goes to the relay and from there: twice the way to the relay.
        trips = statistics.median(after) / (2 * rtt_ms / 1000)
        print(
            f"Way to the relay and back: {rtt_ms:g} ms. First frame {statistics.median(after):.3f} s after "
            f"the relay session: {trips:.2f} round trips between the clients, its own half one included."
        )
        join, restart = (
            statistics.median(entry.first_frame for entry in rounds if entry.case == case)
            for case in ("join", "restart")
        )
        saved = (join - restart) / (rtt_ms / 1000)
        print(f"restart is {join - restart:.3f} s faster than join: {saved:.2f} round trips to the relay.")


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per case (default 5)")
    parser.add_argument("--rtt-ms", type=float, default=0.0, help="round-trip time between client and relay")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="one round per case: does it run at all?")
    arguments = parser.parse_args()
    rounds: list[Round] = []
    try:
        with prepared(arguments.rtt_ms) as mesh:
            check = python_start(mesh.clients["alice"])
            for _ in range(1 if arguments.smoke else arguments.rounds):
                rounds += [one_round(mesh, case, bool(arguments.rtt_ms)) for case in CASES]
    except LabError as error:
        print(f"setup_time: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        document = {
            "schema": "shadowmesh.bench.setup_time/1",
            "rtt_ms": arguments.rtt_ms,
            "check_seconds": check,
            "cores": os.cpu_count(),
            "rounds": [asdict(entry) for entry in rounds],
        }
        print(json.dumps(document, indent=2))
    else:
        print_table(rounds, check, arguments.rtt_ms)
    return 0


if __name__ == "__main__":
    sys.exit(main())

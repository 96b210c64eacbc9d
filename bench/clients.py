"""How many clients does one relay hold, what does each cost, and how soon are they back after a restart?

Ten thousand clients of `crowd.py` with real identities connect over loopback to a real `shadowmesh-relay
serve`.  First a thousand, which carry traffic: the relay gets SIGKILL and is started again, and they come
back, all at once.  Then the rest, and all are idle.  Where there are two cores, the relay has the first
one and the clients the other.

Measured at the relay, by the kernel: RSS, and CPU time as a share of one core.  Handshakes a second are
those that its CPU time would allow for.  Exit code 1 if a limit is exceeded.  The time of the storm is void,
and no limit is held against it, if the clients had no time left while the relay had, or if either had to wait
for a core that others took.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.crowd import Crowd, Station, settle
from bench.pulse import Pulse
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.membership.authority import Authority, Ledger, Request
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.testing.process import LabError, Process
from shadowmesh.units import Address
from shadowmesh.values import parse_node_id

CLIENTS, STORM = 10_000, 1_000
RSS_LIMIT_MB, CPU_LIMIT, BACK_LIMIT = 1500.0, 0.25, 30.0
"""Limits on the relay's RSS, its CPU share with all clients idle, and the seconds from SIGKILL until the last
client of the storm is back."""
UNDER_WAY = 32
"""Handshakes at once while clients are added."""
SPAN, SETTLE = 60.0, 30.0
"""Seconds over which CPU time is counted with all clients idle, and before that."""
BUSY_FOR = 3.0
"""Seconds of traffic before the relay is killed: all bind once a second by then."""
GIVE_UP = 120.0
"""Seconds in which a storm ends, and seconds in which one client more connects at the worst."""
LOOK = 0.05
"""Seconds between looks whether what is waited for has come about."""
STARVED, WAITED = 0.95, 0.25
"""Share of its core from which on the crowd itself may be what takes long, and share of the time that a
thread waited for a core."""


@dataclass(frozen=True)
class Setup:
    """Clients that are added a few at a time; `_ms` from the decision to connect until the session stands."""

    clients: int
    seconds: float
    per_core_second: float
    """Handshakes for each second of the relay's CPU time."""
    p50_ms: float
    p99_ms: float
    relay_cpu: float
    crowd_cpu: float
    bind_p50_ms: float
    """From BIND to BOUND of a client that is connected (pulse.py)."""
    bind_p99_ms: float


@dataclass(frozen=True)
class Storm:
    """Seconds since SIGKILL; `_cpu` are shares of one core between `up_s` and `all_back_s`."""

    clients: int
    up_s: float
    """The relay says that it serves."""
    first_back_s: float
    half_back_s: float
    all_back_s: float
    peak_mb: float
    tries: int
    completed: int
    """By the relay's account, as `failed`."""
    failed: int
    relay_cpu: float
    crowd_cpu: float
    waited: float
    """For a core, by relay or crowd, whichever waited longer; a share of the time."""
    drops: dict[str, int]

    @property
    def void(self) -> bool:
        """Whether it was not the relay that took this long."""
        return self.waited > WAITED or self.crowd_cpu > STARVED > self.relay_cpu


@dataclass(frozen=True)
class Idle:
    """All clients connected, none with traffic."""

    clients: int
    alone_mb: float
    """The relay before the first client."""
    rss_mb: float
    peak_mb: float
    per_client_kb: float
    relay_cpu: float
    crowd_cpu: float
    bind_p50_ms: float
    bind_p99_ms: float
    lost: int
    """Clients that the relay had no more at the end."""


@dataclass(frozen=True)
class Result:
    """All figures of one run. MB are 10^6 bytes, kB 10^3."""

    clients: int
    network_size: int
    cores: int
    setup: Setup
    storm: Storm
    idle: Idle
    limits: dict[str, float] = field(
        default_factory=lambda: {"rss_mb": RSS_LIMIT_MB, "relay_cpu": CPU_LIMIT, "all_back_s": BACK_LIMIT}
    )

    @property
    def within_limits(self) -> bool:
        idle, storm = self.idle, self.storm
        return (
            idle.rss_mb <= RSS_LIMIT_MB
            and idle.relay_cpu <= CPU_LIMIT
            and not idle.lost
            and (storm.void or storm.all_back_s <= BACK_LIMIT)
        )

    def __str__(self) -> str:
        setup, storm, idle = self.setup, self.storm, self.idle
        rows = [
            ("relay alone, RSS", f"{idle.alone_mb:.1f} MB", ""),
            (f"{idle.clients} clients idle, RSS", f"{idle.rss_mb:.1f} MB", f"limit {RSS_LIMIT_MB:g}"),
            ("each client", f"{idle.per_client_kb:.1f} kB", f"peak of all {idle.peak_mb:.1f} MB"),
            ("idle, CPU of one core", f"{idle.relay_cpu:.2%}", f"limit {CPU_LIMIT:.0%}"),
            ("", "", f"clients {idle.crowd_cpu:.1%}"),
            ("handshakes/s and core", f"{setup.per_core_second:.1f}", f"over {setup.clients}"),
            ("set-up p50", f"{setup.p50_ms:.1f} ms", f"{UNDER_WAY} at once"),
            ("set-up p99", f"{setup.p99_ms:.1f} ms", ""),
            ("BIND answered meanwhile, p50", f"{setup.bind_p50_ms:.2f} ms", f"p99 {setup.bind_p99_ms:.2f}"),
            ("BIND answered when idle, p50", f"{idle.bind_p50_ms:.2f} ms", f"p99 {idle.bind_p99_ms:.2f}"),
            (f"{storm.clients} back after SIGKILL", f"{storm.all_back_s:.1f} s", f"limit {BACK_LIMIT:g}"),
            ("", "", f"relay up after {storm.up_s:.1f}, half of them {storm.half_back_s:.1f}"),
            ("handshakes of the storm", f"{storm.completed}", f"failed {storm.failed}, tried {storm.tries}"),
            ("CPU in the storm", f"{storm.relay_cpu:.0%}", f"clients {storm.crowd_cpu:.0%}"),
            ("RSS in the storm, at most", f"{storm.peak_mb:.1f} MB", ""),
        ]
        lines = [f"{name:<32} {value:>12} {note}".rstrip() for name, value, note in rows]
        if storm.void:
            why = "others took the cores" if storm.waited > WAITED else "the clients had no time left"
            lines.append(f"the time of the storm is void: {why}")
        return "\n".join(lines)


class Relay:
    """A relay process in a folder of its own; `start` may be called again."""

    def __init__(self, folder: Path, admission: str, clients: int) -> None:
        self._folder = folder
        state = folder / "relay"
        self.node_id = identities.create(state, "relay").node_id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = Address(*probe.getsockname())
        self._config = folder / "relay.yaml"
        self._config.write_text(
            f"relay: {{name: relay, state_dir: {state}, listen: {self.address}}}\n"
            f"admission: {admission}\nlimits: {{clients: {clients + 16}}}\n"
        )
        self.process: Process | None = None

    def launch(self) -> None:
        command = [str(Path(sys.executable).parent / "shadowmesh-relay"), "serve", "-c", str(self._config)]
        self.process = Process(command, self._folder / "relay.log")
        if len(CORES) > 1:
            os.sched_setaffinity(self.process.pid, {CORES[0]})

    @property
    def running(self) -> Process:
        assert self.process is not None
        return self.process

    @property
    def serves(self) -> bool:
        if not self.running.running:
            raise LabError(self.running.report())
        return "serves on UDP" in self.running.output()

    def memory(self) -> tuple[float, float]:
        """RSS now and its peak, MB."""
        text = Path(f"/proc/{self.running.pid}/status").read_text()
        found = [re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in ("VmRSS", "VmHWM")]
        now, peak = (int(one[1]) * 1024 / 1e6 if one is not None else 0.0 for one in found)
        return now, peak

    def status(self) -> dict[str, Any]:
        command = [str(Path(sys.executable).parent / "shadowmesh-relay"), "status", "--json"]
        done = subprocess.run([*command, "-c", str(self._config)], capture_output=True, text=True, check=True)
        document: dict[str, Any] = json.loads(done.stdout)
        return document


CORES = sorted(os.sched_getaffinity(0))


def percentile(values: Sequence[float], share: float) -> float:
    """NaN without values."""
    ordered = sorted(values) or [math.nan]
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def waited(pid: int) -> float:
    """Seconds that its main thread was ready to run and did not. Source: schedstat in proc(5)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Shares:
    """CPU of relay and crowd since it was made."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._began, self._own = time.monotonic(), time.process_time()
        self._theirs = relay.running.cpu_seconds()
        self.began = self._began
        self._waits = [waited(pid) for pid in (relay.running.pid, os.getpid())]

    @property
    def waited(self) -> float:
        """Share of the time that relay or crowd waited for a core."""
        now = [waited(pid) for pid in (self._relay.running.pid, os.getpid())]
        return max(after - before for before, after in zip(self._waits, now, strict=True)) / self.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def relay_seconds(self) -> float:
        return self._relay.running.cpu_seconds() - self._theirs

    def both(self) -> tuple[float, float]:
        """Shares of one core: the relay's, the crowd's."""
        return self.relay_seconds / self.seconds, (time.process_time() - self._own) / self.seconds


def memberships(nodes: Sequence[Identity], size: int, folder: Path) -> Iterator[tuple[str, list[Membership]]]:
    """Networks of `size` members each, for all nodes; the public file of each, and what its members hold."""
    for number, begin in enumerate(range(0, len(nodes), size)):
        key, now = AuthorityKey.generate(), time.time()
        prefix = ipaddress.ip_network((f"10.{number >> 8}.{number & 255}.0", 24))
        network = Network.make(f"net{number}", [prefix], [], key, int(now))
        authority = Authority(key, network, Ledger(network=node_id_text(network.id)))
        file = folder / f"net{number}.pem"
        file.write_text(to_text(network.document, Kind.NETWORK))
        members = []
        for index, node in enumerate(nodes[begin : begin + size]):
            certificate = authority.sign(Request(node=node.node_id, name=f"member{index}"), now)
            clock = SteadyClock(time.time, 0.0, lambda _: None)
            revocations = Revocations(network, b"", lambda _: None)
            members.append(Membership(network, revocations, clock, Credentials(certificate)))
        yield str(file), members


def add(relay: Relay, crowd: Crowd, stations: Sequence[Station]) -> tuple[list[float], float]:
    """Connect them, `UNDER_WAY` at once; seconds of each set-up, and of the relay's CPU."""
    waiting, began = list(reversed(stations)), relay.running.cpu_seconds()
    wanted = crowd.up + len(stations)
    begun = crowd.up

    def step() -> bool:
        nonlocal begun
        while waiting and begun - crowd.up < UNDER_WAY:
            crowd.start(waiting.pop())
            begun += 1
        return crowd.up >= wanted

    if not crowd.run(step, GIVE_UP + len(stations) * 0.1):
        raise LabError(f"{crowd.up} of {wanted} clients connected\n{relay.running.report()}")
    spent = relay.running.cpu_seconds() - began
    return [station.connected_at - station.began_at for station in stations if station.connected_at], spent


def fill(relay: Relay, crowd: Crowd, pulse: Pulse, stations: Sequence[Station]) -> Setup:
    """Connect the rest, and say what that took."""
    shares = Shares(relay)
    times, spent = add(relay, crowd, stations)
    relay_cpu, crowd_cpu = shares.both()
    bind = pulse.between(shares.began, time.monotonic())
    return Setup(
        clients=len(stations),
        seconds=shares.seconds,
        per_core_second=len(stations) / spent,
        p50_ms=percentile(times, 0.5) * 1000,
        p99_ms=percentile(times, 0.99) * 1000,
        relay_cpu=relay_cpu,
        crowd_cpu=crowd_cpu,
        bind_p50_ms=percentile(bind, 0.5) * 1000,
        bind_p99_ms=percentile(bind, 0.99) * 1000,
    )


def storm(relay: Relay, crowd: Crowd, stations: Sequence[Station], busy_for: float) -> Storm:
    """SIGKILL under traffic, a start at once, and everybody comes back."""
    now = time.monotonic()
    for station in stations:
        station.carry_traffic(now)
    crowd.run(lambda: False, busy_for)
    tries = sum(station.tries for station in stations)
    killed = time.monotonic()
    relay.running.kill()
    relay.launch()
    if not crowd.run(lambda: relay.serves, GIVE_UP, LOOK):
        raise LabError(f"the relay did not start\n{relay.running.report()}")
    up, shares = time.monotonic(), Shares(relay)

    def back() -> int:
        return sum(station.connected_at is not None and station.connected_at > killed for station in stations)

    if not crowd.run(lambda: back() == len(stations), GIVE_UP, LOOK):
        raise LabError(f"{back()} of {len(stations)} came back in {GIVE_UP:g} s\n{relay.running.report()}")
    (relay_cpu, crowd_cpu), starved = shares.both(), shares.waited
    times = [(station.connected_at or 0.0) - killed for station in stations]
    peak = relay.memory()[1]
    status = relay.status()
    return Storm(
        clients=len(stations),
        up_s=up - killed,
        first_back_s=min(times),
        half_back_s=statistics.median(times),
        all_back_s=max(times),
        peak_mb=peak,
        tries=sum(station.tries for station in stations) - tries,
        completed=status["totals"]["handshakes"]["completed"],
        failed=status["totals"]["handshakes"]["failed"],
        relay_cpu=relay_cpu,
        crowd_cpu=crowd_cpu,
        waited=starved,
        drops={reason: count for reason, count in status["drops"].items() if count},
    )


def idle(relay: Relay, crowd: Crowd, pulse: Pulse, alone: float, settle_for: float, span: float) -> Idle:
    """Everybody is connected; what does that cost while nothing happens?"""
    crowd.run(lambda: False, settle_for)
    shares = Shares(relay)
    crowd.run(lambda: False, span)
    relay_cpu, crowd_cpu = shares.both()
    rss, peak = relay.memory()
    clients = len(crowd.stations)
    bind = pulse.between(shares.began, time.monotonic())
    return Idle(
        clients=clients,
        alone_mb=alone,
        rss_mb=rss,
        peak_mb=peak,
        per_client_kb=(rss - alone) * 1000 / clients,
        relay_cpu=relay_cpu,
        crowd_cpu=crowd_cpu,
        bind_p50_ms=percentile(bind, 0.5) * 1000,
        bind_p99_ms=percentile(bind, 0.99) * 1000,
        lost=clients + 1 - relay.status()["totals"]["clients"],
    )


@contextmanager
def running(clients: int, network_size: int) -> Iterator[tuple[Relay, Crowd, Pulse]]:
    """A relay that serves, and stations that it would admit, none of them connected."""
    with tempfile.TemporaryDirectory(prefix="shadowmesh-clients-") as name:
        folder = Path(name)
        nodes = [Identity.generate(f"client{number}") for number in range(clients)]
        shown: list[Membership | None] = [None] * clients
        pulse = Pulse(folder)
        listed = [pulse.node_id] if network_size else [pulse.node_id, *(node.node_id for node in nodes)]
        admission = f"nodes: [{', '.join(node_id_text(node) for node in listed)}]"
        if network_size:
            networks = list(memberships(nodes, network_size, folder))
            shown = [one for _, members in networks for one in members]
            admission += f", networks: [{', '.join(file for file, _ in networks)}]"
        relay = Relay(folder, f"{{{admission}}}", clients)
        crowd = Crowd(relay.address, parse_node_id(node_id_text(relay.node_id)))
        for node, membership in zip(nodes, shown, strict=True):
            crowd.add(node, membership)
        settle()
        relay.launch()
        try:
            relay.running.wait_for(lambda: relay.serves, GIVE_UP, "the relay")
            yield relay, crowd, pulse
        finally:
            relay.running.kill()
            crowd.close()


def measure(
    clients: int, stormers: int, network_size: int, busy_for: float, settle_for: float, span: float
) -> Result:
    """All of it."""
    with running(clients, network_size) as (relay, crowd, pulse):
        os.sched_setaffinity(0, {CORES[-1]})
        try:
            alone = relay.memory()[0]
            with pulse.running(relay.address, node_id_text(relay.node_id), CORES[-1]):
                add(relay, crowd, crowd.stations[:stormers])
                stormed = storm(relay, crowd, crowd.stations[:stormers], busy_for)
                back = time.monotonic()
                if not crowd.run(lambda: bool(pulse.between(back, math.inf)), GIVE_UP, LOOK):
                    raise LabError("the client that asks did not come back")
                setup = fill(relay, crowd, pulse, crowd.stations[stormers:])
                at_rest = idle(relay, crowd, pulse, alone, settle_for, span)
        finally:
            os.sched_setaffinity(0, CORES)
    return Result(clients, network_size, len(CORES), setup, stormed, at_rest)


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"in all (default {CLIENTS})")
    parser.add_argument("--storm", type=int, default=STORM, help=f"that come back at once (default {STORM})")
    parser.add_argument(
        "--network-size", type=int, default=0,
        help="members of each network, up to 250\n(default 0: the relay lists the NodeIDs)",
    )  # fmt: skip
    parser.add_argument("--span", type=float, default=SPAN, help=f"seconds of idleness (default {SPAN:g})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="few clients, short: does it run at all?")
    arguments = parser.parse_args()
    settle_for, busy_for = SETTLE, BUSY_FOR
    if arguments.smoke:
        arguments.clients, arguments.storm, arguments.span, settle_for, busy_for = 12, 6, 0.5, 0.1, 0.2
    if not 0 < arguments.storm < arguments.clients or not 0 <= arguments.network_size <= 250:
        parser.error("--storm is less than --clients, and --network-size at most 250")
    try:
        result = measure(
            arguments.clients, arguments.storm, arguments.network_size, busy_for, settle_for, arguments.span
        )
    except LabError as error:
        print(f"clients: {error}", file=sys.stderr)
        return 1
    document = {"schema": "shadowmesh.bench.clients/1", **asdict(result), "void": result.storm.void}
    print(json.dumps(document, indent=2) if arguments.json else result)
    return 0 if result.within_limits else 1


if __name__ == "__main__":
    sys.exit(main())

"""What do 500 known members and 50 sessions cost one client that connects on demand?

A relay, the client alice, and a load of members: real protocol cores with real sessions, all in one process.
Measured at alice, by /proc: RSS, and CPU time as a share of one core, while all are known and nobody talks,
with the sessions up and quiet, and while a few of them answer 20 echo requests a second.  Exit code 1 if a
limit is exceeded.  Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import re
import secrets
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.memory import rss
from shadowmesh.config import ClientConfig, Interface, Listen, NetworkSection, NodeSection, Paths, RelayPeer
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.membership.authority import Authority, Ledger, Request
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.overlay.mac import mac_text
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.testing.mesh import ClientNode, Mesh, RelayNode
from shadowmesh.testing.process import LabError
from shadowmesh.units import Address
from shadowmesh.values import parse_host_port, parse_node_id
from shadowmesh.wire.messages import Absent, Present

MEMBERS, ACTIVE, TALKING = 500, 50, 5
SPAN = 20.0
"""Seconds over which CPU time is counted."""
RSS_LIMIT_MB, KNOWN_LIMIT, QUIET_LIMIT, TALKING_LIMIT = 100.0, 0.03, 0.05, 0.15
"""Limits on RSS with all sessions up, and on the shares of a core: known only, quiet sessions, talking."""
JOIN_PACE = 0.02
"""Seconds between two members of the load: a relay takes 100 handshakes a second."""


@dataclass(frozen=True)
class Cost:
    """MB are 10^6 bytes; `_cpu` are shares of one core."""

    members: int
    sessions: int
    talking: int
    base_mb: float
    known_mb: float
    sessions_mb: float
    known_cpu: float
    quiet_cpu: float
    talking_cpu: float
    first_frame_ms: float

    @property
    def within_limits(self) -> bool:
        return (
            self.sessions_mb <= RSS_LIMIT_MB
            and self.known_cpu <= KNOWN_LIMIT
            and self.quiet_cpu <= QUIET_LIMIT
            and self.talking_cpu <= TALKING_LIMIT
        )

    def __str__(self) -> str:
        return (
            f"{'alone, RSS':<42} {self.base_mb:>7.1f} MB\n"
            f"{f'{self.members} members known, RSS':<42} {self.known_mb:>7.1f} MB\n"
            f"{f'and {self.sessions} sessions':<42} {self.sessions_mb:>7.1f} MB, limit {RSS_LIMIT_MB:g}\n"
            f"{'known, CPU of one core':<42} {self.known_cpu:>7.2%}, limit {KNOWN_LIMIT:.0%}\n"
            f"{'with the sessions, quiet, CPU':<42} {self.quiet_cpu:>7.2%}, limit {QUIET_LIMIT:.0%}\n"
            f"{f'{self.talking} of them talk, CPU':<42} {self.talking_cpu:>7.2%}, limit {TALKING_LIMIT:.0%}\n"
            f"{'first echo, session included, median':<42} {self.first_frame_ms:>7.1f} ms"
        )


# The load: everything from here to `load` runs in its process.


class Member:
    """A member that answers echo requests: the core and data plane of the protocol tests on a real socket."""

    def __init__(
        self, config: ClientConfig, identity: Identity, membership: Membership, relay: Address, host: str
    ) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        own = Address(*self.socket.getsockname())
        seed = int.from_bytes(secrets.token_bytes(8))
        self.client = MemoryClient(
            config, identity, own, lambda _host, _port: [relay], time.monotonic(), seed, (), membership
        )
        self._timer: asyncio.TimerHandle | None = None

    def heed_only(self, node: bytes) -> None:
        """The others of the load are no business of this member: it stands for one of 500 machines."""
        core = self.client.core
        inner = core._relay_message
        for relay in core.relays:
            relay._handle_message = lambda one, message, now: (
                None
                if isinstance(message, Present | Absent) and message.node != node
                else inner(one, message, now)
            )

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.socket, self._readable)
        self._expire()

    def leave(self, goodbye: bool) -> None:
        """Be gone, with or without a word."""
        if goodbye:
            self.client.core.close(time.monotonic())
            self._flush()
        asyncio.get_running_loop().remove_reader(self.socket)
        if self._timer is not None:
            self._timer.cancel()
        self.socket.close()

    def _readable(self) -> None:
        for _ in range(64):
            try:
                data, source = self.socket.recvfrom(65536)
            except BlockingIOError:
                break
            self.client.receive(data, Address(*source), time.monotonic())
        self._flush()

    def _expire(self) -> None:
        self.client.expire(time.monotonic())
        self._flush()

    def _flush(self) -> None:
        frames, self.client.frames[:] = list(self.client.frames), []
        for frame in frames:
            answer = echo(frame)
            if answer is not None:
                self.client.send_frame(answer, time.monotonic())
        for data, target in self.client.transmit():
            self.socket.sendto(data, target)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self.client.deadline() - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)


def echo(frame: bytes) -> bytes | None:
    """The reply to an ICMP echo request over IPv4 without options (RFC 792); None for anything else."""
    if frame[12:15] != b"\x08\x00\x45" or frame[23] != 1 or frame[34] != 8:
        return None
    total = int.from_bytes(frame[36:38]) + 0x0800  # type 8 -> 0: RFC 1624
    checksum = (total & 0xFFFF) + (total >> 16)
    icmp = bytes(2) + checksum.to_bytes(2) + frame[38:]
    return frame[6:12] + frame[:6] + frame[12:26] + frame[30:34] + frame[26:30] + icmp


class Authorship:
    """The network and its authority, made for one run."""

    def __init__(self) -> None:
        key, now = AuthorityKey.generate(), time.time()
        self.network = Network.make("load", [ipaddress.ip_network("10.77.0.0/16")], [], key, int(now))
        self._authority = Authority(key, self.network, Ledger(network=node_id_text(self.network.id)))

    def sign(self, node: bytes, name: str) -> Membership:
        certificate = self._authority.sign(Request(node=node, name=name), time.time())
        clock = SteadyClock(time.time, 0.0, lambda _: None)
        revocations = Revocations(self.network, b"", lambda _: None)
        return Membership(self.network, revocations, clock, Credentials(certificate))


def load(folder: Path, relay: str, relay_id: str, alice: str, count: int, host: str) -> None:
    """Sign everybody, then be `count` members until killed."""
    authorship = Authorship()
    (folder / "home.pem").write_text(to_text(authorship.network.document, Kind.NETWORK))
    signed = authorship.sign(parse_node_id(alice), "alice").certificate.document
    (folder / "alice.pem").write_text(to_text(signed, Kind.CERTIFICATE))
    where, port = parse_host_port(relay)
    members, table = [], []
    for number in range(count):
        identity = Identity.generate(f"member{number}")
        membership = authorship.sign(identity.node_id, f"member{number}")
        config = ClientConfig(
            node=NodeSection(f"member{number}", Path("/nowhere"), Path("/nowhere/socket")),
            listen=Listen("0.0.0.0", 0),
            interface=Interface("smesh0", tuple(membership.certificate.body.addresses), "auto"),
            relays=(RelayPeer(where, port, parse_node_id(relay_id)),),
            peers=(),
            paths=Paths("never"),
            network=NetworkSection(Path("/nowhere"), Path("/nowhere"), "demand"),
        )
        member = Member(config, identity, membership, Address(where, port), host)
        member.heed_only(parse_node_id(alice))
        members.append(member)
        table.append([membership.certificate.hosts[0], mac_text(member.client.mac)])
    (folder / "members.json.draft").write_text(json.dumps(table))
    (folder / "members.json.draft").rename(folder / "members.json")
    while not (folder / "relay.up").exists():
        time.sleep(0.1)

    async def run() -> None:
        for member in members:
            member.start()
            await asyncio.sleep(JOIN_PACE)
        await asyncio.Event().wait()

    asyncio.run(run())


# The measurement.


def cpu_share(pid: int, seconds: float) -> float:
    """CPU time of a process over the next `seconds`, by their number."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - before) / (time.monotonic() - began)


def resident(client: ClientNode) -> float:
    return rss(Path(f"/proc/{client.running_process.pid}/status").read_text())


def in_state(client: ClientNode, state: str) -> int:
    named = [peer for peer in client.status()["peers"] if peer["addresses"]]
    return sum(peer["state"] == state for peer in named)


def await_count(client: ClientNode, state: str, count: int, timeout: float) -> None:
    """Looks once a second: a status of 500 peers is work for the client."""
    end = time.monotonic() + timeout
    while (found := in_state(client, state)) < count:
        if time.monotonic() > end:
            raise LabError(f"{found} of {count} members are {state} after {timeout:g} s")
        time.sleep(1.0)


def measure(members: int, active: int, talking: int, span: float) -> Cost:
    """All of it, in a lab of its own."""
    with Lab() as lab:
        mesh = Mesh(lab)
        relay, alice, host = mesh.relay(), mesh.client("alice"), lab.host("load")
        arguments = [
            str(lab.directory),
            relay.endpoint,
            relay.node_id,
            alice.node_id,
            str(members),
            host.address,
        ]
        crowd = host.spawn([sys.executable, __file__, "--load", *arguments], str(lab.directory / "load.log"))
        table = lab.directory / "members.json"
        crowd.wait_for(table.exists, 30.0 + members * 0.2, "the members' certificates")
        configure(lab, relay, alice)
        relay.start()
        alice.start()
        alice.wait_relay()
        base = resident(alice)
        (lab.directory / "relay.up").touch()
        await_count(alice, "idle", members, 60.0 + members * 0.5)
        time.sleep(2.0)
        known, known_cpu = resident(alice), cpu_share(alice.running_process.pid, span)
        hosts = json.loads(table.read_text())
        alice.host.ip_batch(
            [f"neigh replace {ip} lladdr {mac} nud permanent dev smesh0" for ip, mac in hosts[:active]]
        )
        firsts = sorted(first_echo(alice, ip) for ip, _ in hosts[:active])
        await_count(alice, "connected", active, 30.0)
        time.sleep(5.0)
        quiet_cpu = cpu_share(alice.running_process.pid, span)
        pings = [
            alice.host.spawn(["ping", "-q", "-i", "0.05", ip], str(lab.directory / "ping.log"))
            for ip, _ in hosts[:talking]
        ]
        time.sleep(1.0)
        talking_cpu = cpu_share(alice.running_process.pid, span)
        result = Cost(
            members, active, talking, base, known, resident(alice), known_cpu, quiet_cpu, talking_cpu,
            firsts[len(firsts) // 2],
        )  # fmt: skip
        for process in [*pings, crowd]:
            process.kill()
    lab.check_leaks()
    return result


def first_echo(client: ClientNode, address: str) -> float:
    """Milliseconds of the first echo to a member without a session: no second request is sent."""
    done = client.host.run(["ping", "-c", "1", "-W", "5", address], True, 10.0)
    found = re.search(r"time=([\d.]+) ms", done.stdout)
    if found is None:
        raise LabError(f"no answer from {address}")
    return float(found[1])


def configure(lab: Lab, relay: RelayNode, alice: ClientNode) -> None:
    alice.peers = []
    mesh_wide = lab.directory / "home.pem"
    relay.config = {
        "relay": {"name": "relay", "state_dir": str(relay.state_dir), "listen": "[::]:4433"},
        "admission": {"networks": [str(mesh_wide)]},
    }
    alice.config = {
        "node": {"name": "alice", "state_dir": str(alice.state_dir), "socket": str(alice.socket_path)},
        "relays": [{"address": relay.endpoint, "id": relay.node_id}],
        "paths": {"direct": "never"},
        "network": {
            "file": str(mesh_wide),
            "certificate": str(lab.directory / "alice.pem"),
            "connect": "demand",
        },
    }


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"known (default {MEMBERS}, up to 512)")
    parser.add_argument("--active", type=int, default=ACTIVE, help=f"with a session (default {ACTIVE})")
    parser.add_argument(
        "--talking", type=int, default=TALKING, help=f"of them, that talk (default {TALKING})"
    )
    parser.add_argument("--span", type=float, default=SPAN, help=f"seconds per figure (default {SPAN:g})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="few members, short: does it run at all?")
    parser.add_argument("--load", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        folder, relay, relay_id, alice, count, host = arguments.load
        load(Path(folder), relay, relay_id, alice, int(count), host)
        return 0
    asked = (12, 4, 2, 2.0) if arguments.smoke else (
        arguments.members, arguments.active, arguments.talking, arguments.span
    )  # fmt: skip
    try:
        result = measure(*asked)
    except LabError as error:
        print(f"members: {error}", file=sys.stderr)
        return 1
    document = {"schema": "shadowmesh.bench.members/1", **asdict(result)}
    print(json.dumps(document, indent=2) if arguments.json else result)
    return 0 if result.within_limits else 1


if __name__ == "__main__":
    sys.exit(main())

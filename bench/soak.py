"""Does anything grow, and do the counters add up, while sessions rekey, roam and come and go for long?

A relay; alice, bob and carol, installed clients whose sessions take fresh keys every 2 s; and 50 members,
real protocol cores in one process, of which one at a time leaves (half of them silently) and comes back.
Echo requests and TCP cross all pairs of the three, and alice asks all members.  carol's underlay address
changes every few seconds.  Judged are, of every process: memory, descriptors and threads, by the slope of a
line through the samples after the warm-up; entries of the tables in `status`; and, once the traffic has
stopped, the counters: what one sent the other received, or somebody counted why not.  Exit code 1 if
something grows or a sum is wrong.  Needs root.

    make soak SECONDS=3600
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import measured
from bench.members import Authorship, Member
from bench.roam import change_address
from shadowmesh.config import (
    ClientConfig,
    Interface,
    Listen,
    NetworkSection,
    NodeSection,
    Paths,
    RelayPeer,
    SessionSection,
)
from shadowmesh.crypto.identity import Identity
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.overlay.mac import mac_text
from shadowmesh.testing.chaos import resident_mb
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import ClientNode, Mesh, RelayNode
from shadowmesh.testing.process import LabError, wait_until
from shadowmesh.testing.pulse import Pulse, echo_request
from shadowmesh.units import Address
from shadowmesh.values import parse_host_port, parse_node_id
from shadowmesh.web.client import request

SECONDS, MEMBERS, REKEY = 1800.0, 50, 2
NAMES = ("alice", "bob", "carol")
SAMPLE = 2.0
"""Seconds between two samples."""
STAY = 0.5
"""Seconds between two members that leave and come back: each lives for 25 s or so."""
ASK = 0.05
"""Seconds between two echo requests of alice to members."""
ROAM = 7.0
JOIN_PACE = 0.05
WARM_UP = 0.4
"""Share of the samples that does not count: pools and caches fill, and 50 sessions are met."""
SETTLED = 2.0
"""Seconds of traffic after the last change of an address."""
LEAST = 30
"""Samples after the warm-up without which no growth can be told from chance: a run of two minutes or so."""
CALM = 5.0
"""Seconds of traffic between the three alone, whose counters are compared exactly."""
MB_AN_HOUR, MB_AT_LEAST = 6.0, 4.0
"""A line may climb so much in an hour, or in all, before it counts as growth."""
INWARD = (
    "spoofed_address", "dhcp_guard", "ra_guard", "malformed_packet", "firewall_in", "firewall_malformed",
    "tap_full", "tap_failed",
)  # fmt: skip
"""Reasons of frames that count as received, and did not get to the interface."""
OUTWARD = (
    "no_route", "unknown_destination", "foreign_source", "broadcast_budget", "firewall_out", "expired_keys",
    "lane_exhausted", "send_buffer_full", "send_failed", "too_big", "unsplittable", "frame_size",
    "link_local_group", "held_too_long",
)  # fmt: skip
"""Reasons of frames that the interface gave, and that did not leave."""


# The load: everything from here to `load` runs in its process.


class Crowd:
    """Members that come and go.

    :param folder: where the certificates of alice, bob and carol go.
    """

    def __init__(self, folder: Path, relay: Address, relay_id: bytes, ids: list[bytes], host: str) -> None:
        self._authorship = Authorship()
        (folder / "home.pem").write_text(to_text(self._authorship.network.document, Kind.NETWORK))
        for name, node in zip(NAMES, ids, strict=True):
            signed = self._authorship.sign(node, name).certificate.document
            (folder / f"{name}.pem").write_text(to_text(signed, Kind.CERTIFICATE))
        self._relay, self._relay_id, self._alice, self._host = relay, relay_id, ids[0], host
        self._random = random.Random(1)
        self._known: list[tuple[Identity, ClientConfig]] = []
        self._here: dict[int, Member] = {}

    def make(self, count: int) -> list[tuple[str, str]]:
        """`count` identities; address and MAC address of each."""
        table = []
        for number in range(count):
            name = f"member{number}"
            identity = Identity.generate(name)
            membership = self._authorship.sign(identity.node_id, name)
            config = ClientConfig(
                node=NodeSection(name, Path("/nowhere"), Path("/nowhere/socket")),
                listen=Listen("0.0.0.0", 0),
                interface=Interface("smesh0", tuple(membership.certificate.body.addresses), "auto"),
                relays=(RelayPeer(self._relay.host, self._relay.port, self._relay_id),),
                peers=(),
                paths=Paths("never"),
                session=SessionSection(REKEY),
                network=NetworkSection(Path("/nowhere"), Path("/nowhere"), "demand"),
            )
            self._known.append((identity, config))
            member = self._come(number)
            table.append((membership.certificate.hosts[0], mac_text(member.client.mac)))
        return table

    def _come(self, number: int) -> Member:
        identity, config = self._known[number]
        membership = self._authorship.sign(identity.node_id, config.node.name)
        member = Member(config, identity, membership, self._relay, self._host)
        member.heed_only(self._alice)
        self._here[number] = member
        return member

    async def run(self, until: Callable[[], bool]) -> None:
        """All come; then one after the other goes and comes back, until told to stop."""
        for member in self._here.values():
            member.start()
            await asyncio.sleep(JOIN_PACE)
        while True:
            await asyncio.sleep(STAY)
            if not until():
                number = self._random.randrange(len(self._known))
                self._here[number].leave(goodbye=self._random.random() < 0.5)
                await asyncio.sleep(STAY)
                self._come(number).start()


def load(folder: Path, relay: str, relay_id: str, ids: str, count: int, host: str) -> None:
    """Sign everybody, then be the members until killed."""
    where = Address(*parse_host_port(relay))
    crowd = Crowd(
        folder, where, parse_node_id(relay_id), [parse_node_id(one) for one in ids.split(",")], host
    )
    (folder / "members.draft").write_text(json.dumps(crowd.make(count)))
    (folder / "members.draft").rename(folder / "members.json")
    while not (folder / "relay.up").exists():
        time.sleep(0.1)
    asyncio.run(crowd.run((folder / "calm").exists))


# The samples.


@dataclass
class Series:
    """What one process took, over time."""

    at: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    entries: list[float] = field(default_factory=list)
    """Of tables that `status` shows: peers, paths, routes; clients and channels of a relay."""

    def sample(self, now: float, pid: int, entries: int) -> None:
        """Add one."""
        process = Path(f"/proc/{pid}")
        self.at.append(now)
        self.mb.append(resident_mb(pid))
        self.descriptors.append(len(list((process / "fd").iterdir())))
        self.threads.append(len(list((process / "task").iterdir())))
        self.entries.append(entries)

    def settled(self, values: list[float]) -> tuple[list[float], list[float]]:
        """Times and values after the warm-up."""
        begin = int(len(self.at) * WARM_UP)
        return self.at[begin:], values[begin:]


def slope(times: list[float], values: list[float]) -> float:
    """Of the line with the least squares, per second."""
    if len(times) < 2:
        return 0.0
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    pairs = zip(times, values, strict=True)
    return sum((time - middle) * (value - mean) for time, value in pairs) / spread if spread else 0.0


def grown(name: str, series: Series) -> list[str]:
    """What grew in a process, for people; nothing can be said of a short run."""
    found = []
    times, mb = series.settled(series.mb)
    if len(times) < LEAST:
        return []
    span = times[-1] - times[0]
    climb = slope(times, mb)
    if climb * 3600 > MB_AN_HOUR and climb * span > MB_AT_LEAST:
        found.append(f"{name}: memory grows by {climb * 3600:.1f} MB an hour, {climb * span:.1f} MB so far")
    for what, values in (("descriptors", series.descriptors), ("threads", series.threads)):
        _, kept = series.settled(values)
        third = max(1, len(kept) // 3)
        # What is open for a moment only may be in any sample; what leaks is in all that come later.
        if min(kept[-third:]) > max(kept[:third]):
            found.append(f"{name}: {what} grew from {max(kept[:third]):.0f} to {min(kept[-third:]):.0f}")
    return found


@dataclass
class Outcome:
    """What a run has shown; it was good if `violations` is empty."""

    seconds: float = 0.0
    epochs: int = 0
    roams: int = 0
    churned: int = 0
    echoes: int = 0
    answers: int = 0
    """Of members to alice."""
    blocks: int = 0
    compared: int = 0
    """Frames of the calm whose counters were held against each other."""
    lost: dict[str, int] = field(default_factory=dict)
    """Frames of each direction, over all of the time, that were sent and not received."""
    series: dict[str, Series] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.seconds:.0f} s; {self.epochs} rekeys of alice and bob, {self.roams} changes of carol's "
            f"address, {self.churned} members came anew",
            f"{self.echoes} echo replies and {self.blocks} TCP blocks between the three, {self.answers} echo "
            f"replies of members; {self.compared} frames compared in the calm",
            "sent and not received: " + (", ".join(f"{k} {v}" for k, v in self.lost.items())),
        ]
        for name, one in self.series.items():
            times, mb = one.settled(one.mb)
            lines.append(
                f"{name:<6} {mb[-1]:6.1f} MB, {slope(times, mb) * 3600:+7.2f} MB/h; "
                f"descriptors {one.descriptors[-1]:.0f} (at most {max(one.descriptors):.0f}), "
                f"threads {one.threads[-1]:.0f}, entries {one.entries[-1]:.0f} "
                f"(at most {max(one.entries):.0f})"
            )
        return "\n".join([*lines, *(f"VIOLATED: {line}" for line in self.violations or [])]) + (
            "" if self.violations else "\nnothing grows, and every sum is right"
        )


# The lab.


class Asking:
    """alice's echo requests to the members, one after the other, in a thread."""

    def __init__(self, alice: ClientNode, addresses: list[str]) -> None:
        self.answers = 0
        self._addresses = addresses
        self._raw = alice.host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._raw.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._raw.close()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(ASK):
            number += 1
            with contextlib.suppress(OSError):
                target = self._addresses[number % len(self._addresses)]
                self._raw.sendto(echo_request(0xA5A5, number & 0xFFFF), (target, 0))
            with contextlib.suppress(OSError):
                while True:
                    packet = self._raw.recv(2048)
                    self.answers += packet[20] == 0 and packet[24:26] == b"\xa5\xa5"


def configure(lab: Lab, relay: RelayNode, clients: list[ClientNode]) -> None:
    """By the certificates that the load has signed."""
    public = lab.directory / "home.pem"
    relay.config = {
        "relay": {"name": "relay", "state_dir": str(relay.state_dir), "listen": "[::]:4433"},
        "admission": {"networks": [str(public)]},
    }
    for number, client in enumerate(clients, 1):
        client.peers, client.ipv4 = [], f"10.77.0.{number}"
        client.config = {
            "node": {
                "name": client.name,
                "state_dir": str(client.state_dir),
                "socket": str(client.socket_path),
            },
            "relays": [{"address": relay.endpoint, "id": relay.node_id}],
            "paths": {"direct": "auto", "port_mapping": "off"},
            "session": {"rekey_seconds": REKEY},
            "network": {
                "file": str(public),
                "certificate": str(lab.directory / f"{client.name}.pem"),
                "connect": "demand",
            },
        }


class Soak:
    """One run, in a lab that is open."""

    def __init__(self, lab: Lab, members: int) -> None:
        mesh = Mesh(lab)
        self.relay = mesh.relay()
        self.clients = {name: mesh.client(name) for name in NAMES}
        host = lab.host("load")
        ids = ",".join(client.node_id for client in self.clients.values())
        arguments = [
            str(lab.directory),
            self.relay.endpoint,
            self.relay.node_id,
            ids,
            str(members),
            host.address,
        ]
        log = str(lab.directory / "load.log")
        self.crowd = host.spawn([sys.executable, __file__, "--load", *arguments], log)
        table = lab.directory / "members.json"
        self.crowd.wait_for(table.exists, 30.0 + members, "the members' certificates")
        configure(lab, self.relay, list(self.clients.values()))
        self.relay.start()
        for client in self.clients.values():
            client.start()
        (lab.directory / "relay.up").touch()
        self.addresses = [address for address, _ in json.loads(table.read_text())]
        neighbours = [
            f"neigh replace {address} lladdr {mac} nud permanent dev smesh0"
            for address, mac in json.loads(table.read_text())
        ]
        self.clients["alice"].host.ip_batch(neighbours)
        self.calm_file = lab.directory / "calm"
        self.roams = 0
        self._processes = {"relay": self.relay, **self.clients}

    def sample(self, outcome: Outcome) -> None:
        """Look at every process."""
        for name, node in self._processes.items():
            entries = self._entries(name)
            series = outcome.series.setdefault(name, Series())
            series.sample(time.monotonic(), node.running_process.pid, entries)

    def _entries(self, name: str) -> int:
        if name == "relay":
            code, body = request(self.relay.state_dir / "relay.sock", "GET", "/v1/status", b"", 5.0)
            if code != 200:
                raise LabError(f"the relay's status answers {code}")
            status: dict[str, list[dict[str, int]]] = json.loads(body)
            return len(status["clients"]) + sum(one["channels"] for one in status["clients"])
        peers: list[dict[str, list[object]]] = self.clients[name].status()["peers"]
        return sum(1 + len(peer["paths"]) for peer in peers)

    def roam(self) -> None:
        """carol is somewhere else."""
        self.roams += 1
        change_address(self.clients["carol"].host, self.roams)

    def came(self) -> int:
        """How often anybody joined the relay."""
        return len(re.findall("joined from", self.relay.output()))


def counted(client: ClientNode) -> tuple[Counter[str], dict[str, tuple[int, int]]]:
    """Counters and drops of a client, and what it has sent to and received from each peer."""
    status = client.status()
    traffic = {peer["name"]: (peer["tx_frames"], peer["rx_frames"]) for peer in status["peers"]}
    return Counter({**status["counters"], **status["drops"]}), traffic


def unbalanced(clients: dict[str, ClientNode]) -> list[str]:
    """Directions between the three in which more frames came than were sent: nothing explains these."""
    traffic = {name: counted(client)[1] for name, client in clients.items()}
    return [
        f"{name} received {traffic[name][other][1]} frames of {other}, who sent {traffic[other][name][0]}"
        for name in clients
        for other in clients
        if name != other and traffic[name][other][1] > traffic[other][name][0]
    ]


def compare(before: dict[str, tuple], after: dict[str, tuple], outcome: Outcome) -> None:  # type: ignore[type-arg]
    """The sums of a calm in which frames to one receiver crossed, and nobody roamed, came or went."""
    for name in NAMES:
        drops = after[name][0] - before[name][0]
        peers = after[name][1].keys()
        sent, received = (
            sum(after[name][1][p][way] - before[name][1].get(p, (0, 0))[way] for p in peers) for way in (0, 1)
        )
        given, taken = drops["tap_rx_frames"], drops["tap_tx_frames"] - drops["answered_requests"]
        left = sum(drops[reason] for reason in OUTWARD) + drops["answered_requests"]
        stayed = sum(drops[reason] for reason in INWARD)
        if given != sent + left:
            outcome.violations.append(
                f"{name}: the interface gave {given} frames; {sent} sent, {left} dropped"
            )
        if received != taken + stayed:
            outcome.violations.append(
                f"{name}: {received} frames received; {taken} delivered, {stayed} dropped"
            )
        for other in NAMES:
            if other != name:
                sent = after[name][1][other][0] - before[name][1][other][0]
                came = after[other][1][name][1] - before[other][1][name][1]
                outcome.compared += sent
                if sent != came:
                    outcome.violations.append(f"{name} sent {sent} frames to {other}, who received {came}")


def quiet(clients: dict[str, ClientNode]) -> dict[str, tuple[Counter[str], dict[str, tuple[int, int]]]]:
    """The counters, once two looks have found the same: nothing is under way any more."""
    found: list[dict[str, tuple[Counter[str], dict[str, tuple[int, int]]]]] = []

    def still() -> bool:
        found.append({name: counted(client) for name, client in clients.items()})
        return len(found) > 1 and all(
            found[-1][name][1] == found[-2][name][1]
            and found[-1][name][0]["tap_rx_frames"] == found[-2][name][0]["tap_rx_frames"]
            for name in clients
        )

    wait_until(still, 20.0, "the traffic to end", interval=0.5)
    return found[-1]


@contextlib.contextmanager
def pulsing(soak: Soak, seed: int) -> Iterator[Pulse]:
    hosts = {name: (client.host, client.ipv4) for name, client in soak.clients.items()}
    with Pulse(hosts, seed) as pulse:
        wait_until(lambda: not pulse.silent(0.0), 30.0, "all pairs to talk")
        yield pulse


def run(seconds: float, members: int, talk: bool = False) -> Outcome:
    """Soak for `seconds` once everybody talks, then look at all sums. Raises LabError."""
    outcome = Outcome()
    with Lab() as lab:
        soak = Soak(lab, members)
        with pulsing(soak, 1) as pulse, Asking(soak.clients["alice"], soak.addresses) as asking:
            wait_until(lambda: asking.answers, 60.0, "a member to answer")
            began = roam_at = talk_at = time.monotonic()
            while time.monotonic() - began < seconds:
                soak.sample(outcome)
                if time.monotonic() >= roam_at:
                    roam_at = time.monotonic() + ROAM
                    soak.roam()
                if talk and time.monotonic() >= talk_at + 60.0:
                    talk_at = time.monotonic()
                    print(f"{talk_at - began:.0f} s\n{outcome}\n", flush=True)
                time.sleep(SAMPLE)
            outcome.seconds = time.monotonic() - began
            soak.calm_file.touch()
            asking.stop()
            _settle(pulse)
            totals = pulse.totals
            outcome.echoes, outcome.blocks, outcome.answers = totals.replies, totals.blocks, asking.answers
        outcome.roams, outcome.churned = soak.roams, soak.came() - members - len(NAMES)
        outcome.violations += [f"TCP of {'-'.join(pair)} brought other bytes" for pair in totals.altered]
        _settle_accounts(soak, outcome)
        for name, series in outcome.series.items():
            outcome.violations += grown(name, series)
        soak.crowd.kill()
    lab.check_leaks()
    return outcome


def _settle(pulse: Pulse) -> None:
    """Nobody roams any more: frames still go the way that carol was before, until that is noticed."""
    stopped = time.monotonic()
    wait_until(lambda: not pulse.silent(stopped), 30.0, "all pairs to talk")
    time.sleep(SETTLED)


def _settle_accounts(soak: Soak, outcome: Outcome) -> None:
    clients = soak.clients
    quiet(clients)
    outcome.violations += unbalanced(clients)
    before = quiet(clients)
    for name in NAMES:
        for other in NAMES:
            if name != other:
                lost = before[name][1][other][0] - before[other][1][name][1]
                outcome.lost[f"{name}-{other}"] = lost
    for (
        client
    ) in clients.values():  # what the kernel leaves to us to cut counts as one frame at the interface
        client.host.ip_batch([f"link set {client.interface} gso_max_segs 1"])
    with pulsing(soak, 2):
        time.sleep(CALM)
    compare(before, quiet(clients), outcome)
    outcome.epochs = int(clients["alice"].peer("bob")["epoch"])
    for node in (soak.relay, *clients.values()):
        if re.search("internal error|Traceback", node.output()):
            outcome.violations.append(f"{node.name} said: {node.running_process.report()}")
        if node.stop() != 0:
            outcome.violations.append(f"{node.name} did not end well")


def main() -> int:
    """Parse the arguments, soak, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long (default {SECONDS:g})")
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"that churn (default {MEMBERS})")
    parser.add_argument("--load", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        folder, relay, relay_id, ids, count, host = arguments.load
        load(Path(folder), relay, relay_id, ids, int(count), host)
        return 0
    outcome = measured(lambda: run(arguments.seconds, arguments.members, talk=True))
    print(outcome)
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())

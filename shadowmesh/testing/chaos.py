"""Crashes at random: two relays and four clients, killed and started again under traffic of all pairs.

In each round a seeded generator picks one to three of the six processes, kills them (SIGKILL) and starts them
again after a while; some die once more while they start.  Then must hold: nothing of a dead process is left;
all pairs talk again within `LIMIT`; pairs that had no part in it saw no gap; nobody else has ended;
identities and state files are sound; memory is bounded; TCP brought the bytes that were sent.  Needs root.

    python -m shadowmesh.testing.chaos --seconds 1800 --seed 7
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import ClientNode, Mesh, Node, RelayNode, command_path
from shadowmesh.testing.process import LabError, LabTimeout, wait_until
from shadowmesh.testing.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = 1800
LIMIT = 30.0
"""Seconds from the last start of a round until all pairs talk: 5 are required and usual; the rest is for a
machine that does other things too, where six Pythons start."""
STANDERS_BY = 3.0
"""Seconds without an echo reply, at most, of pairs that had no part in a round."""
AGAIN = 0.25
"""Share of the starts that are interrupted by another SIGKILL."""
LONGEST_AWAY, LONGEST_START, LONGEST_REST = 2.0, 1.5, 2.0
GROWTH_MB = 30.0
"""MB that a process may have more than when it had settled for the first time."""
STATE = re.compile(r"identity\.pem|lock|tickets|clock|relay\.sock|(members|network|revocations)-\w+(\.pem)?")
"""What may be in a state directory when its process runs."""
BAD_WORDS = re.compile(r"^.*(?:internal error|Traceback|ignored|damaged|is no ).*$", re.MULTILINE)
"""What no log may say after a crash."""


@dataclass
class Outcome:
    """What a run has shown; it was good if `violations` is empty."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the last start of a round until all pairs talked."""
    widest_gap: float = 0.0
    """Seconds, of pairs that had no part in a round."""
    largest_mb: float = 0.0
    echoes: int = 0
    blocks: int = 0
    connections: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        found = "\n".join(f"VIOLATED: {line}" for line in self.violations) or "every invariant held"
        recovered = self.recoveries or [0.0]
        return (
            f"{self.rounds} rounds in {self.seconds:.0f} s, seed {self.seed}; "
            f"{self.kills.total()} SIGKILLs: {kills}\n"
            f"all pairs talk again: median {statistics.median(recovered):.1f} s after the last start, "
            f"at most {max(recovered):.1f} s\n"
            f"widest gap of pairs that had no part: {self.widest_gap:.2f} s; "
            f"largest process: {self.largest_mb:.0f} MB\n"
            f"{self.echoes} echo replies, {self.blocks} TCP blocks over {self.connections} connections\n"
            f"{found}"
        )


def founded(lab: Lab, clients: Sequence[str], relays: Sequence[str]) -> Mesh:
    """A network with an authority, whose members list nobody; nothing is started."""
    mesh = Mesh(lab)
    for name in relays:
        mesh.relay(name)
    public, secret, folder = lab.directory / "home.pem", lab.directory / "passphrase", lab.directory / "ca"
    secret.write_text("correct horse battery\n")
    secret.chmod(0o600)
    some = next(iter(mesh.relays.values()))

    def authority(*arguments: str) -> str:
        words = ["network", *arguments, "--state-dir", str(folder)]
        return some.host.run([command_path("shadowmesh-client"), *words]).stdout

    named = [
        word for relay in mesh.relays.values() for word in ("--relay", f"{relay.endpoint},{relay.node_id}")
    ]
    authority("create", "home", "--subnet", "10.77.0.0/16", *named, "--passphrase-file", str(secret))
    public.write_text(authority("export"))
    for relay in mesh.relays.values():
        relay.config = {
            "relay": {"name": relay.name, "state_dir": str(relay.state_dir), "listen": "[::]:4433"},
            "admission": {"networks": [str(public)]},
        }
    for name in clients:
        client, path = mesh.client(name), lab.directory / f"{name}.pem"
        signing = ("--name", name, "-o", str(path), "--passphrase-file", str(secret), "--json")
        made = json.loads(authority("sign", client.node_id, *signing))
        client.ipv4, client.peers = made["addresses"][0].partition("/")[0], []
        client.config = {
            "node": {"name": name, "state_dir": str(client.state_dir), "socket": str(client.socket_path)},
            "network": {"file": str(public), "certificate": str(path)},
            "paths": {"direct": "never"},
        }
    return mesh


def resident_mb(pid: int) -> float:
    """MB (10^6 bytes) of resident memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise LabError(f"process {pid} has no memory: it has ended")
    return int(found[1]) * 1024 / 1e6


class Chaos:
    """The rounds of one run over a mesh that runs."""

    def __init__(self, mesh: Mesh, pulse: Pulse, outcome: Outcome) -> None:
        self._nodes: list[RelayNode | ClientNode] = [*mesh.relays.values(), *mesh.clients.values()]
        self._pulse = pulse
        self._outcome = outcome
        self._random = random.Random(outcome.seed)
        self._identities = {node.name: _identity(node) for node in self._nodes}
        self._settled = {node.name: resident_mb(node.running_process.pid) for node in self._nodes}
        self._read = {node.name: len(node.output()) for node in self._nodes}

    def round(self) -> None:
        """Kill some, start them again, wait for everybody, look at everything."""
        count = self._random.choices((1, 2, 3), (6, 3, 1))[0]
        victims = self._random.sample(self._nodes, count)
        self._pulse.forget_gaps()
        for victim in victims:
            time.sleep(self._random.uniform(0.0, 0.5))
            self._kill(victim)
        for victim in victims:
            time.sleep(self._random.uniform(0.0, LONGEST_AWAY))
            victim.launch()
            if self._random.random() < AGAIN:
                time.sleep(self._random.uniform(0.0, LONGEST_START))
                self._kill(victim)
                victim.launch()
        self._await_all(time.monotonic())
        self._look_at_standers_by(victims)
        for node in self._nodes:
            self._inspect(node)
        self._outcome.rounds += 1
        time.sleep(self._random.uniform(0.0, LONGEST_REST))

    def _kill(self, victim: Node) -> None:
        victim.kill9()
        self._outcome.kills[victim.name] += 1
        left = [f"process {pid}" for pid in victim.host.pids()]
        if isinstance(victim, ClientNode):
            left += [name for name in victim.host.interfaces() if name == victim.interface]
            routes = victim.host.run(["ip", "route", "show"]).stdout
            left += [f"route {line}" for line in routes.splitlines() if "10.77." in line]
        if left:
            self._violated(f"{victim.name}, killed, left {', '.join(left)}")

    def _await_all(self, begin: float) -> None:
        try:
            wait_until(lambda: not self._pulse.silent(begin), LIMIT, "all pairs to talk")
        except LabTimeout:
            silent = ", ".join("-".join(pair) for pair in self._pulse.silent(begin))
            states = "\n".join(node.running_process.report() for node in self._nodes)
            self._violated(f"no traffic {LIMIT:g} s after the last start: {silent}\n{states}")
        self._outcome.recoveries.append(time.monotonic() - begin)

    def _look_at_standers_by(self, victims: Sequence[RelayNode | ClientNode]) -> None:
        """Pairs without a victim; where a relay was one, frames of all may have crossed it."""
        if any(isinstance(victim, RelayNode) for victim in victims):
            return
        dead = {victim.name for victim in victims}
        for pair in self._pulse.beats:
            gap = self._pulse.since(pair)
            if not dead & set(pair):
                self._outcome.widest_gap = max(self._outcome.widest_gap, gap)
                if gap > STANDERS_BY + self._pulse.late:
                    self._violated(f"{'-'.join(pair)} had no part, and was without a reply for {gap:.1f} s")

    def _inspect(self, node: RelayNode | ClientNode) -> None:
        """A node after a round: its process, its files, its log."""
        process = node.running_process
        if not process.running:
            self._violated(f"{node.name} has ended by itself\n{process.report()}")
            node.launch()
            return
        if node.host.pids() != [process.pid]:
            self._violated(f"{node.name} runs as {node.host.pids()}, started was {process.pid}")
        if _identity(node) != self._identities[node.name]:
            self._violated(f"{node.name} has another identity")
        strange = [path.name for path in node.state_dir.iterdir() if not STATE.fullmatch(path.name)]
        if strange:
            self._violated(f"{node.name} has {', '.join(strange)} in its state directory")
        used = resident_mb(process.pid)
        self._outcome.largest_mb = max(self._outcome.largest_mb, used)
        if used > self._settled[node.name] + GROWTH_MB:
            self._violated(f"{node.name} takes {used:.0f} MB, at first {self._settled[node.name]:.0f}")
        said = node.output()
        for line in BAD_WORDS.findall(said[self._read[node.name] :]):
            self._violated(f"{node.name} said: {line}")
        self._read[node.name] = len(said)

    def _violated(self, what: str) -> None:
        self._outcome.violations.append(f"round {self._outcome.rounds + 1}: {what}")
        print(f"VIOLATED: {self._outcome.violations[-1]}", file=sys.stderr, flush=True)


def _identity(node: Node) -> bytes:
    return (node.state_dir / "identity.pem").read_bytes()


@contextlib.contextmanager
def _started(mesh: Mesh) -> Iterator[None]:
    """Everybody up, and stopped in order afterwards."""
    for relay in mesh.relays.values():
        relay.start()
    for client in mesh.clients.values():
        client.launch()
    for client in mesh.clients.values():
        client.running_process.wait_for(client.answers, LIMIT, "the control API")
    yield
    for client in mesh.clients.values():
        if client.stop() != 0 or client.remains():
            raise LabError(f"{client.name} did not end well: {client.remains()}")
    for relay in mesh.relays.values():
        if relay.stop() != 0:
            raise LabError(f"{relay.name} did not end well\n{relay.running_process.report()}")


def run(seconds: float, seed: int, talk: bool = False) -> Outcome:
    """Rounds for `seconds`, the start included. Raises LabError if the lab fails, or leaves anything."""
    outcome, began = Outcome(seed), time.monotonic()
    with Lab() as lab:
        mesh = founded(lab, ("alice", "bob", "carol", "dave"), ("relay1", "relay2"))
        hosts = {name: (client.host, client.ipv4) for name, client in mesh.clients.items()}
        with _started(mesh), Pulse(hosts, seed) as pulse:
            wait_until(lambda: not pulse.silent(0.0), LIMIT, lambda: f"all pairs to talk\n{lab.reports()}")
            chaos = Chaos(mesh, pulse, outcome)
            while time.monotonic() - began < seconds:
                chaos.round()
                if talk and outcome.rounds % 20 == 0:
                    print(f"{outcome}\n", flush=True)
            totals = pulse.totals
        outcome.echoes, outcome.blocks, outcome.connections = (
            totals.replies,
            totals.blocks,
            totals.connections,
        )
        outcome.violations += [f"TCP of {'-'.join(pair)} brought other bytes" for pair in totals.altered]
    lab.check_leaks()
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> int:
    """Parse the arguments, run, print; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long (default {SECONDS})")
    parser.add_argument("--seed", type=int, default=1, help="of the generator that picks victims (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a summary")
    arguments = parser.parse_args()
    try:
        outcome = run(arguments.seconds, arguments.seed, talk=not arguments.json)
    except LabError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    document = {"schema": "shadowmesh.chaos/1", **asdict(outcome)}
    print(json.dumps(document, indent=2) if arguments.json else outcome)
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())

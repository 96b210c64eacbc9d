"""`python -m shadowmesh.testing.demo`: the overlay in five minutes of reading and one of running.

Starts a relay and two clients in network namespaces, shows what a user would see, and proves by a
capture of the underlay that nothing crosses it in clear.  Each step fails loudly; the exit code is 0
only if all of them passed and nothing was left behind.  Not a benchmark: see bench/.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from shadowmesh.testing.capture import Capture, search
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.mesh import OVERLAY_INTERFACE, ClientNode, Mesh, Node, command_path
from shadowmesh.testing.process import LabError
from shadowmesh.testing.traffic import MARKER_REPEATS, iperf, iperf_server, send_tcp, send_udp

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 100
IPERF_SECONDS = 4
TOOLS = ("ip", "ping", "tcpdump", "iperf3")
"""Debian packages: iproute2, iputils-ping, tcpdump, iperf3."""

CHUNK = 1 << 20
RELAY_LOG_LINES = 12


class DemoError(LabError):
    """A step of the demo did not show what it should."""


def say(text: str = "") -> None:
    """Print one or more lines, indented."""
    for line in text.splitlines() or [""]:
        print(f"   {line}".rstrip(), flush=True)


class Demo:
    """The steps in their order; each prints what it does and raises `LabError` if it fails."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.mesh = Mesh(lab)
        self.capture = Capture(lab)
        self.markers: dict[str, bytes] = {}
        self.began = time.monotonic()
        self.number = 0

    @property
    def alice(self) -> ClientNode:
        """The client that sends."""
        return self.mesh.clients["alice"]

    @property
    def bob(self) -> ClientNode:
        """The client that receives."""
        return self.mesh.clients["bob"]

    @property
    def nodes(self) -> list[Node]:
        """The relay and both clients."""
        return [*self.mesh.relays.values(), *self.mesh.clients.values()]

    def run(self) -> None:
        """All steps."""
        steps: list[tuple[str, Callable[[], None]]] = [
            ("Three machines: network namespaces on one switch", self.namespaces),
            ("Every node makes its identity", self.identities),
            ("A capture of the underlay begins, before the first packet", self.begin_capture),
            ("The relay and both clients start", self.start),
            ("What both clients say (shadowmesh-client status)", self.status),
            ("Ping through the overlay, IPv4 and IPv6", self.ping),
            ("Marked payloads cross the overlay", self.send_markers),
            ("What crossed the underlay", self.examine_capture),
            ("How fast it is (iperf3, TCP, one stream)", self.throughput),
            ("What the relay saw", self.relay_view),
            ("Everything stops and leaves nothing", self.stop),
        ]
        for title, step in steps:
            self.number += 1
            print(f"\n== {self.number}. {title} ".ljust(WIDTH, "="), flush=True)
            step()

    def namespaces(self) -> None:
        """Make the hosts and show that the underlay works."""
        for name in ("relay", "alice", "bob"):
            host = self.lab.host(name)
            say(f"{host.namespace:<16} underlay {host.ipv4}, {host.ipv6}")
        alice, bob = self.lab.host("alice"), self.lab.host("bob")
        alice.ping(bob.address)
        say(f"alice reaches bob's underlay address {bob.address}; there is no overlay yet.")

    def identities(self) -> None:
        """`init` on all three, and the configuration files."""
        self.mesh.relay()
        self.mesh.client("alice")
        self.mesh.client("bob")
        for node in self.nodes:
            say(f"$ {node.program} init --name {node.name}")
            say(f"  NodeID {node.node_id}")
        self.mesh.configure()
        self.alice.write_config()
        say("\nalice's configuration:")
        say(self.alice.config_path.read_text().replace(str(self.lab.directory), "DIR"))

    def begin_capture(self) -> None:
        """tcpdump on the switch."""
        self.capture.start()
        say("tcpdump records every packet that crosses the switch.")

    def start(self) -> None:
        """Start all three and wait for the session."""
        for relay in self.mesh.relays.values():
            say(f"relay$ shadowmesh-relay serve -c {relay.config_path.name}")
            relay.start()
        begin = time.monotonic()
        for client in self.mesh.clients.values():
            say(f"{client.name}$ shadowmesh-client up -c {client.config_path.name}")
            client.launch()
        self.alice.wait_peers("bob")
        self.bob.wait_peers("alice")
        say(
            f"\nSession between alice and bob through the relay: {time.monotonic() - begin:.2f} s "
            "after both were started (two Python starts included)."
        )

    def status(self) -> None:
        """The tables."""
        for client in self.mesh.clients.values():
            say(f"{client.name}$ shadowmesh-client status")
            say(client.verb("status").stdout)

    def ping(self) -> None:
        """ICMP both families, and the client's own ping that names the path."""
        for address in (self.bob.ipv4, self.bob.ipv6):
            self.alice.host.ping(address)
            say(f"alice$ ping -c 3 {address}")
            say(self.alice.host.run(["ping", "-n", "-c", "3", "-i", "0.2", address]).stdout)
        say("alice$ shadowmesh-client ping bob -c 3")
        say(self.alice.verb("ping", "bob", "-c", "3").stdout)

    def send_markers(self) -> None:
        """Random text by UDP and TCP, over IPv4 and IPv6; each must arrive unchanged."""
        for address in (self.bob.ipv4, self.bob.ipv6):
            for kind in ("UDP", "TCP"):
                marker = f"demo-{kind.lower()}-{secrets.token_hex(10)}".encode()
                if kind == "UDP":
                    send_udp(self.alice.host, self.bob.host, address, marker)
                else:
                    send_tcp(self.alice.host, self.bob.host, address, marker * MARKER_REPEATS)
                self.markers[f"payload {marker.decode()}"] = marker
                say(f"{kind} to {address:<10} {marker.decode()}  arrived")

    def examine_capture(self) -> None:
        """Search all packets and all decrypted Initials, with a control that must be found."""
        control = f"in-clear-{secrets.token_hex(10)}".encode()
        relay = self.lab.host("relay")
        send_udp(self.alice.host, relay, relay.address, control)
        patterns = {"control": control, **self.markers}
        for node in self.nodes:
            patterns[f"NodeID of {node.name}"] = base64.b32decode(node.node_id.upper() + "====")
            patterns[f"NodeID of {node.name} as text"] = node.node_id.encode()
        result = search([self.capture.stop()], patterns)
        relayed = [connection for connection in result.connections if connection.relayed]
        say(f"{result.packets} packets, {result.bytes} bytes.")
        say(f"QUIC handshakes seen: {len(result.connections)}, {len(relayed)} of them inside relay channels.")
        say(f"{result.initials} Initial packets decrypted (their keys are public) and searched as well.")
        found = {text.split(" in ")[0] for text in result.found}
        for label in patterns:
            say(f"{'FOUND' if label in found else 'not found':<10} {label}")
        if "control" not in found:
            raise DemoError("the search did not find what was sent in clear: the capture proves nothing")
        if found != {"control"}:
            raise DemoError("in clear on the underlay:\n" + "\n".join(result.found[:20]))
        if not relayed:
            raise DemoError("no handshake between the clients was seen inside the relay's channels")
        say("Only the control, sent beside the overlay on purpose, is in clear.")

    def throughput(self) -> None:
        """iperf3 over the overlay, and over the raw link for comparison."""
        for label, address in (("overlay", self.bob.ipv4), ("raw link", self.bob.host.address)):
            with iperf_server(self.bob.host, address):
                result = iperf(self.alice.host, address, IPERF_SECONDS)
            say(f"{label:<9} alice -> {address:<10} {result}")
        say("Both clients and the relay share this machine's cores; bench/throughput.py measures with care.")

    def relay_view(self) -> None:
        """Its log, its datagrams, and a search of its memory."""
        relay = self.mesh.relays["relay"]
        process = relay.running_process
        say("The relay's log:")
        say("\n".join(relay.output().splitlines()[-RELAY_LOG_LINES:]) or "(empty)")
        received, sent = udp_datagrams(process.pid)
        say(f"\nIts namespace received {received} UDP datagrams and sent {sent}.")
        control = str(relay.config_path).encode()
        found = search_memory(process.pid, {"control": control, **self.markers})
        if "control" not in found:
            raise DemoError("the search of the relay's memory does not even find its configuration's path")
        if found != {"control"}:
            raise DemoError(f"the relay's memory holds payload: {sorted(found)}")
        say(
            "Its memory was searched: it holds its own configuration's path (the control), and none of the "
            "payloads that it forwarded."
        )

    def stop(self) -> None:
        """`down` for the clients, SIGTERM for the relay; check that nothing is left."""
        for client in self.mesh.clients.values():
            say(f"{client.name}$ shadowmesh-client down")
            client.verb("down")
            client.running_process.wait(10.0)
            left = client.remains()
            if left:
                raise DemoError(f"{client.name} left {left}")
        code = self.mesh.relays["relay"].stop()
        if code:
            raise DemoError(f"the relay ended with exit code {code}")
        say(f"No {OVERLAY_INTERFACE}, no socket, no process is left.")


def udp_datagrams(pid: int) -> tuple[int, int]:
    """(received, sent) UDP datagrams, IPv4 and IPv6, of the network namespace of a process."""
    received = sent = 0
    # proc_net_snmp: a line of names and a line of values; snmp6 has one name and value per line.
    with open(f"/proc/{pid}/net/snmp") as stream:
        names, values = (line.split() for line in stream if line.startswith("Udp:"))
    counters = dict(zip(names, values, strict=True))
    with open(f"/proc/{pid}/net/snmp6") as stream:
        counters.update((line.split()[0], line.split()[1]) for line in stream)
    for name, value in counters.items():
        if name in ("InDatagrams", "Udp6InDatagrams"):
            received += int(value)
        elif name in ("OutDatagrams", "Udp6OutDatagrams"):
            sent += int(value)
    return received, sent


def search_memory(pid: int, patterns: dict[str, bytes]) -> set[str]:
    """Labels of the patterns that occur in the readable memory of a process."""
    found: set[str] = set()
    overlap = max(len(pattern) for pattern in patterns.values())
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            area, mode = line.split()[:2]
            if not mode.startswith("r") or "[v" in line:
                continue  # [vvar] and [vsyscall] can't be read this way
            position, end = (int(part, 16) for part in area.split("-"))
            carried = b""
            while position < end:
                try:
                    memory.seek(position)
                    data = memory.read(min(CHUNK, end - position))
                except OSError:
                    break
                if not data:
                    break
                text = carried + data
                found.update(label for label, pattern in patterns.items() if pattern in text)
                carried = text[-overlap:]
                position += len(data)
    return found


def _check_requirements() -> None:
    if os.geteuid() != 0:
        raise DemoError("it needs root, to make network namespaces and TAP devices.  Use: sudo make demo")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise DemoError(f"not installed: {', '.join(missing)} (Debian: iproute2 iputils-ping tcpdump iperf3)")
    for name in ("shadowmesh-client", "shadowmesh-relay"):
        command_path(name)


def _interrupted(_number: int, _frame: object) -> None:
    """SIGTERM becomes an ordinary exception, so that the lab cleans up."""
    raise KeyboardInterrupt


def _failure(demo: Demo, lab: Lab, error: BaseException) -> str:
    return f"\nThe processes then:\n{lab.reports()}\n\nDEMO FAILED in step {demo.number}: {_text(error)}"


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def main() -> int:
    """Run the demo; 0 if every step passed and nothing is left, 1 otherwise."""
    signal.signal(signal.SIGTERM, _interrupted)
    lab = Lab()
    demo = Demo(lab)
    try:
        _check_requirements()
        with lab:
            try:
                demo.run()
            except (LabError, OSError, KeyboardInterrupt) as error:
                print(_failure(demo, lab, error), file=sys.stderr, flush=True)
                return 1
        lab.check_leaks()
    except (LabError, KeyboardInterrupt) as error:
        print(f"DEMO FAILED: {_text(error)}", file=sys.stderr)
        return 1
    say(f"All namespaces are removed.  The demo took {time.monotonic() - demo.began:.0f} s.")
    print("\nDEMO PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main())

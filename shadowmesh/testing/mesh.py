"""A ShadowMesh overlay in a lab: identities, configuration files, daemons, their status.

Uses only what an operator has: the two commands (from the directory of the running interpreter), the
YAML files and the local control API.  Imports nothing of the product, so that a test through it tests
the product from outside.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from shadowmesh.testing.process import LabError, Process, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from shadowmesh.testing.lab import Host, Lab

RELAY_PORT = 4433
OVERLAY_INTERFACE = "smesh0"
READY_TIMEOUT = 20.0
"""Seconds for a start: a Python start and ML-DSA keys on a loaded machine, with a wide margin."""

API_TIMEOUT = 5.0


def command_path(name: str) -> str:
    """The installed entry point beside the running interpreter.  `LabError` if it isn't installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise LabError(f"{path} does not exist: install the project into this environment (make build)")
    return str(path)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=API_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(API_TIMEOUT)
        self.sock.connect(str(self._path))


class Node:
    """What a relay and a client have in common.

    `config` is the content of the YAML file, built by `Mesh.configure`; change it before `start`, which
    writes it.  Identity and state live in `state_dir`.
    """

    program = ""

    def __init__(self, mesh: Mesh, name: str, host: Host, directory: Path) -> None:
        self.mesh = mesh
        self.name = name
        self.host = host
        self.directory = directory
        self.state_dir = directory / "state"
        self.config_path = directory / "config.yaml"
        self.config: dict[str, Any] = {}
        self.process: Process | None = None
        directory.mkdir(exist_ok=True)
        self.node_id = self._init()

    def _init(self) -> str:
        arguments = ["init", "--name", self.name, "--state-dir", str(self.state_dir), "--json"]
        return str(json.loads(self.run(arguments).stdout)["node_id"])

    def run(
        self, arguments: Sequence[str], check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb of this node's command in its namespace, to its end."""
        return self.host.run([command_path(self.program), *arguments], check, timeout)

    def write_config(self) -> None:
        """Write `config` to `config_path`."""
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def _spawn(self, verb: str) -> Process:
        self.write_config()
        log = str(self.directory / "log")
        self.process = self.host.spawn([command_path(self.program), verb, "-c", str(self.config_path)], log)
        return self.process

    @property
    def running_process(self) -> Process:
        """The daemon that was started last.  `LabError` if none was."""
        if self.process is None:
            raise LabError(f"{self.name} was not started")
        return self.process

    def output(self) -> str:
        """Everything that all daemons of this node have printed so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self.running_process.terminate()

    def kill9(self) -> None:
        """SIGKILL, as a crash."""
        self.running_process.kill()


class RelayNode(Node):
    """A relay.  `admitted`: which clients its list names (None: all of the mesh)."""

    program = "shadowmesh-relay"
    admitted: list[str] | None = None
    open = False

    @property
    def endpoint(self) -> str:
        """Underlay address and port as a client's configuration names them."""
        address = self.host.address
        return f"[{address}]:{RELAY_PORT}" if ":" in address else f"{address}:{RELAY_PORT}"

    def launch(self) -> Process:
        """Start `serve` without waiting."""
        return self._spawn("serve")

    def start(self) -> Self:
        """Start `serve`; returns when its UDP port is open."""
        process = self.launch()
        what = f"UDP port {RELAY_PORT}"
        process.wait_for(lambda: _udp_port_open(process.pid, RELAY_PORT), READY_TIMEOUT, what)
        return self

    def restart(self) -> None:
        """Stop with a goodbye, then start again."""
        self.stop()
        self.start()


class ClientNode(Node):
    """A client.  `peers`: the names that its configuration lists (None: all of the mesh)."""

    program = "shadowmesh-client"

    def __init__(self, mesh: Mesh, name: str, host: Host, directory: Path, number: int) -> None:
        super().__init__(mesh, name, host, directory)
        self.ipv4 = f"10.77.0.{number}"
        self.ipv6 = f"fd77::{number:x}"
        self.socket_path = directory / "control.sock"
        self.peers: list[str] | None = None
        self.interface = OVERLAY_INTERFACE

    def launch(self) -> Process:
        """Start `up` without waiting."""
        return self._spawn("up")

    def start(self) -> Self:
        """Start `up`; returns when its control API answers."""
        self.launch().wait_for(self.answers, READY_TIMEOUT, "the control API")
        return self

    def restart(self) -> None:
        """Stop, then start again."""
        self.stop()
        self.start()

    def verb(
        self, *arguments: str, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `shadowmesh-client VERB … --socket PATH` against this client."""
        return self.run([*arguments, "--socket", str(self.socket_path)], check, timeout)

    def status(self) -> dict[str, Any]:
        """GET /v1/status of the control API: what `status --json` prints.  `LabError` if it can't be had."""
        connection = _UnixConnection(self.socket_path)
        try:
            connection.request("GET", "/v1/status")
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise LabError(f"{self.name}: status answers {response.status}: {body[:500]!r}")
            document: dict[str, Any] = json.loads(body)
            return document
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LabError(f"{self.name}: no status from {self.socket_path}: {error}") from None
        finally:
            connection.close()

    def answers(self) -> bool:
        """True if the control API answers."""
        try:
            self.status()
        except LabError:
            return False
        return True

    def peer(self, name: str) -> dict[str, Any]:
        """The entry of one peer in the status."""
        return next(peer for peer in self.status()["peers"] if peer["name"] == name)

    def relay_status(self) -> dict[str, Any]:
        """The entry of the first relay in the status."""
        entry: dict[str, Any] = self.status()["relays"][0]
        return entry

    def drops(self) -> int:
        """Sum of all drop counters."""
        return sum(self.status()["drops"].values())

    def wait_relay(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the first relay is connected."""

        def connected() -> bool:
            return self.answers() and self.relay_status()["state"] == "connected"

        self.running_process.wait_for(connected, timeout, f"the relay connection of {self.name}")

    def wait_peers(self, *names: str, timeout: float = READY_TIMEOUT) -> None:
        """Wait until there is a session with each named peer."""

        def connected() -> bool:
            return self.answers() and all(self.peer(name)["state"] == "connected" for name in names)

        self.running_process.wait_for(connected, timeout, f"sessions of {self.name} with {', '.join(names)}")

    def remains(self) -> list[str]:
        """What a client that has ended should have taken away but did not: device, socket, processes."""
        found = [f"interface {name}" for name in self.host.interfaces() if name == self.interface]
        if self.socket_path.exists():
            found.append(f"socket {self.socket_path}")
        return found + [f"process {pid}" for pid in self.host.pids()]


class Mesh:
    """Relays and clients on hosts of the same names; `Mesh` starts nothing before `start`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.relays: dict[str, RelayNode] = {}
        self.clients: dict[str, ClientNode] = {}

    def relay(self, name: str = "relay") -> RelayNode:
        """Add a relay: a host, a directory, an identity."""
        node = RelayNode(self, name, self.lab.host(name), self.lab.directory / name)
        self.relays[name] = node
        return node

    def client(self, name: str, peers: list[str] | None = None) -> ClientNode:
        """Add a client: a host, a directory, an identity, the next overlay address."""
        node = ClientNode(self, name, self.lab.host(name), self.lab.directory / name, len(self.clients) + 1)
        node.peers = peers
        self.clients[name] = node
        return node

    def configure(self) -> Self:
        """Build (not write) the configuration of every node that has none yet."""
        for relay in self.relays.values():
            relay.config = relay.config or self._relay_config(relay)
        for client in self.clients.values():
            client.config = client.config or self._client_config(client)
        return self

    def start(self) -> Self:
        """Configure and start everything; returns when every listed pair of clients has a session."""
        self.configure()
        for relay in self.relays.values():
            relay.start()
        for client in self.clients.values():
            client.launch()
        for client in self.clients.values():
            client.wait_peers(*self._peer_names(client))
        return self

    def _peer_names(self, client: ClientNode) -> list[str]:
        if client.peers is not None:
            return client.peers
        return [name for name in self.clients if name != client.name]

    def _relay_config(self, relay: RelayNode) -> dict[str, Any]:
        admitted = list(self.clients) if relay.admitted is None else relay.admitted
        return {
            "relay": {"name": relay.name, "state_dir": str(relay.state_dir), "listen": f"[::]:{RELAY_PORT}"},
            "admission": {"open": relay.open, "nodes": [self.clients[name].node_id for name in admitted]},
        }

    def _client_config(self, client: ClientNode) -> dict[str, Any]:
        peers = [self.clients[name] for name in self._peer_names(client)]
        state_dir, control = str(client.state_dir), str(client.socket_path)
        return {
            "node": {"name": client.name, "state_dir": state_dir, "socket": control},
            "listen": {"address": "::", "port": 0},
            "interface": {
                "name": client.interface,
                "addresses": [f"{client.ipv4}/24", f"{client.ipv6}/64"],
                "mtu": "auto",
            },
            "relays": [{"address": relay.endpoint, "id": relay.node_id} for relay in self.relays.values()],
            "peers": [
                {"name": peer.name, "id": peer.node_id, "addresses": [peer.ipv4, peer.ipv6]} for peer in peers
            ],
            "paths": {"direct": "never"},
        }


def _udp_port_open(pid: int, port: int) -> bool:
    """Whether the network namespace of a process has a UDP socket on `port`, by /proc/PID/net/udp{,6}."""
    for table in ("udp", "udp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        # proc_net_udp(5): second column is local address:port in hexadecimal.
        if any(int(line.split()[1].rpartition(":")[2], 16) == port for line in lines):
            return True
    return False


def wait_gone(client: ClientNode, timeout: float = 10.0) -> None:
    """Wait until an ended client has left nothing; `LabTimeout` names what is still there."""
    wait_until(
        lambda: not client.remains(),
        timeout,
        lambda: f"{client.name} left {client.remains()}\n{client.output()[-2000:]}",
    )

"""ShadowMesh through its relay, and directly between two static endpoints."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import shadowmesh
from bench.systems.base import INNER_MTU, System
from shadowmesh.config import load_client_config
from shadowmesh.errors import ConfigError
from shadowmesh.testing.mesh import READY_TIMEOUT, ClientNode, Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

DIRECT_PORT = 4400
LIBRARY_PACKAGE = "android-libboringssl"


def find_aead_library() -> Path | None:
    """The libcrypto of Debian's android-libboringssl, if it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/android/libcrypto.so.0"))), None)


class ShadowMeshRelayed(System):
    """Two clients and a relay, which counts as a helper: its CPU time is in the figures."""

    name = "shadowmesh-relayed"
    cipher = "ChaCha20-Poly1305"
    _paths = "never"

    def version(self) -> str:
        """Of this checkout."""
        return shadowmesh.__version__

    def available(self) -> str | None:
        """None, or the missing command."""
        path = Path(sys.executable).parent / "shadowmesh-client"
        return None if path.exists() else f"{path} not found (make setup)"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Configure and start everything; returns when each client has a session with the other."""
        mesh = Mesh(lab)
        relay = mesh.relay()
        clients = [mesh.client(near.name), mesh.client(far.name)]
        mesh.configure()
        for client in clients:
            client.config["interface"]["mtu"] = INNER_MTU
            self._set_paths(client, clients)
        self.helpers.append(relay.start().running_process)
        for client in clients:
            self.ends.append(client.launch())
            client.wait_relay(READY_TIMEOUT)
        for client, other in zip(clients, reversed(clients), strict=True):
            client.wait_peers(other.name)
            self._wait_path(client, other)
        return clients[1].ipv4

    def _set_paths(self, client: ClientNode, clients: list[ClientNode]) -> None:
        client.config["paths"] = {"direct": self._paths}

    def _wait_path(self, client: ClientNode, other: ClientNode) -> None:
        """The relayed path is there with the session."""


class ShadowMeshDirect(ShadowMeshRelayed):
    """The data plane alone: frames go straight to the peer's `endpoint`; the relay only introduces."""

    name = "shadowmesh"
    _paths = "static"

    def available(self) -> str | None:
        """None, or why this build can't: its configuration has no `peers[].endpoint` yet."""
        client = {
            "node": {"name": "probe"},
            "interface": {"addresses": ["10.77.0.1/24"]},
            "relays": [{"address": "10.99.0.9:4433", "id": "a" * 52}],
            "peers": [{"name": "peer", "id": "b" * 52, "addresses": [], "endpoint": "10.99.0.3:4400"}],
            "paths": {"direct": self._paths},
        }
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "client.yaml"
            path.write_text(yaml.safe_dump(client))
            try:
                load_client_config(path)
            except ConfigError as error:
                # The invented NodeIDs are refused too; only what is said of the new key counts.
                lines = [line for line in str(error).splitlines() if "endpoint" in line or "direct" in line]
                if lines:
                    return f"no static direct paths in this build: {lines[0].partition(': ')[2]}"
        return super().available()

    def _set_paths(self, client: ClientNode, clients: list[ClientNode]) -> None:
        super()._set_paths(client, clients)
        client.config["listen"] = {"address": "::", "port": DIRECT_PORT}
        addresses = {other.name: other.host.address for other in clients}
        for peer in client.config["peers"]:
            peer["endpoint"] = f"{addresses[peer['name']]}:{DIRECT_PORT}"

    def _wait_path(self, client: ClientNode, other: ClientNode) -> None:
        def direct() -> bool:
            path = client.peer(other.name)["path"]
            return path is not None and not path.startswith("relay ")

        wait_until(direct, READY_TIMEOUT, lambda: f"direct path of {client.name}: {client.peer(other.name)}")

"""ShadowMesh through its relay, and directly between two static endpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import shadowmesh
from bench.systems.base import INNER_MTU, System
from shadowmesh.testing.mesh import READY_TIMEOUT, ClientNode, Mesh
from shadowmesh.testing.process import LabError, wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

DIRECT_PORT = 4400
OPENSSL = "OpenSSL"
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
        # The third stays idle; with it each end has two peers.
        clients = [mesh.client(near.name), mesh.client(far.name), mesh.client("carol")]
        mesh.configure()
        for client in clients:
            client.config["interface"]["mtu"] = INNER_MTU
            self._set_paths(client, clients)
        self.helpers.append(relay.start().running_process)
        for client in clients:
            processes = self.helpers if client is clients[2] else self.ends
            processes.append(client.launch())
            client.wait_relay(READY_TIMEOUT)
            self._check(client)
        for client in clients:
            for other in clients:
                if other is not client:
                    client.wait_peers(other.name)
                    self._wait_path(client, other)
        return clients[1].ipv4

    def _set_paths(self, client: ClientNode, clients: list[ClientNode]) -> None:
        client.config["paths"] = {"direct": self._paths}

    def _check(self, client: ClientNode) -> None:
        """It runs as it should be measured, with OpenSSL's AEAD."""
        if (found := client.status()["node"]["aead"]) != OPENSSL:
            raise LabError(f"{client.name} seals by {found}, not by {OPENSSL}")

    def _wait_path(self, client: ClientNode, other: ClientNode) -> None:
        """The relayed path is there with the session."""


class ShadowMeshDirect(ShadowMeshRelayed):
    """The data plane alone: frames go straight to the peer's `endpoint`; the relay only introduces."""

    name = "shadowmesh"
    _paths = "static"

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


class ShadowMeshBoringssl(ShadowMeshDirect):
    """The same with `aead_library:`, a BoringSSL that Debian has in place of OpenSSL's AEAD."""

    name = "shadowmesh-boringssl"

    def version(self) -> str:
        """Of this checkout and of the library's package."""
        command = ["dpkg-query", "-W", "-f", "${Version}", LIBRARY_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"{super().version()} with {LIBRARY_PACKAGE} {done.stdout}"

    def available(self) -> str | None:
        """None, or that the library is missing."""
        if find_aead_library() is None:
            return f"no android/libcrypto.so.0 (Debian package {LIBRARY_PACKAGE})"
        return super().available()

    def _set_paths(self, client: ClientNode, clients: list[ClientNode]) -> None:
        super()._set_paths(client, clients)
        client.config["aead_library"] = str(find_aead_library())

    def _check(self, client: ClientNode) -> None:
        if (found := client.status()["node"]["aead"]) == OPENSSL:
            raise LabError(f"{client.name} seals by {found}, not by the library")

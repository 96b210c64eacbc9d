"""wireguard-go: the Go implementation of WireGuard, Debian's and a current one (with UDP GSO and TSO)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from bench.systems.base import (
    FAR_ADDRESS,
    NEAR_ADDRESS,
    PORT,
    System,
    address_interface,
    wait_interface,
    write_private,
)

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

SOCKETS = Path("/var/run/wireguard")
CURRENT_VARIABLE = "WIREGUARD_GO"
"""Names a newer program than Debian's, with UDP GSO and TSO, where there is one."""


class WireguardGo(System):
    """Debian's wireguard-go."""

    name = "wireguard-go-debian"
    layer = 3
    cipher = "ChaCha20-Poly1305"
    programs: tuple[str, ...] = ("wireguard-go", "wg")
    package = "wireguard-go, wireguard-tools"
    binary = "wireguard-go"

    def __init__(self) -> None:
        super().__init__()
        self._sockets: list[Path] = []

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Both ends, each with the other as its only peer."""
        hosts = (near, far)
        keys = {host.name: self._key(lab, host) for host in hosts}
        for host, other, address in ((near, far, NEAR_ADDRESS), (far, near, FAR_ADDRESS)):
            # The name is also that of a socket in /var/run/wireguard, which all namespaces share.
            interface = f"{lab.prefix.replace('-', '')}w{host.number}"
            environment = ["env", "LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1"]
            self._sockets.append(SOCKETS / f"{interface}.sock")
            self.spawn(host, [*environment, self.binary, "-f", interface])
            wait_interface(host, interface)
            private, _ = keys[host.name]
            peer = ["peer", keys[other.name][1], "allowed-ips", "10.88.0.0/24"]
            endpoint = ["endpoint", f"{other.address}:{PORT}"]
            host.run(
                ["wg", "set", interface, "listen-port", str(PORT), "private-key", private, *peer, *endpoint]
            )
            address_interface(host, interface, address)
        return FAR_ADDRESS

    def stop(self) -> None:
        """End both; one that had to be killed leaves its socket behind."""
        super().stop()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        self._sockets = []

    def _key(self, lab: Lab, host: Host) -> tuple[str, str]:
        """Path of the private key, and the public key."""
        private = host.run(["wg", "genkey"]).stdout
        path = write_private(self.directory(lab, host) / "key", private)
        return path, host.run(["sh", "-c", 'wg pubkey < "$0"', path]).stdout.strip()


class WireguardGoCurrent(WireguardGo):
    """A current wireguard-go: the program that $WIREGUARD_GO names."""

    name = "wireguard-go-current"
    programs = ("wg",)
    package = "wireguard-tools"

    def __init__(self) -> None:
        super().__init__()
        self.binary = os.environ.get(CURRENT_VARIABLE, "")

    def version(self) -> str:
        """What the program says of itself; empty if it doesn't run."""
        try:
            done = subprocess.run(
                [self.binary, "--version"], capture_output=True, text=True, check=False, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        first, _, _ = done.stdout.partition("\n")
        return first.removeprefix("wireguard-go ") if first.startswith("wireguard-go ") else ""

    def available(self) -> str | None:
        """None, or what is missing."""
        if not self.binary:
            return f"${CURRENT_VARIABLE} names no program"
        if not Path(self.binary).exists():
            return f"{self.binary} does not exist"
        if not self.version():
            return f"{self.binary} does not run, or is no wireguard-go"
        return super().available()

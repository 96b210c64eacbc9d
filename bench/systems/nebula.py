"""Nebula: a layer-3 mesh of certificates; the far end is the lighthouse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.systems.base import (
    FAR_ADDRESS,
    INNER_MTU,
    NEAR_ADDRESS,
    PORT,
    PREFIX,
    System,
    address_interface,
    write_private,
)

if TYPE_CHECKING:
    from pathlib import Path

    from shadowmesh.testing.lab import Host, Lab

INTERFACE = "nebula0"


class Nebula(System):
    """ChaCha20-Poly1305, so that it is compared with the same cipher (its default is AES-GCM)."""

    name = "nebula"
    layer = 3
    cipher = "ChaCha20-Poly1305"
    programs = ("nebula", "nebula-cert")
    package = "nebula"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """An authority and two certificates by nebula-cert, then both ends."""
        directory = lab.directory / self.name
        if not directory.exists():
            directory.mkdir()
            self._certificates(directory, near, far)
        for host in (far, near):
            # JSON is YAML: nothing has to be quoted by hand.
            configuration = json.dumps(self._configuration(directory, host, far))
            path = write_private(directory / f"{host.name}.yml", configuration)
            self.spawn(host, ["nebula", "-config", path])
            address_interface(host, INTERFACE, FAR_ADDRESS if host is far else NEAR_ADDRESS)
        return FAR_ADDRESS

    @staticmethod
    def _certificates(directory: Path, near: Host, far: Host) -> None:
        authority = ["-out-crt", str(directory / "ca.crt"), "-out-key", str(directory / "ca.key")]
        near.run(["nebula-cert", "ca", "-name", "bench", *authority])
        for host, address in ((near, NEAR_ADDRESS), (far, FAR_ADDRESS)):
            command = ["nebula-cert", "sign", "-name", host.name, "-ip", f"{address}/{PREFIX}"]
            command += ["-ca-crt", str(directory / "ca.crt"), "-ca-key", str(directory / "ca.key")]
            command += ["-out-crt", str(directory / f"{host.name}.crt")]
            near.run([*command, "-out-key", str(directory / f"{host.name}.key")])

    @staticmethod
    def _configuration(directory: Path, host: Host, far: Host) -> dict[str, object]:
        lighthouse = host is far
        anything = [{"port": "any", "proto": "any", "host": "any"}]
        return {
            "pki": {
                "ca": str(directory / "ca.crt"),
                "cert": str(directory / f"{host.name}.crt"),
                "key": str(directory / f"{host.name}.key"),
            },
            "static_host_map": {} if lighthouse else {FAR_ADDRESS: [f"{far.address}:{PORT}"]},
            "lighthouse": {"am_lighthouse": lighthouse, "hosts": [] if lighthouse else [FAR_ADDRESS]},
            "listen": {"host": "0.0.0.0", "port": PORT},
            "cipher": "chachapoly",
            "tun": {"dev": INTERFACE, "mtu": INNER_MTU},
            "logging": {"level": "warning"},
            "firewall": {"outbound": anything, "inbound": anything},
        }

"""fastd in TAP mode with its recommended authenticated method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.systems.base import (
    FAR_ADDRESS,
    INNER_MTU,
    NEAR_ADDRESS,
    PORT,
    System,
    address_interface,
    write_private,
)

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

INTERFACE = "fastd0"
METHOD = "salsa2012+umac"


class Fastd(System):
    """Both ends name the other's key and address."""

    name = "fastd"
    cipher = METHOD
    programs = ("fastd",)
    package = "fastd"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Generate keys, write both configurations, start both."""
        secrets = {
            host.name: host.run(["fastd", "--generate-key", "--machine-readable"]).stdout.strip()
            for host in (near, far)
        }
        paths = {}
        for host in (near, far):
            text = f'mode tap;\ninterface "{INTERFACE}";\nmtu {INNER_MTU};\nbind {host.address}:{PORT};\n'
            text += f'method "{METHOD}";\nsecret "{secrets[host.name]}";\nlog level warn;\n'
            paths[host.name] = write_private(self.directory(lab, host) / "fastd.conf", text)
        show = ["fastd", "--show-key", "--machine-readable", "-c"]
        publics = {host.name: host.run([*show, paths[host.name]]).stdout.strip() for host in (near, far)}
        for host, other, address in ((far, near, FAR_ADDRESS), (near, far, NEAR_ADDRESS)):
            peer = f'peer "{other.name}" {{ key "{publics[other.name]}"; remote {other.address}:{PORT}; }}\n'
            path = self.directory(lab, host) / "fastd.conf"
            write_private(path, path.read_text() + peer)
            self.spawn(host, ["fastd", "-c", str(path)])
            address_interface(host, INTERFACE, address)
        return FAR_ADDRESS

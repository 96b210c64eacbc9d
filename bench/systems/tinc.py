"""tinc 1.0 in switch mode, with the ciphers of its defaults."""

from __future__ import annotations

import re
import signal
import time
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
    from shadowmesh.testing.process import Process

INTERFACE = "tinc0"
PROBE_TIMEOUT = 45.0
"""Seconds: tinc sends three probes of random size a second, and gives up after thirty rounds."""


class Tinc(System):
    """Each end knows the other's host file; only `near` connects."""

    name = "tinc"
    cipher = "its defaults (AES-256-CBC, SHA-256)"
    programs = ("tincd",)
    package = "tinc"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Make RSA keys, exchange host files, start both."""
        for host, other in ((near, far), (far, near)):
            directory = self.directory(lab, host)
            lines = [f"Name = {host.name}", "Mode = switch", f"Interface = {INTERFACE}", "DeviceType = tap"]
            lines += [f"ConnectTo = {other.name}"] if host is near else []
            write_private(directory / "tinc.conf", "\n".join(lines) + "\n")
            hosts = directory / "hosts"
            hosts.mkdir(exist_ok=True)
            own = f"Address = {host.address} {PORT}\nPort = {PORT}\nPMTU = {INNER_MTU + 14}\n"
            (hosts / host.name).write_text(own)
            if not (directory / "rsa_key.priv").exists():
                host.run(["tincd", "-c", str(directory), "-K2048"])
        for host, other in ((near, far), (far, near)):
            public = (self.directory(lab, host) / "hosts" / host.name).read_text()
            (self.directory(lab, other) / "hosts" / host.name).write_text(public)
        for host, address in ((far, FAR_ADDRESS), (near, NEAR_ADDRESS)):
            directory = self.directory(lab, host)
            pid_file = f"--pidfile={directory / 'pid'}"
            self.spawn(host, ["tincd", "-c", str(directory), "-D", pid_file])
            address_interface(host, INTERFACE, address)
        near.ping(FAR_ADDRESS)
        for process in self.ends:
            process.wait_for(lambda process=process: _probed(process), PROBE_TIMEOUT, "the path MTU")  # type: ignore[misc]
        return FAR_ADDRESS


def _probed(process: Process) -> bool:
    """Whether tinc knows its path MTU; until then large frames go through its TCP connection."""
    process.send(signal.SIGUSR2)
    time.sleep(0.5)
    # A peer's line; the node itself is listed with "min 0".
    return re.search(r"pmtu (\d+) \(min \1 max \1\)", process.output()) is not None

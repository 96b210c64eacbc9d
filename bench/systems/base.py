"""What every system of the comparison offers: available, start, stop, processes, overlay address.

A system runs between the hosts `near` and `far` of a lab, in the foreground, as processes of the lab.
This module measures nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from shadowmesh.testing.process import LabError, Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shadowmesh.testing.lab import Host, Lab

INNER_MTU = 1400
"""Bytes that an overlay interface carries, the same for every system that can without fragments."""

START_GAP = 0.3
"""Seconds between the starts of two peers: fastd needs 20 s if both call at the same moment."""

NEAR_ADDRESS, FAR_ADDRESS, PREFIX = "10.88.0.1", "10.88.0.2", 24
READY_TIMEOUT = 30.0
PORT = 4789


class System(ABC):
    """One overlay.  `layer`: 2 or 3; `cipher`: what protects the traffic, in its own words.

    After `start`, `ends` holds the process of each end (near, far) and `helpers` what else carries or
    arranges the traffic (a relay, a supernode).
    """

    name = ""
    layer = 2
    cipher = ""
    programs: tuple[str, ...] = ()
    package = ""
    mtu = INNER_MTU

    def __init__(self) -> None:
        self.ends: list[Process] = []
        self.helpers: list[Process] = []

    def available(self) -> str | None:
        """None if it can be measured here, otherwise the reason why not, for the reader of the table."""
        missing = [program for program in self.programs if shutil.which(program) is None]
        hint = f" (Debian package {self.package})" if self.package else ""
        return f"{', '.join(missing)} not found{hint}" if missing else None

    def version(self) -> str:
        """The version of the Debian package; empty if there is none."""
        if not self.package or shutil.which("dpkg-query") is None:
            return ""
        command = ["dpkg-query", "-W", "-f", "${Version}", self.package.partition(",")[0]]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    @abstractmethod
    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Start both ends; returns the overlay address of `far`.  Raises `LabError`."""

    def stop(self) -> None:
        """End what `start` started, the last first."""
        for process in reversed([*self.helpers, *self.ends]):
            process.terminate()
        self.ends, self.helpers = [], []

    def pids(self) -> list[int]:
        """Process ids of everything that the system runs."""
        return [process.pid for process in (*self.ends, *self.helpers)]

    def reports(self) -> str:
        """State and end of the log of every process, for the text of a failure."""
        return "\n".join(process.report() for process in (*self.helpers, *self.ends))

    def spawn(self, host: Host, command: Sequence[str], helper: bool = False) -> Process:
        """Start one process in the host's namespace, note it, and wait `START_GAP` before the next."""
        process = host.spawn(command, f"{self.name}-{host.name}.log")
        (self.helpers if helper else self.ends).append(process)
        time.sleep(START_GAP)
        if not process.running:
            raise LabError(process.report())
        return process

    def directory(self, lab: Lab, host: Host) -> Path:
        """A directory of this system and host for keys and configuration."""
        path = lab.directory / f"{self.name}-{host.name}"
        path.mkdir(exist_ok=True)
        return path


def has_address(host: Host, interface: str) -> bool:
    """Whether the interface is there with an IPv4 address (nebula, n2n and openvpn set their own)."""
    link = host.link(interface) or {}
    return any(entry.get("family") == "inet" for entry in link.get("addr_info", []))


def wait_interface(host: Host, interface: str) -> None:
    """Wait until a daemon has made its interface."""
    wait_until(lambda: interface in host.interfaces(), READY_TIMEOUT, f"interface {interface} of {host.name}")


def address_interface(host: Host, interface: str, address: str, mtu: int = INNER_MTU) -> None:
    """Wait for the interface, give it its address and MTU, set it up."""
    wait_interface(host, interface)
    if not has_address(host, interface):
        host.run(["ip", "address", "add", f"{address}/{PREFIX}", "dev", interface])
    host.run(["ip", "link", "set", interface, "mtu", str(mtu), "up"])


def write_private(path: Path, text: str) -> str:
    """Write a key or configuration only readable by its owner; returns the path as text."""
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)

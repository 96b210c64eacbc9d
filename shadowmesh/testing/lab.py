"""A small network out of Linux namespaces: hosts on one Ethernet switch, all of it removed afterwards.

    host a --veth--+              +--veth-- host b
                   +-- br0 (switch) --+
    IPv4 10.99.0.N/24 and IPv6 fd99::N/64 on `under0` of every host; one MTU for all links.

Needs root and iproute2.  Namespaces carry a random prefix, so that several labs can exist side by
side.  Knows nothing of ShadowMesh's commands: those are in `mesh.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shadowmesh.testing.process import TERMINATE_TIMEOUT, LabError, LabTimeout, Process, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

T = TypeVar("T")

UNDERLAY_INTERFACE = "under0"
SWITCH_BRIDGE = "br0"
COMMAND_TIMEOUT = 30.0
CLONE_NEWNET = 0x40000000
"""setns(2): the file descriptor must name a network namespace."""

NETNS_DIRECTORY = Path("/run/netns")
NETNS_ETC = Path("/etc/netns")
"""`ip netns exec NAME` shows /etc/netns/NAME/hosts as /etc/hosts (ip-netns(8))."""


def _call(
    command: Sequence[str],
    check: bool,
    timeout: float,
    text_in: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `LabError` with its output on a time-out, or on failure if `check`."""
    try:
        done = subprocess.run(
            list(command),
            input=text_in,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL if text_in is None else None,
        )
    except subprocess.TimeoutExpired as error:
        raise LabTimeout(f"{' '.join(command)}: not finished after {timeout:g} s\n{error.stdout!r}") from None
    except OSError as error:
        raise LabError(f"{' '.join(command)}: {error}") from None
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def _environment() -> dict[str, str]:
    """Our environment, with this interpreter's directory first in PATH and unbuffered Python output."""
    commands = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "PYTHONUNBUFFERED": "1",
    }


class Host:
    """One namespace; `ipv4` and `ipv6` are its underlay addresses without prefix length, or None."""

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab = lab
        self.name = name
        self.number = number
        self.namespace = f"{lab.prefix}-{name}"
        self.ipv4: str | None = f"10.99.0.{number}" if lab.ipv4 else None
        self.ipv6: str | None = f"fd99::{number:x}" if lab.ipv6 else None
        self.processes: list[Process] = []

    @property
    def address(self) -> str:
        """The IPv4 underlay address where there is one, else the IPv6 one."""
        return self.ipv4 or self.ipv6 or "127.0.0.1"

    def _inside(self, command: Sequence[str]) -> list[str]:
        # `ip netns exec` replaces itself by the command: the process id is the command's.
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(
        self,
        command: Sequence[str],
        check: bool = True,
        timeout: float = COMMAND_TIMEOUT,
        text_in: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace to its end.  Raises `LabError` (also `LabTimeout`)."""
        return _call(self._inside(command), check, timeout, text_in, env=_environment())

    def spawn(self, command: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command in the namespace; its output is appended to file `log` of the lab's directory."""
        process = Process(self._inside(command), self.lab.directory / log, {**_environment(), **(env or {})})
        self.processes.append(process)
        return process

    def ip_batch(self, lines: Sequence[str]) -> None:
        """Run commands of ip(8), one a line, in the namespace."""
        _call(["ip", "-n", self.namespace, "-batch", "-"], True, COMMAND_TIMEOUT, "\n".join(lines) + "\n")

    def add_bridge(self, name: str) -> None:
        """An Ethernet switch in this namespace, as a bridge."""
        # Snooping would hold back multicast until a querier shows up; there is none.
        self.ip_batch(
            [
                f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {name} mtu {self.lab.mtu} addrgenmode none",
                f"link set {name} up",
            ]
        )

    def inside(self, action: Callable[[], T]) -> T:
        """Call `action` in a thread that has entered the namespace, and return its result."""
        result: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with (NETNS_DIRECTORY / self.namespace).open() as handle:
                    if libc.setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {self.namespace}")
                result.append(action())
            except BaseException as error:  # handed to the caller's thread below
                failure.append(error)

        thread = threading.Thread(target=enter, name=f"inside {self.namespace}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, usable from any thread: a socket keeps the namespace it was made in."""
        return self.inside(lambda: socket.socket(family, kind, protocol))

    def link(self, interface: str) -> dict[str, Any] | None:
        """What `ip -j -s addr` says about one interface, or None if there is no such interface."""
        done = _call(["ip", "-n", self.namespace, "-j", "-s", "-d", "addr", "show"], True, COMMAND_TIMEOUT)
        links: list[dict[str, Any]] = json.loads(done.stdout)
        return next((link for link in links if link.get("ifname") == interface), None)

    def interfaces(self) -> set[str]:
        """Names of all interfaces of the namespace."""
        done = _call(["ip", "-n", self.namespace, "-j", "link", "show"], True, COMMAND_TIMEOUT)
        return {link["ifname"] for link in json.loads(done.stdout)}

    def pids(self) -> list[int]:
        """Process ids that live in the namespace, whoever started them."""
        done = _call(["ip", "netns", "pids", self.namespace], True, COMMAND_TIMEOUT)
        return [int(word) for word in done.stdout.split()]

    def ping(self, address: str, timeout: float = 10.0) -> None:
        """Return when an echo reply has come from `address`; `LabTimeout` if none does in `timeout` s."""
        last = [""]

        def answered() -> bool:
            done = self.run(["ping", "-n", "-c", "1", "-W", "1", address], check=False)
            last[0] = done.stdout + done.stderr
            return done.returncode == 0

        wait_until(answered, timeout, lambda: f"{self.name}: no echo reply from {address}\n{last[0]}")

    def write_hosts(self, entries: Mapping[str, str]) -> None:
        """Set the namespace's own /etc/hosts to localhost and name -> address `entries`; no DNS answers.

        The first call must come before the process that reads it starts; later ones change the file in
        place, and are seen by running processes.
        """
        directory = NETNS_ETC / self.namespace
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in entries.items())]
        (directory / "hosts").write_text("\n".join(lines) + "\n")

    def close(self) -> list[str]:
        """End what was started here; returns a line for every other process found in the namespace."""
        for process in reversed(self.processes):
            process.terminate()
        return self.kill_strays()

    def kill_strays(self) -> list[str]:
        """SIGKILL every process in the namespace (a detached daemon); returns a line for each."""
        strays = self.pids()
        texts = [f"process {pid} left in {self.namespace}: {_command_line(pid)}" for pid in strays]
        for pid in strays:
            # Only descendants of what the lab started can be in a namespace that the lab made.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(LabTimeout):
            wait_until(lambda: not self.pids(), TERMINATE_TIMEOUT, "")
        return texts + [f"process {pid} can't be ended" for pid in self.pids()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"


FAMILY_VARIABLE = "SHADOWMESH_LAB"
"""Environment: three characters at the front of all names, so that who starts a program can tell its labs."""


class Lab:
    """Context manager that owns namespaces, processes and one temporary directory.

    `mtu` is that of every underlay link.  `leaks` is filled when the lab closes: processes that
    nobody ended and whatever could not be removed; `check_leaks` turns it into a failure.
    """

    def __init__(self, mtu: int = 1500, ipv4: bool = True, ipv6: bool = True) -> None:
        self.prefix = f"{os.environ.get(FAMILY_VARIABLE, 'smt')}-{secrets.token_hex(3)}"
        self.mtu = mtu
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.hosts: dict[str, Host] = {}
        self.leaks: list[str] = []
        self.directory = Path()
        self.switch = Host(self, "switch", 0)
        self._namespaces: list[str] = []
        self._open = False

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the namespace lab needs root")
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self._open = True
        try:
            self._add_namespace(self.switch.namespace)
            self.switch.ip_batch(["link set lo up"])
            self.switch.add_bridge(SWITCH_BRIDGE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add_namespace(self, name: str) -> None:
        # Noted first: an interrupt between the two lines must not leave the namespace behind.
        self._namespaces.append(name)
        _call(["ip", "netns", "add", name], True, COMMAND_TIMEOUT)

    def host(self, name: str, ipv4: bool = True, ipv6: bool = True) -> Host:
        """The host of that name, made and connected to the switch, with these families, at the first call."""
        if name in self.hosts:
            return self.hosts[name]
        host = self.new_host(name)
        self.plug(host, self.switch, SWITCH_BRIDGE)
        host.ipv4 = host.ipv4 if ipv4 else None
        host.ipv6 = host.ipv6 if ipv6 else None
        lines = [f"address add {host.ipv4}/24 dev {UNDERLAY_INTERFACE}"] * bool(host.ipv4)
        lines += [f"address add {host.ipv6}/64 dev {UNDERLAY_INTERFACE} nodad"] * bool(host.ipv6)
        host.ip_batch(lines)
        return host

    def new_host(self, name: str) -> Host:
        """A host with nothing but its loopback interface."""
        host = Host(self, name, len(self.hosts) + 1)
        self._add_namespace(host.namespace)
        self.hosts[name] = host
        host.ip_batch(["link set lo up"])
        return host

    def plug(self, host: Host, switch: Host, bridge: str) -> None:
        """Connect the underlay interface of `host` to a bridge of `switch`, without any address."""
        port = f"port{host.number}"
        peer = f"peer name {UNDERLAY_INTERFACE} mtu {self.mtu} netns {host.namespace}"
        switch.ip_batch(
            [
                f"link add {port} mtu {self.mtu} type veth {peer}",
                f"link set {port} addrgenmode none master {bridge} up",
            ]
        )
        host.ip_batch([f"link set {UNDERLAY_INTERFACE} up"])

    def segment(self, on: bool) -> None:
        """With `on`, every underlay link carries one datagram per packet; otherwise UDP GSO passes whole.

        A capture sees a GSO super-datagram as one, and can't know where its datagrams begin.
        """
        segments = 1 if on else 65535
        for host in self.hosts.values():
            host.ip_batch([f"link set {UNDERLAY_INTERFACE} gso_max_segs {segments}"])

    def reports(self) -> str:
        """State and log tail of every process that the lab has started."""
        hosts = [*self.hosts.values(), self.switch]
        return "\n".join(process.report() for host in hosts for process in host.processes)

    def close(self) -> None:
        """Remove everything; every step runs whatever happened to the ones before.  Safe to call twice."""
        if not self._open:
            return
        self._open = False
        with _Uninterrupted():
            for host in [*self.hosts.values(), self.switch]:
                if (NETNS_DIRECTORY / host.namespace).exists():
                    self._attempt(lambda host=host: self.leaks.extend(host.close()))  # type: ignore[misc]
            for name in self._namespaces:
                self._attempt(lambda name=name: self._remove_namespace(name))  # type: ignore[misc]
            if os.environ.get("SHADOWMESH_LAB_KEEP"):
                print(f"lab directory kept: {self.directory}", file=sys.stderr)
            else:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (LabError, OSError) as error:
            self.leaks.append(f"clean-up: {error}")

    @staticmethod
    def _remove_namespace(name: str) -> None:
        shutil.rmtree(NETNS_ETC / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            NETNS_ETC.rmdir()  # only when empty
        if (NETNS_DIRECTORY / name).exists():
            _call(["ip", "netns", "delete", name], True, COMMAND_TIMEOUT)

    def check_leaks(self) -> None:
        """Raise `LabError` if the closed lab left a namespace, a process or its directory, or found any."""
        left = [f"namespace {path.name}" for path in NETNS_DIRECTORY.glob(f"{self.prefix}-*")]
        if self.directory.exists() and self.directory != Path() and not os.environ.get("SHADOWMESH_LAB_KEEP"):
            left.append(f"directory {self.directory}")
        if self.leaks or left:
            raise LabError("left behind by the lab:\n" + "\n".join([*self.leaks, *left]))


class _Uninterrupted(contextlib.AbstractContextManager[None]):
    """Holds SIGINT and SIGTERM back while the lab cleans up; a second Ctrl-C must not leave namespaces."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

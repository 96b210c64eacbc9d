"""Relay and client under the settings of their units: user, capabilities, system calls, what is writable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from tests.e2e.sandbox import DYNAMIC_USER

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh, Node

ROOT = Path(__file__).parents[2]
MODULES = {"shadowmesh-relay": "shadowmesh_relay.cli", "shadowmesh-client": "shadowmesh.cli.main"}
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('platlib')}"}
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed"),
]


def python_of_others() -> str | None:
    """An interpreter that another user may run, and that finds our packages: ours may be in root's home."""
    user = [
        "setpriv",
        "--reuid",
        str(DYNAMIC_USER),
        "--clear-groups",
        "--bounding-set",
        "-all",
        "--no-new-privs",
    ]
    for python in (sys.executable, "/usr/bin/python3"):
        # Through a shell: setpriv itself still has what it gives up when it runs the next program.
        shell = ["sh", "-c", 'exec "$0" -c "import shadowmesh_relay.server"', python]
        command = [*user, "--", *shell]
        done = subprocess.run(command, check=False, capture_output=True, env=ENVIRONMENT, cwd="/")
        if done.returncode == 0:
            return python
    return None


def launch(node: Node, verb: str, python: str = sys.executable, *drop_ins: str) -> None:
    """As the unit does, with what systemd would make writable: state directory and run-time directory."""
    node.write_config()
    text = "\n".join((ROOT / "configs" / name).read_text() for name in (f"{node.program}.service", *drop_ins))
    unit = node.directory / f"{node.program}.service"
    unit.write_text(f"{text}\nReadWritePaths={node.directory}\n")
    sandbox = [python, str(ROOT / "tests/e2e/sandbox.py"), "mounts", str(unit), "--"]
    command = [python, "-m", MODULES[node.program], verb, "-c", str(node.config_path)]
    log = str(node.directory / "log")
    alone = ["unshare", "--mount", "--propagation", "private"]
    node.process = node.host.spawn([*alone, *sandbox, *command], log, ENVIRONMENT)


def status_of(node: Node, key: str) -> str:
    lines = Path(f"/proc/{node.running_process.pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(f"{key}:"))


def sockets_of(node: Node) -> str:
    return node.host.run(["cat", "/proc/net/udp"]).stdout


def test_a_relay_serves_and_drains_as_its_unit_has_it(mesh: Mesh) -> None:
    relay, alice, bob = mesh.relay(), mesh.client("alice"), mesh.client("bob")
    python = python_of_others()
    if python is None:
        pytest.skip("the virtual environment is where no other user may read it")
    mesh.configure()
    relay.config["relay"]["second_port"] = 443
    for folder in (mesh.lab.directory, relay.directory):
        folder.chmod(0o755)
    subprocess.run(["chown", "-R", f"{DYNAMIC_USER}:{DYNAMIC_USER}", relay.state_dir], check=True)
    launch(relay, "serve", python, "ports.conf")
    wait_until(lambda: "serves on UDP" in relay.output(), 40.0, relay.output)
    for client in (alice, bob):
        client.start()
    alice.host.ping(bob.ipv4)
    assert status_of(relay, "Uid").split() == [str(DYNAMIC_USER)] * 4
    assert status_of(relay, "CapEff") == f"{(1 << 12) + (1 << 10):016x}", "NET_ADMIN and NET_BIND_SERVICE"
    assert status_of(relay, "Seccomp") == "2"
    relay.run(["drain", "--socket", str(relay.state_dir / "relay.sock"), "--timeout", "3"], timeout=30.0)
    assert relay.running_process.wait(40.0) == 0


def test_a_client_runs_as_its_unit_has_it(mesh: Mesh) -> None:
    relay, alice, bob = mesh.relay(), mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    for node in (relay, bob):
        node.start()
    launch(alice, "up")
    wait_until(alice.answers, 40.0, alice.output)
    alice.host.ping(bob.ipv4)
    alice.host.ping(bob.ipv6)
    assert status_of(alice, "CapEff") == f"{1 << 12:016x}", "NET_ADMIN"
    assert status_of(alice, "Seccomp") == "2"
    assert re.search(r" 01004D0A:041D ", sockets_of(alice)), "names are resolved at port 1053 of 10.77.0.1"
    assert alice.verb("down").returncode == 0
    assert not alice.remains()
    assert os.path.exists(alice.state_dir / "lock")


def test_a_client_with_the_drop_in_for_names(mesh: Mesh) -> None:
    _, alice = mesh.relay(), mesh.client("alice")
    mesh.configure()
    alice.config["names"] = {"host": "resolv.conf"}
    alice.host.write_hosts({})
    file = Path("/etc/netns") / alice.host.namespace / "resolv.conf"
    file.write_text("nameserver 192.0.2.53\n")
    launch(alice, "up", sys.executable, "names.conf")
    wait_until(lambda: "127.0.77.53" in file.read_text(), 40.0, alice.output)
    assert status_of(alice, "CapEff") == f"{(1 << 12) + (1 << 10):016x}", "NET_ADMIN and NET_BIND_SERVICE"
    assert re.search(r" 01004D0A:0035 ", sockets_of(alice)), "names are resolved at port 53 of 10.77.0.1"
    assert alice.verb("down").returncode == 0
    assert not alice.remains()
    assert file.read_text() == "nameserver 192.0.2.53\n"

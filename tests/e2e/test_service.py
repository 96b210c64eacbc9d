"""The Debian package under a systemd of its own: process 1 of a container. `make deb-test` builds it first.

What the units say is kept by systemd itself here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.process import wait_until
from shadowmesh.testing.web import write_certificate
from tests.e2e.chroot import CLIENT, PACKAGE, RELAY, Chroot, give_up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PACKAGE, reason="make deb-test runs it, with the package that it builds"),
]
OTHER = "shadowmesh-client@home"
HOWTO = Path(__file__).parents[2] / "docs/howto/relay-in-the-cloud.md"
BOOT = """
umount "$1/proc"
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$0"
echo $$ > "/sys/fs/cgroup/$0/cgroup.procs"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --bind=/dev/net/tun \\
  --resolv-conf=off --timezone=off --link-journal=no --console=pipe --system-call-filter=bpf \\
  --machine="$0" --directory="$1" --boot
"""
"""In a mount namespace, which has /run and a view of the control groups of its own.

A BPF program keeps the units' rules about devices; where systemd may load none, it leaves them out.
"""
OPENED = """
opened() {
  for file in /dev/null /dev/net/tun /srv/kmsg; do (exec 3<"$file") 2>/dev/null && echo "$file"; done
}
test -e /srv/kmsg || mknod /srv/kmsg c 1 11
opened
echo $$ > "/sys/fs/cgroup$0/cgroup.procs"
echo; opened; true
"""
"""What root can open, first outside of a control group, then in it."""
CLEAR = 'mount -t cgroup2 none /sys/fs/cgroup; find "/sys/fs/cgroup/$0" -depth -type d -exec rmdir {} +'


class Machine:
    """A running container of a chroot."""

    def __init__(self, chroot: Chroot, process: subprocess.Popen[bytes]) -> None:
        self.chroot, self.process = chroot, process

    def try_run(self, *command: str) -> tuple[int, str]:
        """Exit code and what it prints, errors as well."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            return -1, "there is no process 1 yet"
        inside = [
            "nsenter",
            "--all",
            "--target",
            children[0],
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        done = subprocess.run(
            [*inside, *command],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def run(self, *command: str) -> str:
        """What it prints; fails with the journal."""
        code, text = self.try_run(*command)
        if code:
            journal = self.try_run("journalctl", "--no-pager", "--lines=60", "--output=short-precise")[1]
            pytest.fail(f"{' '.join(command)}: {code}: {text}\n{journal}")
        return text

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def lines(self, unit: str, *options: str) -> list[dict[str, Any]]:
        """What the journal has of a unit."""
        text = self.run("journalctl", "--no-pager", "--output=json", "--unit", unit, *options)
        return [json.loads(line) for line in text.splitlines()]

    def meets(self) -> bool:
        """Whether alice reaches bob."""
        return self.try_run(CLIENT, "ping", "bob", "-c", "1")[0] == 0


def give_configurations(chroot: Chroot) -> None:
    """A relay, alice, and bob, who is the second client of this machine."""
    nodes = {
        "relay": chroot.json(RELAY, "init", "--name", "relay")["node_id"],
        "alice": chroot.json(CLIENT, "init", "--name", "alice")["node_id"],
        "bob": chroot.json(CLIENT, "init", "--name", "bob", "--state-dir", "/var/lib/shadowmesh-home")[
            "node_id"
        ],
    }
    relays = [{"address": "127.0.0.1:4433", "id": nodes["relay"]}]
    admission = {"nodes": [nodes["alice"], nodes["bob"]]}
    relay = {"name": "relay", "listen": "127.0.0.1:4433"}
    files = {"certificate": "/etc/shadowmesh/relay.crt", "key": "/etc/shadowmesh/relay.key"}
    tcp = {"listen": "127.0.0.1:443", **files}
    chroot.write_config("relay.yaml", {"relay": relay, "admission": admission, "websocket": tcp})
    chroot.write_config(
        "client.yaml",
        {
            "node": {"name": "alice"},
            "interface": {"addresses": ["10.77.0.1/24"]},
            "relays": relays,
            "peers": [{"name": "bob", "id": nodes["bob"], "addresses": ["10.77.0.2"]}],
        },
    )
    folders = {"state_dir": "/var/lib/shadowmesh-home", "socket": "/run/shadowmesh-home/shadowmesh.sock"}
    chroot.write_config(
        "home.yaml",
        {
            "node": {"name": "bob", **folders},
            "interface": {"name": "smesh-home", "addresses": ["10.77.0.2/24"]},
            "relays": relays,
            "peers": [{"name": "alice", "id": nodes["alice"], "addresses": ["10.77.0.1"]}],
        },
    )


def let_in_who_has_no_udp(chroot: Chroot) -> None:
    """By the commands of the manual, with a certificate where certbot puts it."""
    live = chroot.path / "etc/letsencrypt/live/relay.example.net"
    live.mkdir(parents=True)
    for made, name in zip(write_certificate(live, "relay"), ("fullchain.pem", "privkey.pem"), strict=True):
        made.rename(live / name)
    (commands,) = re.findall(r"^```sh\n(groupadd.*?)^```", HOWTO.read_text(), re.MULTILINE | re.DOTALL)
    chroot.run("sh", "-ec", commands)


@pytest.fixture(scope="module")
def machine(clean: Chroot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Booted, with the package, relay and clients configured, and nothing started."""
    if shutil.which("systemd-nspawn") is None:
        give_up("systemd-container is not installed")
    clean.install("systemd")
    give_configurations(clean)
    let_in_who_has_no_udp(clean)
    name = f"shadowmesh-test-{os.getpid()}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", BOOT, name, str(clean.path)]
    log = tmp_path_factory.mktemp("machine") / "console"
    with log.open("wb") as console:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    booted = Machine(clean, process)

    def running() -> bool:
        if process.poll() is not None:
            give_up(f"no container can be booted here: {log.read_text()[-500:]}")
        return booted.try_run("systemctl", "is-system-running")[1].strip() in ("running", "degraded")

    try:
        wait_until(running, 60.0, log.read_text)
        yield booted
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20.0)
        process.kill()
        process.wait()
        clear = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CLEAR, name]
        subprocess.run(clear, check=False, capture_output=True)


def test_units_start_and_are_ready(machine: Machine) -> None:
    machine.run("systemctl", "enable", "--now", RELAY, CLIENT, OTHER)
    machine.run("systemctl", "start", "shadowmesh-online.target")
    assert machine.run("systemctl", "is-active", RELAY, CLIENT, OTHER, "shadowmesh-online.target")
    wait_until(machine.meets, 40.0, lambda: machine.run(CLIENT, "status"))
    assert machine.shown(CLIENT, "StatusText") == "peer bob: connected"
    (up,) = (line for line in machine.lines(CLIENT) if "is up on smesh0" in line["MESSAGE"])
    assert (up["PRIORITY"], up["SYSLOG_IDENTIFIER"]) == ("6", CLIENT)
    state = machine.run(
        "stat", "--format=%u %a", "/var/lib/shadowmesh-relay/", "/var/lib/shadowmesh-relay/identity.pem"
    )
    assert state.split()[1::2] == ["700", "600"]
    assert set(state.split()[::2]) == {machine.shown(RELAY, "UID")} != {"0"}, (
        "what root has made is the user's now"
    )
    (serves,) = (line["MESSAGE"] for line in machine.lines(RELAY) if "serves on" in line["MESSAGE"])
    assert "and TCP 127.0.0.1:443," in serves, "by a key that not everybody can read, at a port of root"
    told = [line for line in machine.lines(CLIENT, "--priority=warning") if line["_PID"] != "1"]
    assert told == []


@pytest.mark.parametrize(
    ("unit", "devices"),
    [(RELAY, ["/dev/null"]), *((unit, ["/dev/null", "/dev/net/tun"]) for unit in (CLIENT, OTHER))],
)
def test_no_device_but_those_of_its_unit_can_be_opened(
    machine: Machine, unit: str, devices: list[str]
) -> None:
    outside, inside = machine.run("sh", "-c", OPENED, machine.shown(unit, "ControlGroup")).split("\n\n")
    assert outside.split() == ["/dev/null", "/dev/net/tun", "/srv/kmsg"]
    assert inside.split() == devices


def test_a_client_that_hangs_is_started_again(machine: Machine) -> None:
    drop_in = machine.chroot.path / "etc/systemd/system/shadowmesh-client.service.d/test.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nWatchdogSec=2\nRestartSec=0\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", CLIENT)
    hung = machine.shown(CLIENT, "MainPID")
    machine.run("sh", "-c", f"kill -STOP {hung}")
    wait_until(
        lambda: int(machine.shown(CLIENT, "NRestarts")) > 0, 40.0, lambda: machine.run(CLIENT, "status")
    )
    wait_until(machine.meets, 40.0, lambda: str(machine.lines(CLIENT)[-20:]))
    assert machine.shown(CLIENT, "MainPID") != hung
    told = "\n".join(str(line["MESSAGE"]) for line in machine.lines(CLIENT))
    assert "Watchdog timeout" in told
    assert "lifecycle.py" in told, "where it hung"
    shutil.rmtree(drop_in.parent)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", CLIENT)


def test_a_refused_configuration_ends_it_and_the_journal_says_why(machine: Machine) -> None:
    file = machine.chroot.path / "etc/shadowmesh/client.yaml"
    good = file.read_text()
    file.write_text(good.replace("peers:", "peerz:"))
    try:
        assert machine.try_run("systemctl", "reload", CLIENT)[0] != 0
        assert machine.run("systemctl", "is-active", CLIENT), "it goes on with what it has"
        assert machine.try_run("systemctl", "restart", CLIENT)[0] != 0
    finally:
        file.write_text(good)
    assert (machine.shown(CLIENT, "ActiveState"), machine.shown(CLIENT, "ExecMainStatus")) == ("failed", "3")
    errors = [str(line["MESSAGE"]) for line in machine.lines(CLIENT, "--priority=err")]
    assert any("unknown key; did you mean peers?" in line for line in errors), errors
    machine.run("systemctl", "start", CLIENT)
    machine.run("systemctl", "reload", CLIENT, RELAY)


def test_a_new_version_takes_over(machine: Machine) -> None:
    units = (RELAY, CLIENT, OTHER)
    before = [machine.shown(unit, "MainPID") for unit in units]
    machine.run("dpkg", "--install", "/opt/package.deb")
    after = [machine.shown(unit, "MainPID") for unit in units]
    assert "0" not in after
    assert not set(before) & set(after)
    wait_until(machine.meets, 40.0, lambda: machine.run(CLIENT, "status"))


def test_stopped_it_leaves_nothing(machine: Machine) -> None:
    machine.run("systemctl", "stop", CLIENT, RELAY)
    for unit in (CLIENT, RELAY):
        assert (machine.shown(unit, "Result"), machine.shown(unit, "ExecMainStatus")) == ("success", "0")
    assert "smesh0" not in machine.run("cat", "/proc/net/dev")
    assert machine.shown("shadowmesh-online.target", "ActiveState") == "inactive"
    assert machine.run("sh", "-c", "ls -d /run/shadowmesh*").split() == ["/run/shadowmesh-home"]


def test_purged_it_leaves_no_unit_and_no_key(machine: Machine) -> None:
    assert machine.run("systemctl", "is-active", OTHER)
    kept = machine.chroot.path / "var/lib/shadowmesh-home/authority.pem"
    kept.touch()
    shutil.rmtree(machine.chroot.path / "etc/systemd/system/shadowmesh-relay.service.d")  # of ours is none
    told = machine.run("dpkg", "--purge", "shadowmesh")
    assert "/var/lib/shadowmesh-home holds the key of a network and was left" in told
    assert "smesh-home" not in machine.run("cat", "/proc/net/dev")
    shutil.rmtree(kept.parent)
    assert machine.chroot.ours() == []

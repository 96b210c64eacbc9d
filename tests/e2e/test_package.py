"""The Debian package in a clean chroot: installed, run, removed, purged. `make deb-test` builds it first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab

ROOT = Path(__file__).parents[2]
PACKAGE = os.environ.get("SHADOWMESH_DEB", "")
BASE = ROOT / "build" / "chroot.tar"
"""What debootstrap made, for the next run."""
RELAY, CLIENT = "shadowmesh-relay", "shadowmesh-client"
pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PACKAGE, reason="make deb-test runs it, with the package that it builds"),
]


class Chroot:
    """A Debian of its own in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inside(self, *command: str) -> list[str]:
        return ["chroot", str(self.path), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]

    def run(self, *command: str) -> str:
        """What it prints, errors as well. Fails with that."""
        done = subprocess.run(
            self.inside("DEBIAN_FRONTEND=noninteractive", *command),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd="/",
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}"
        return done.stdout

    def json(self, *command: str) -> Any:
        return json.loads(self.run(*command, "--json"))

    def ours(self) -> list[str]:
        """Every file and folder with the package's name in it, but for what apt keeps of packages."""
        found = []
        for folder, folders, files in os.walk(self.path):
            kept = Path(folder).relative_to(self.path)
            if kept.parts[:1] in (("proc",), ("tmp",)) or str(kept).startswith(("var/cache/apt", "var/log")):
                folders.clear()
                continue
            found += [str(kept / name) for name in (*folders, *files) if "shadowmesh" in name]
        return sorted(found)

    def write_config(self, name: str, content: dict[str, Any]) -> None:
        (self.path / "etc/shadowmesh" / name).write_text(yaml.safe_dump(content))


def debootstrap() -> None:
    """Make BASE. Where the archive can't be reached, the test is skipped, but never in CI."""
    BASE.parent.mkdir(exist_ok=True)
    suite = next(
        line.partition("=")[2]
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    with tempfile.TemporaryDirectory() as made:
        command = ["debootstrap", "--variant=minbase", suite, made]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            why = f"no chroot: {done.stdout[-500:]}{done.stderr[-500:]}"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
        # Under another name until it is whole.
        half = BASE.with_suffix(".half")
        subprocess.run(["tar", "-C", made, "-cf", str(half), "."], check=True)
        half.rename(BASE)


@pytest.fixture(scope="module")
def clean() -> Iterator[Chroot]:
    """A chroot with /proc and the device for interfaces."""
    if not BASE.exists():
        debootstrap()
    path = Path(tempfile.mkdtemp(prefix="chroot-"))
    try:
        subprocess.run(["tar", "-C", str(path), "-xf", str(BASE)], check=True)
        shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
        (path / "dev/net").mkdir(exist_ok=True)
        os.mknod(path / "dev/net/tun", 0o20600, os.makedev(10, 200))
        subprocess.run(["mount", "-t", "proc", "proc", str(path / "proc")], check=True)
        try:
            yield Chroot(path)
        finally:
            subprocess.run(["umount", str(path / "proc")], check=True)
    finally:
        shutil.rmtree(path)


def install(chroot: Chroot) -> None:
    shutil.copy(PACKAGE, chroot.path / "tmp/shadowmesh.deb")
    chroot.run("apt-get", "update", "-qq")
    chroot.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/tmp/shadowmesh.deb")


def test_the_package_from_installation_to_purge(clean: Chroot, lab: Lab) -> None:
    assert clean.ours() == []
    install(clean)
    version = Path(PACKAGE).name.split("_")[1]
    for program in (CLIENT, RELAY):
        assert clean.run(program, "version").startswith(f"{program} {version}")
    assert not [name for name in clean.ours() if name.startswith(("etc/systemd", "var/lib/shadowmesh"))]
    runs(clean, lab)
    assert clean.run("dpkg", "--verify", "shadowmesh") == "", "nothing writes into the package's folders"
    (clean.path / "var/lib/shadowmesh-authority").mkdir()
    clean.run("apt-get", "remove", "-y", "-qq", "shadowmesh")
    assert not (clean.path / "usr/lib/shadowmesh").exists()
    assert (clean.path / "var/lib/shadowmesh/identity.pem").exists(), "keys go with a purge only"
    told = clean.run("apt-get", "purge", "-y", "-qq", "shadowmesh")
    assert "shadowmesh-authority holds the key of a network and was left" in told
    (clean.path / "var/lib/shadowmesh-authority").rmdir()
    assert clean.ours() == []


def runs(chroot: Chroot, lab: Lab) -> None:
    """A relay and alice from the package meet bob, who runs from here."""
    bob = Mesh(lab).client("bob")
    relay_id = chroot.json(RELAY, "init", "--name", "relay")["node_id"]
    alice_id = chroot.json(CLIENT, "init", "--name", "alice")["node_id"]
    relay = lab.host("relay")
    relays = [{"address": f"{relay.address}:4433", "id": relay_id}]
    chroot.write_config(
        "relay.yaml", {"relay": {"name": "relay"}, "admission": {"nodes": [alice_id, bob.node_id]}}
    )
    chroot.write_config(
        "client.yaml",
        {
            "node": {"name": "alice"},
            "interface": {"addresses": ["10.77.0.9/24"]},
            "relays": relays,
            "peers": [{"name": "bob", "id": bob.node_id, "addresses": [bob.ipv4]}],
        },
    )
    alice = lab.host("alice")
    serving = relay.spawn(chroot.inside(RELAY, "serve", "-c", "/etc/shadowmesh/relay.yaml"), "relay.log")
    serving.wait_for_line("serves on UDP", 60.0)
    client = alice.spawn(chroot.inside(CLIENT, "up", "-c", "/etc/shadowmesh/client.yaml"), "alice.log")
    client.wait_for_line("is up on smesh0", 60.0)
    bob.config = {
        "node": {"name": "bob", "state_dir": str(bob.state_dir), "socket": str(bob.socket_path)},
        "interface": {"addresses": [f"{bob.ipv4}/24"]},
        "relays": relays,
        "peers": [{"name": "alice", "id": alice_id, "addresses": ["10.77.0.9"]}],
    }
    bob.start()
    bob.wait_peers("alice", timeout=60.0)
    bob.host.ping("10.77.0.9")
    peers = chroot.json(CLIENT, "status")["peers"]
    assert [peer["state"] for peer in peers] == ["connected"]
    chroot.run(CLIENT, "down")
    assert client.wait(20.0) == 0
    assert serving.terminate(20.0) == 0
    wait_until(lambda: "smesh0" not in alice.interfaces(), 10.0, "the end of the interface")

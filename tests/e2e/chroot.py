"""A clean Debian in a folder, for the package that `make deb-test` has built. It boots nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import yaml

from tests.conftest import root_tests_are_required

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = os.environ.get("SHADOWMESH_DEB", "")
BASE = Path(__file__).parents[2] / "build" / "chroot.tar"
"""What debootstrap made, for the next run."""
RELAY, CLIENT = "shadowmesh-relay", "shadowmesh-client"


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

    def install(self, *others: str) -> None:
        """Our package, and others of Debian's."""
        shutil.copy(PACKAGE, self.path / "opt/package.deb")
        command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/opt/package.deb")
        self.run(*command, *others)

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


def give_up(why: str) -> NoReturn:
    """Skip a test that this machine can't run, but never in CI."""
    if root_tests_are_required():
        pytest.fail(why)
    pytest.skip(why)


def debootstrap() -> None:
    """Make BASE, where the archive can be reached."""
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
            give_up(f"no chroot: {done.stdout[-500:]}{done.stderr[-500:]}")
        # Under another name until it is whole.
        half = BASE.with_suffix(".half")
        subprocess.run(["tar", "-C", made, "-cf", str(half), "."], check=True)
        half.rename(BASE)


@contextlib.contextmanager
def clean_chroot() -> Iterator[Chroot]:
    """With /proc, the device for interfaces, and apt's lists; in memory, where dpkg waits for no disk."""
    if not BASE.exists():
        debootstrap()
    path = Path(tempfile.mkdtemp(prefix="chroot-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(path)], check=True)
    try:
        subprocess.run(["tar", "-C", str(path), "-xf", str(BASE)], check=True)
        path.chmod(0o755)  # / of a machine, also for those who are not root
        shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
        (path / "dev/net").mkdir(exist_ok=True)
        os.mknod(path / "dev/net/tun", 0o20600, os.makedev(10, 200))
        subprocess.run(["mount", "-t", "proc", "proc", str(path / "proc")], check=True)
        chroot = Chroot(path)
        chroot.run("apt-get", "update", "-qq")
        yield chroot
    finally:
        subprocess.run(["umount", "--recursive", str(path)], check=True)
        path.rmdir()

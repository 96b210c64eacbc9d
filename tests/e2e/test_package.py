"""The Debian package in a clean chroot: installed, run, removed, purged. `make deb-test` builds it first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until
from tests.e2e.chroot import CLIENT, PACKAGE, RELAY, Chroot

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PACKAGE, reason="make deb-test runs it, with the package that it builds"),
]


def test_the_package_from_installation_to_purge(clean: Chroot, lab: Lab) -> None:
    assert clean.ours() == []
    clean.install()
    version = Path(PACKAGE).name.split("_")[1]
    for program in (CLIENT, RELAY):
        assert clean.run(program, "version").startswith(f"{program} {version}")
    assert not [name for name in clean.ours() if name.startswith(("etc/systemd", "var/lib/shadowmesh"))]
    runs(clean, lab)
    finds_added_libraries(clean)
    assert clean.run("dpkg", "--verify", "shadowmesh") == "", "nothing writes into the package's folders"
    kept = ("var/lib/shadowmesh-authority", "var/lib/shadowmesh", "etc/shadowmesh")
    keys = [clean.path / folder / "mine" / "authority.pem" for folder in kept]
    for key in keys:
        key.parent.mkdir(parents=True)
        key.touch()
    clean.run("apt-get", "remove", "-y", "-qq", "shadowmesh")
    assert not (clean.path / "usr/lib/shadowmesh").exists()
    assert (clean.path / "var/lib/shadowmesh/identity.pem").exists(), "keys go with a purge only"
    told = clean.run("apt-get", "purge", "-y", "-qq", "shadowmesh")
    for folder, key in zip(kept, keys, strict=True):
        assert f"/{folder} holds the key of a network and was left" in told
        assert key.exists()
        shutil.rmtree(clean.path / folder)
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


def finds_added_libraries(chroot: Chroot) -> None:
    """Those of the extra `top` it carries, others the administrator adds."""
    assert (chroot.path / "usr/lib/shadowmesh/textual").is_dir()
    tracing = {"otlp": "http://127.0.0.1:4318"}
    chroot.write_config(
        "traced.yaml", {"relay": {"name": "relay"}, "admission": {"open": True}, "tracing": tracing}
    )
    check = (RELAY, "serve", "-c", "/etc/shadowmesh/traced.yaml", "--check")
    assert "OpenTelemetry, which is not installed" in chroot.run("sh", "-c", f"{' '.join(check)} || true")
    added = chroot.path / "usr/local/lib/shadowmesh"
    for name in ("sdk", "exporter/otlp/proto/http"):
        (added / "opentelemetry" / name).mkdir(parents=True)
        (added / "opentelemetry" / name / "__init__.py").touch()
    (added / "json.py").write_text("raise SystemExit('in the place of a module of Python')\n")
    chroot.run(*check)
    shutil.rmtree(added)

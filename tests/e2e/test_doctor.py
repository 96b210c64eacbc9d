"""`doctor` in a healthy lab, and with machines that something was done to: the right check says so.

The broken machines run no client, so that `doctor` asks the network itself; all of them at once, since each
waits some seconds for answers that don't come.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.command import ExitCode
from shadowmesh.testing.mesh import ClientNode, Mesh, command_path
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(3 * 60)]

LIMIT = 90.0
"""Seconds for one verb on a busy machine, while five others run; ten at most are usual."""

SHUT = "table inet host {{ chain in {{ type filter hook {hook} priority 0; udp {port} 4433 drop; }}; }}"
HARMLESS = {"clock.ntp", "machine.kernel", "machine.receive_buffer", "udp.nat"}
"""What may be noted of the machine that runs the tests."""

Said = dict[str, tuple[str, str]]
"""Result and sentence of each check."""


def examine(client: ClientNode, *before: str, config: bool = True) -> tuple[int, Said]:
    where = ["-c", str(client.config_path)] if config else ["--socket", str(client.socket_path)]
    done = client.host.run(
        [*before, command_path(client.program), "doctor", *where, "--json"], check=False, timeout=LIMIT
    )
    assert done.stderr == "", done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, {one["id"]: (one["result"], one["found"]) for one in report["checks"]}


def wrong(said: Said) -> dict[str, str]:
    """Everything that is neither ok nor skipped, but for what the machine of the tests is like."""
    bad = {name: result for name, (result, _) in said.items() if result not in ("ok", "skipped")}
    return {
        name: result for name, result in bad.items() if (name, result) not in [(x, "note") for x in HARMLESS]
    }


def shut_udp(client: ClientNode) -> None:
    client.host.run(["nft", "-f", "-"], text_in=SHUT.format(hook="output", port="dport"))


def show_identity(client: ClientNode) -> None:
    (client.state_dir / "identity.pem").chmod(0o644)


def collide(client: ClientNode) -> None:
    client.host.ip_batch(["link add office0 type bridge", "link set office0 up"])
    client.host.ip_batch(["route add 10.77.0.0/25 dev office0"])


def pin_another(client: ClientNode) -> None:
    client.config["relays"][0]["id"] = client.config["peers"][0]["id"]
    client.config["peers"] = []


def take_second(client: ClientNode) -> None:
    client.config["relays"] = client.config["relays"][1:]


def nothing(_: ClientNode) -> None:
    """It is not known to the relay."""


BREAK: dict[str, Callable[[ClientNode], None]] = {
    "shut": shut_udp,
    "shown": show_identity,
    "crossed": collide,  # and its clock is ahead
    "pinned": pin_another,
    "orphan": take_second,  # that relay is killed
    "stranger": nothing,
}


def ahead() -> list[str]:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is missing: apt-get install faketime"
    return ["env", f"LD_PRELOAD={found[0]}", "FAKETIME=+1000s", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


@pytest.fixture(scope="module")
def ward(module_lab: Lab) -> Mesh:
    """alice and bob who are well, and one machine for each thing that was done."""
    mesh = Mesh(module_lab)
    relay, second = mesh.relay(), mesh.relay("second")
    mesh.client("alice", ["bob"])
    mesh.client("bob", ["alice"])
    for name in BREAK:
        mesh.client(name, ["alice"])
    relay.admitted = [name for name in mesh.clients if name != "stranger"]
    mesh.configure()
    relay.start()
    second.start()
    second.kill9()
    for name, harm in BREAK.items():
        harm(mesh.clients[name])
    for client in mesh.clients.values():
        client.config["relays"] = client.config["relays"][:1]
        client.write_config()
    for name in ("alice", "bob"):
        mesh.clients[name].launch()
    for one, other in (("alice", "bob"), ("bob", "alice")):
        mesh.clients[one].wait_peers(other)
    return mesh


@pytest.fixture(scope="module")
def reports(ward: Mesh) -> dict[str, tuple[int, Said]]:
    """What `doctor` says on each of the broken machines."""
    with ThreadPoolExecutor(len(BREAK)) as pool:
        asked = {
            name: pool.submit(examine, ward.clients[name], *(ahead() if name == "crossed" else []))
            for name in BREAK
        }
        return {name: one.result() for name, one in asked.items()}


def measured(client: ClientNode) -> bool:
    """The search for the largest datagram takes a moment after the start."""
    return all((path["budget"] or 0) > 1437 for peer in client.status()["peers"] for path in peer["paths"])


def test_a_healthy_machine_has_nothing(ward: Mesh) -> None:
    alice = ward.clients["alice"]
    wait_until(lambda: measured(alice), 20, lambda: str(alice.status()["peers"]))
    code, said = examine(alice)
    assert (code, wrong(said)) == (ExitCode.OK, {})
    for name in ("client.running", "relay.reachable", "udp.works", "mtu.relay_paths", "firewall.host"):
        assert said[name][0] == "ok", said[name]
    assert examine(alice, config=False)[1]["config.loads"][0] == "skipped"


def test_a_report_of_a_running_client_has_no_key_and_no_address(ward: Mesh) -> None:
    alice = ward.clients["alice"]
    file = alice.directory / "report.tar.gz"
    done = alice.run(
        ["bugreport", "-c", str(alice.config_path), "-o", str(file), "--anonymise", "strict", "--json"]
    )
    told = json.loads(done.stdout)
    with tarfile.open(file) as archive:
        texts = {one.name.partition("/")[2]: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]
    assert set(texts) == {one["name"] for one in told["files"]}
    expected = {
        "README.txt",
        "running.log",
        "doctor.json",
        "status.json",
        "netcheck.json",
        "drops.json",
        "config.yaml",
        "links.json",
    }
    assert expected <= set(texts), told["left_out"]
    whole = "\n".join(texts.values())
    # The first line of an identity names its node.
    key_lines = (alice.state_dir / "identity.pem").read_text().splitlines()[1:]
    hidden = [line for line in key_lines if not line.startswith("-----")]
    hidden += [node.node_id[:10] for node in (*ward.clients.values(), *ward.relays.values())]
    hidden += [
        alice.host.address,
        alice.ipv4,
        ward.clients["bob"].ipv6,
        ward.relays["relay"].endpoint,
        "alice",
        "bob",
    ]
    hidden.append(alice.status()["node"]["mac"])
    assert [text for text in hidden if text in whole] == []
    assert json.loads(texts["status.json"])["peers"][0]["state"] == "connected"


def test_a_relay_that_is_not_admitted_to(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["stranger"]
    assert code == ExitCode.PROBLEM
    assert wrong(said) == {
        "client.running": "note",
        "relay.reachable": "problem",
        "relay.admitted": "problem",
        "udp.works": "problem",
    }
    assert "does not admit your NodeID" in said["relay.admitted"][1]


def test_a_firewall_of_the_host_in_the_way(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["shut"]
    assert code == ExitCode.PROBLEM
    assert wrong(said) == {
        "client.running": "note",
        "relay.reachable": "problem",
        "firewall.host": "problem",
        "udp.works": "problem",
    }
    assert "of inet host in (drop)" in said["firewall.host"][1]


def test_keys_that_others_can_read(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["shown"]
    assert (code, wrong(said)) == (ExitCode.PROBLEM, {"client.running": "note", "permission.keys": "problem"})
    assert said["udp.works"][0] == "skipped", "the identity is refused, so nobody was asked"


def test_a_route_that_collides_and_a_clock_that_is_ahead(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["crossed"]
    assert code == ExitCode.PROBLEM
    assert wrong(said) == {"client.running": "note", "routes.overlap": "problem", "clock.skew": "warning"}
    assert "10.77.0.0/25 by office0" in said["routes.overlap"][1]
    assert "16 min" in said["clock.skew"][1]


def test_a_relay_that_is_another(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["pinned"]
    assert code == ExitCode.PROBLEM
    assert said["relay.identity"][0] == "problem"


def test_an_mtu_that_somebody_has_changed(ward: Mesh) -> None:
    alice = ward.clients["alice"]
    alice.host.ip_batch(["link set smesh0 mtu 1300"])
    try:
        code, said = examine(alice)
    finally:
        alice.host.ip_batch(["link set smesh0 mtu 1380"])
    assert (code, wrong(said)) == (ExitCode.WARNING, {"mtu.interface": "warning"})


def test_a_relay_that_was_killed(reports: dict[str, tuple[int, Said]]) -> None:
    code, said = reports["orphan"]
    assert code == ExitCode.PROBLEM
    dead = {"relay.reachable": "problem", "udp.works": "problem"}
    assert wrong(said) == {"client.running": "note", **dead}

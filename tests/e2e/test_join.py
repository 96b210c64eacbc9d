"""Joining by one pasted line, end to end: fresh machines, real files, and everything that says no."""

from __future__ import annotations

import base64
import json
import stat
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.mesh import ClientNode, command_path
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.web import block_udp
from tests.e2e.test_membership import Domain, home, pings

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from shadowmesh.testing.lab import Lab

__all__ = ["home"]

pytestmark = pytest.mark.root

NOT_JOINED = 11


class Fresh:
    """A machine with the program and nothing else."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.host = lab.host(name)
        self.directory = lab.directory / name
        self.directory.mkdir()
        self.config = self.directory / "etc" / "client.yaml"
        self.socket = self.directory / "control.sock"

    def command(self, token: str, *more: str) -> list[str]:
        paths = ["-c", str(self.config), "--state-dir", str(self.directory / "state")]
        return [command_path("shadowmesh-client"), "join", token, *paths, "--socket", str(self.socket), *more]

    def join(self, token: str, *more: str) -> CompletedProcess[str]:
        return self.host.run(self.command(token, *more), False, 60.0)

    def down(self) -> None:
        self.host.run([command_path("shadowmesh-client"), "down", "--socket", str(self.socket)], False, 20.0)


@pytest.fixture
def alice(home: Domain) -> ClientNode:
    """The member that invites, on the authority's host for the folder's sake."""
    client = home.member("alice")
    home.relay.start()
    client.start()
    client.wait_relay()
    return client


def invite(home: Domain, alice: ClientNode, *asked: str, name: str = "bob") -> dict[str, Any]:
    folder = ["--state-dir", str(home.folder)]
    made = alice.verb("invite", "create", "--name", name, *asked, *folder, "--json")
    document: dict[str, Any] = json.loads(made.stdout)
    return document


def test_one_pasted_line_makes_a_member_that_pings(home: Domain, alice: ClientNode) -> None:
    token = invite(home, alice, "--group", "admin")["token"]
    bob = Fresh(home.mesh.lab, "bob")
    began = time.monotonic()
    process = bob.host.spawn(bob.command(token), str(bob.directory / "log"))
    try:
        wait_until(lambda: pings(alice, "10.77.0.2"), 30.0, (bob.directory / "log").read_text)
        print(f"\nfrom the pasted line to the first ping: {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 30.0
        assert bob.host.run(["ping", "-c", "1", "-W", "3", "fd77::1"], False, 10.0).returncode == 0
        for name, mode in (
            ("etc/client.yaml", 0o600),
            ("etc/home-certificate.pem", 0o600),
            ("state/identity.pem", 0o600),
        ):
            assert stat.S_IMODE((bob.directory / name).stat().st_mode) == mode, name
        assert token not in (bob.directory / "log").read_text()
        assert token not in alice.output()
    finally:
        assert process.terminate() == 0
    # The files are enough for the next start, and everybody takes the certificate with its delegation.
    up = [command_path("shadowmesh-client"), "up", "-c", str(bob.config)]
    again = bob.host.spawn(up, str(bob.directory / "log"))
    try:
        wait_until(lambda: pings(alice, "10.77.0.2"), 20.0, (bob.directory / "log").read_text)
    finally:
        again.terminate()
    home.run("list")
    alice.verb("invite", "list", "--state-dir", str(home.folder))
    members = {one["name"]: one for one in json.loads(home.run("list", "--json"))["members"]}
    assert members["bob"]["node"] is not None, "the ledger learned who came"


def test_a_machine_whose_udp_is_blocked_joins_over_tcp(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Domain(lab, monkeypatch, tcp=True)
    alice = home.member("alice")
    home.relay.start()
    alice.start()
    alice.wait_relay()
    bob = Fresh(lab, "bob")
    block_udp(bob.host)
    joined = bob.join(invite(home, alice)["token"], "--no-up")
    assert joined.returncode == 0, joined.stderr


def test_a_used_token_is_refused_after_a_restart_of_the_inviter_too(home: Domain, alice: ClientNode) -> None:
    token = invite(home, alice)["token"]
    bob, eve = Fresh(home.mesh.lab, "bob"), Fresh(home.mesh.lab, "eve")
    alice.restart()
    alice.wait_relay()
    assert bob.join(token, "--no-up").returncode == 0
    alice.restart()
    alice.wait_relay()
    refused = eve.join(token, "--no-up")
    assert refused.returncode == NOT_JOINED
    assert "the invitation was used already (invitation_used)" in refused.stderr
    assert not eve.config.exists()
    assert alice.status()["drops"]["join_refused"] == 1
    assert "was refused: the invitation was used already" in alice.output()
    second = bob.join(token, "--no-up")
    assert second.returncode == 3
    assert "exists already" in second.stderr


def test_late_and_closed_tokens_are_named(home: Domain, alice: ClientNode) -> None:
    eve = Fresh(home.mesh.lab, "eve")
    late = invite(home, alice, "--ttl", "1s", name="late")["token"]
    closed = invite(home, alice, name="closed")["token"]
    alice.verb("invite", "revoke", "closed")
    time.sleep(1.5)
    for token, text in ((late, "invitation_expired"), (closed, "invitation_revoked")):
        refused = eve.join(token, "--no-up")
        assert (refused.returncode, text in refused.stderr) == (NOT_JOINED, True), refused.stderr
        assert token not in refused.stderr
    assert not eve.config.exists()


def of_another_network(token: str) -> str:
    """The token with another network in it, and the right checksum."""
    text = token.removeprefix("smesh1").upper()
    data = base64.b32decode(text + "=" * (-len(text) % 8))
    data = data[:2] + bytes(32) + data[34:-4]
    data += zlib.crc32(data).to_bytes(4, "big")
    return "smesh1" + base64.b32encode(data).decode().rstrip("=").lower()


def test_the_inviter_must_be_of_the_network_that_the_token_names(home: Domain, alice: ClientNode) -> None:
    eve = Fresh(home.mesh.lab, "eve")
    refused = eve.join(of_another_network(invite(home, alice)["token"]), "--no-up")
    assert refused.returncode == NOT_JOINED
    assert "another_network" in refused.stderr
    assert not eve.config.exists()


def test_a_relay_that_does_not_know_the_invitation_says_so(home: Domain, alice: ClientNode) -> None:
    """Its inviter has gone, and took it away."""
    token = invite(home, alice)["token"]
    alice.stop()
    eve = Fresh(home.mesh.lab, "eve")
    refused = eve.join(token, "--no-up", "--timeout", "5")
    assert refused.returncode == NOT_JOINED
    assert "knows no such invitation" in refused.stderr


def test_a_person_lets_in_or_refuses(home: Domain, alice: ClientNode) -> None:
    token = invite(home, alice, "--approve", "--uses", "2")["token"]
    bob, eve = Fresh(home.mesh.lab, "bob"), Fresh(home.mesh.lab, "eve")
    logs = {one: one.directory / "log" for one in (bob, eve)}
    running = {one: one.host.spawn(one.command(token, "--no-up"), str(logs[one])) for one in (bob, eve)}

    def pending() -> list[dict[str, Any]]:
        waiting: list[dict[str, Any]] = json.loads(alice.verb("invite", "pending", "--json").stdout)[
            "waiting"
        ]
        return waiting

    wait_until(lambda: len(pending()) == 2, 20.0, lambda: f"pending: {pending()}")
    alice.restart()
    alice.wait_relay()
    by_log = {node["node_id"][:10]: node for node in pending()}
    mine = next(short for short in by_log if short in logs[bob].read_text())
    other = next(short for short in by_log if short != mine)
    assert other in logs[eve].read_text(), "both sides show the same fingerprint"
    alice.verb("invite", "approve", mine)
    alice.verb("invite", "refuse", other)
    codes = {one: running[one].wait(30.0) for one in (bob, eve)}
    assert codes == {bob: 0, eve: NOT_JOINED}, {one: logs[one].read_text() for one in logs}
    assert "join_refused" in logs[eve].read_text()
    assert bob.config.exists()
    assert not eve.config.exists()


def test_two_that_joined_meet_each_other(home: Domain, alice: ClientNode) -> None:
    token = invite(home, alice, "--uses", "2")["token"]
    both = [Fresh(home.mesh.lab, name) for name in ("bob", "carol")]
    for one in both:
        done = one.join(token, "--detach")
        assert done.returncode == 0, done.stderr
    try:
        ping = ["ping", "-c", "1", "-W", "1", "10.77.0.3"]
        wait_until(
            lambda: both[0].host.run(ping, False, 10.0).returncode == 0, 20.0, lambda: "bob pings carol"
        )
    finally:
        for one in both:
            one.down()

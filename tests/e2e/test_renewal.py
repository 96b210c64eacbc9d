"""The life of a certificate, end to end: renewed by a delegate, by the authority, and with a new identity."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.io.documents import load_credentials, replace_file
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.testing.process import wait_until
from tests.e2e.test_membership import PASSPHRASE, Domain, met, pings, wait_met

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


def certificate_of(client: ClientNode) -> Path:
    return Path(client.config["network"]["certificate"])


def shorten(home: Domain, client: ClientNode, seconds: int) -> None:
    """Let the authority sign the certificate again: it ends in `seconds`, and held two hours."""
    key = AuthorityKey.decode((home.folder / "authority.pem").read_bytes(), PASSPHRASE.encode())
    path, now = certificate_of(client), int(time.time())
    body = load_credentials(path).certificate.body
    body = replace(body, not_before=now - 7200 + seconds, not_after=now + seconds)
    replace_file(path, to_text(Certificate.make(body, key).document, Kind.CERTIFICATE).encode())


def allow(home: Domain, client: ClientNode) -> Path:
    """A delegation for `client`, where its configuration is to name it."""
    public = client.directory / "public"
    public.write_text(client.run(["id", "--public", "--state-dir", str(client.state_dir)]).stdout)
    path = client.directory / "delegation.pem"
    made = json.loads(home.run("delegate", str(public), "-o", str(path), "--json"))
    assert made["node_id"] == client.node_id
    client.config["network"]["delegation"] = str(path)
    return path


def network_of(client: ClientNode) -> dict[str, Any]:
    found: dict[str, Any] = client.status()["node"]["network"]
    return found


def test_a_certificate_about_to_end_is_renewed_by_a_delegate_without_dropping_a_session(
    home: Domain,
) -> None:
    alice, bob, carol = (home.member(name) for name in ("alice", "bob", "carol"))
    shorten(home, alice, 25)
    ended_at = time.time() + 25
    before = certificate_of(alice).read_bytes()
    home.relay.start()
    for client in (alice, bob, carol):
        client.launch()
    wait_met(alice, bob, carol)
    nobody = "no member is connected that renews"
    wait_until(
        lambda: nobody in (network_of(alice)["renewal_error"] or ""), 10.0, "it says that nobody renews"
    )
    age = carol.peer("alice")["last_handshake"]
    began = time.time()

    allow(home, bob)
    bob.write_config()
    assert "network.delegation" in bob.verb("reload").stdout
    wait_until(lambda: certificate_of(alice).read_bytes() != before, 10.0, lambda: "a renewed certificate")
    took = time.time() - began
    assert certificate_of(alice).with_name("certificate.pem.bak").read_bytes() == before
    assert stat.S_IMODE(certificate_of(alice).stat().st_mode) == 0o644
    status = network_of(alice)
    assert 3000 < status["expires_in"] < 3700
    assert status["renewal_error"] is None
    assert alice.peer("bob")["renews"]
    assert not alice.peer("carol")["renews"]
    assert network_of(bob)["renews_for"] > 29 * 86_400
    wait_until(lambda: carol.peer("alice")["expires_in"] > 3000, 5.0, lambda: "carol knows the new one")
    assert pings(alice, carol.ipv4, 3)
    assert carol.peer("alice")["last_handshake"] >= age + took - 0.5, "the session is the one from before"
    assert abs(alice.relay_status()["clock_skew"]) <= alice.relay_status()["clock_error"] + 0.01

    time.sleep(max(0.0, ended_at + 1 - time.time()))
    alice.restart()
    wait_met(alice, bob, carol)
    assert pings(alice, carol.ipv4, 3)


def test_reload_takes_the_next_certificate_and_nothing_that_does_not_count(home: Domain) -> None:
    alice, bob = home.member("alice"), home.member("bob")
    home.relay.start()
    for client in (alice, bob):
        client.launch()
    wait_met(alice, bob)
    first = network_of(alice)["serial"]
    home.run("renew", "alice", "--days", "300", "-o", str(certificate_of(alice)))
    age = bob.peer("alice")["last_handshake"]
    assert "changed: network.certificate" in alice.verb("reload").stdout
    assert network_of(alice)["serial"] > first
    wait_until(lambda: bob.peer("alice")["expires_in"] > 299 * 86_400, 5.0, lambda: "bob knows the new one")
    assert bob.peer("alice")["last_handshake"] > age
    assert "changed: nothing" in alice.verb("reload").stdout

    good = certificate_of(alice).read_bytes()
    home.run("renew", "bob", "-o", str(certificate_of(alice)))
    refused = alice.verb("reload", check=False)
    assert refused.returncode == 3
    assert "is for another NodeID" in refused.stderr
    assert network_of(alice)["expires_in"] > 299 * 86_400
    certificate_of(alice).write_bytes(good)
    home.run("renew", "alice", "--days", "200", "-o", str(certificate_of(alice)))
    os.kill(alice.running_process.pid, 1)  # SIGHUP
    wait_until(lambda: network_of(alice)["expires_in"] < 201 * 86_400, 5.0, lambda: alice.output()[-500:])


def test_a_member_gets_a_new_identity_in_place_of_its_old_one(home: Domain) -> None:
    alice, bob = home.member("alice"), home.member("bob")
    home.relay.start()
    for client in (alice, bob):
        client.launch()
    wait_met(alice, bob)
    state = bob.directory / "new"
    made = bob.run(["init", "--name", "bob", "--state-dir", str(state), "--json"])
    new_id = json.loads(made.stdout)["node_id"]
    path = bob.directory / "new.pem"
    signed = json.loads(home.run("sign", new_id, "--replaces", "bob", "-o", str(path), "--json"))
    assert signed["addresses"][0] == f"{bob.ipv4}/16"
    assert pings(alice, bob.ipv4, 3), "the old one is a member until the list is spread"

    bob.config["node"]["state_dir"] = str(state)
    bob.config["network"]["certificate"] = str(path)
    bob.restart()
    wait_until(
        lambda: any(
            peer["node_id"] == new_id and peer["state"] == "connected" for peer in alice.status()["peers"]
        ),
        15.0,
        lambda: f"a session with the new bob: {alice.status()['peers']}",
    )
    alice.verb("network", "spread", signed["revocations"])
    alice.host.run(["ip", "neigh", "flush", "dev", "smesh0"])  # the MAC address comes from the NodeID
    assert pings(alice, bob.ipv4, 5)
    assert network_of(alice)["revocation_list"] == 1

    bob.config["node"]["state_dir"] = str(bob.directory / "state")
    bob.config["network"]["certificate"] = str(bob.directory / "certificate.pem")
    bob.restart()
    wait_until(lambda: "is revoked" in (bob.relay_status()["last_error"] or ""), 10.0, lambda: "the reason")
    assert not met(bob, "alice")


def test_the_authority_takes_a_new_key_and_everybody_learns_it_from_one_member(home: Domain) -> None:
    alice, bob = home.member("alice"), home.member("bob")
    home.relay.start()
    for client in (alice, bob):
        client.launch()
    wait_met(alice, bob)
    before = network_of(alice)["network_id"]
    age = bob.peer("alice")["last_handshake"]
    made = json.loads(home.run("rotate", "--overlap-days", "5", "--json"))
    assert (made["network_id"], made["keys"]) == (before, 2)
    exported = alice.directory / "new.pem"
    exported.write_text(home.run("export"))
    alice.verb("network", "spread", str(exported))
    for client in (alice, bob):
        wait_until(
            lambda c=client: (network_of(c)["authority_key"], network_of(c)["revocation_list"]) == (2, 1),  # type: ignore[misc]
            5.0,
            lambda c=client: f"{c.name} knows the new key: {network_of(c)}",  # type: ignore[misc]
        )
        assert "the authority has a new key" in network_of(client)["warning"]
        home.run("renew", client.name, "-o", str(certificate_of(client)))
        assert "network.certificate" in client.verb("reload").stdout
        assert network_of(client)["warnings"] == []
    assert bob.peer("alice")["last_handshake"] > age
    assert pings(alice, bob.ipv4, 3)

    home.relay.restart()  # its public file, like those of the members, has the first key only
    bob.restart()
    wait_met(alice, bob, timeout=30.0)
    assert pings(alice, bob.ipv4, 3)
    assert network_of(bob)["network_id"] == before

"""Who is not a member, by real processes: refused with a named reason, counted, told once, shown by `why`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.io.documents import load_credentials
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.testing.process import wait_until
from tests.e2e.test_membership import PASSPHRASE, Domain, met, pings, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

HERE = Path(__file__).parent
HANDSHAKE_FAILURE = "0x128"
"""CRYPTO_ERROR (RFC 9001 section 4.8) with TLS alert 40."""

REASONS = {
    "expired": "the certificate of mallory expired at",
    "not_yet_valid": "the certificate of mallory begins at",
    "forged": "the authority of this network has not signed it",
    "wrong_network": "the certificate is of another network than home",
    "wrong_node": "the certificate of bob is for another NodeID",
    "wrong_address": "an address outside the network's subnets",
}


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


def spoil(home: Domain, mallory: ClientNode, bob: ClientNode) -> Iterator[tuple[str, str]]:
    """Certificates that mallory may show, each with the reason why it counts for nothing."""
    key = AuthorityKey.decode((home.folder / "authority.pem").read_bytes(), PASSPHRASE.encode())
    own, others = (load_credentials(Path(one.config["network"]["certificate"])) for one in (mallory, bob))
    body, now = own.certificate.body, int(time.time())
    made = {
        "expired": Certificate.make(replace(body, not_before=now - 9000, not_after=now - 60), key),
        "not_yet_valid": Certificate.make(replace(body, not_before=now + 9000), key),
        "forged": Certificate.make(body, AuthorityKey.generate()),
        "wrong_network": Certificate.make(replace(body, network=bytes(32)), key),
        "wrong_node": others.certificate,
        "wrong_address": Certificate.make(replace(body, addresses=["192.0.2.1/24"]), key),
    }
    for reason, certificate in made.items():
        yield reason, to_text(certificate.document, Kind.CERTIFICATE)


def launch_hostile(home: Domain, client: ClientNode) -> None:
    client.write_config()
    command = [sys.executable, str(HERE / "hostile_client.py"), "up", "-c", str(client.config_path)]
    client.process = client.host.spawn(command, str(client.directory / "log"))


def test_peers_refuse_what_is_no_certificate_of_theirs(home: Domain) -> None:
    """The relay admits everybody, and alice and mallory list each other: only the certificate is left."""
    home.relay.config["admission"] = {"open": True}
    alice, bob, mallory = (home.member(name) for name in ("alice", "bob", "mallory"))
    for one, other in ((alice, mallory), (mallory, alice), (alice, bob), (bob, alice)):
        one.config.setdefault("peers", []).append({"name": other.name, "id": other.node_id})
    home.relay.start()
    for client in (alice, bob):
        client.launch()
    wait_until(lambda: met(alice, "bob"), 15.0, lambda: "bob, a member")
    for refused, (reason, text) in enumerate(spoil(home, mallory, bob), start=1):
        Path(mallory.config["network"]["certificate"]).write_text(text)
        launch_hostile(home, mallory)
        wait_until(
            lambda r=reason: REASONS[r] in (state_of(alice, "mallory").get("last_error") or ""),  # type: ignore[misc]
            15.0,
            lambda r=reason: f"{r}: {state_of(alice, 'mallory')}",  # type: ignore[misc]
        )
        assert alice.status()["drops"]["not_member"] >= refused
        assert REASONS[reason] in alice.verb("why", "mallory", check=False).stdout
        assert not pings(mallory, alice.ipv4)
        told = [line for line in alice.output().splitlines() if REASONS[reason] in line]
        assert len(told) == 1, told
        mallory.running_process.terminate()
    assert not met(alice, "mallory")
    assert pings(alice, bob.ipv4, 3)


def test_a_relay_refuses_them_too(home: Domain) -> None:
    """Of another network's certificates it has no opinion: it does not serve that one."""
    told = {**REASONS, "wrong_network": "does not admit your NodeID"}
    bob, mallory = home.member("bob"), home.member("mallory")
    home.relay.start()
    for reason, text in spoil(home, mallory, bob):
        Path(mallory.config["network"]["certificate"]).write_text(text)
        launch_hostile(home, mallory)
        wait_until(
            lambda r=reason: mallory.answers() and told[r] in (mallory.relay_status()["last_error"] or ""),  # type: ignore[misc]
            15.0,
            lambda r=reason: f"{r}: {mallory.relay_status()}",  # type: ignore[misc]
        )
        mallory.running_process.terminate()
    bob.launch()
    bob.wait_relay()


def test_an_older_list_brings_nobody_back(home: Domain) -> None:
    alice, bob, carol = (home.member(name) for name in ("alice", "bob", "carol"))
    home.relay.start()
    home.run("revoke", "bob")
    older = home.folder / "older.pem"
    older.write_bytes((home.folder / "revocations.pem").read_bytes())
    home.run("revoke", "carol")
    for client in (alice, bob, carol):
        client.launch()
    alice.wait_relay()
    alice.verb("network", "spread", str(home.folder / "revocations.pem"))
    for _ in range(2):
        assert "nothing is new" in alice.verb("network", "spread", str(older), check=False).stdout
        assert alice.status()["node"]["network"]["revocation_list"] == 2
        alice.restart()
        alice.wait_relay()
    assert not met(alice, "carol")
    assert not pings(carol, alice.ipv4)


def test_a_classical_key_exchange_is_refused(home: Domain) -> None:
    alice = home.member("alice")
    home.relay.start()
    host, _, port = home.relay.endpoint.rpartition(":")
    command = [sys.executable, str(HERE / "classical_client.py"), host, port]
    said = alice.host.run(command, False, 30.0).stdout
    assert said.split() == [HANDSHAKE_FAILURE]
    alice.launch()
    alice.wait_relay()

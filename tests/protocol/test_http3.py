"""HTTP/3 on the relay's port, on virtual time: what it tells, to whom, and what it never becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shadowmesh import __version__
from shadowmesh.crypto.port import Credentials
from shadowmesh_relay.h3 import Http3
from shadowmesh_relay.limits import Limits
from tests.protocol.http3 import GROUPS, NO_ALPN, Browser, foreign, hybrid_of, mesh_with, stock
from tests.protocol.mesh import IDENTITIES
from tests.unit.quic_pair import certify


@pytest.mark.parametrize("stack", [stock, foreign], ids=["aioquic", "qh3"])
def test_what_the_world_may_know(stack: Any) -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh, connection=stack())
    began = mesh.network.now
    answer = browser.get("/status")
    uptime = int(mesh.network.now - began)
    expected = {"schema": "shadowmesh.relay-public/1", "version": __version__, "uptime": 0, "draining": False}
    assert (answer.status, json.loads(answer.body)) == (200, expected | {"uptime": uptime})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert json.loads(browser.get("/version").body) == {"version": __version__}
    assert json.loads(browser.get("/live?probe=1").body) == {"live": True}
    ready = browser.get("/ready")
    assert (ready.status, json.loads(ready.body)) == (200, {"ready": True, "reason": ""})
    head = browser.get("/live", "HEAD")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "application/json")
    assert hybrid_of(relay) == {"hybrid": int(stack is foreign), "classical": int(stack is stock)}


def test_there_is_nothing_else() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    for path in ("/", "/metrics", "/v1/status", "/live/", "*"):
        assert (browser.get(path).status, browser.get(path).body) == (404, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"):
        refused = browser.get("/live", method)
        assert (refused.status, refused.headers["allow"], refused.body) == (405, "GET, HEAD", b"")
    totals = relay.core.totals().http3
    assert totals is not None
    assert totals.requests == {"200": 0, "404": 10, "405": 6, "503": 0}


def test_the_number_of_clients_is_told_if_the_operator_says_so() -> None:
    mesh, relay = mesh_with(Http3(lambda _: credentials(), show_clients=True))
    mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 5)
    assert json.loads(Browser(mesh).get("/status").body)["clients"] == 1
    mesh, relay = mesh_with()
    mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 5)
    assert b"clients" not in Browser(mesh).get("/status").body


@pytest.mark.parametrize("group", GROUPS)
def test_classical_key_exchange(group: str) -> None:
    mesh, relay = mesh_with()
    assert Browser(mesh, connection=stock(groups=GROUPS[group])).get("/live").status == 200
    assert hybrid_of(relay) == {"hybrid": 0, "classical": 1}


def credentials(kind: str = "p-256") -> Credentials:
    """An own key of a kind, certified by a chain as long as those of public authorities."""
    curves: dict[str, ec.EllipticCurve] = {"p-256": ec.SECP256R1(), "p-384": ec.SECP384R1()}
    curve = curves.get(kind)
    key: Any = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
    authority = rsa.generate_private_key(65537, 2048)
    name = certify(ec.generate_private_key(ec.SECP256R1()), "authority").subject
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    old = certify(ec.generate_private_key(ec.SECP256R1()))
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    leaf, above = (
        builder.public_key(one.public_key()).sign(authority, hashes.SHA256()) for one in (key, authority)
    )
    return Credentials(leaf, (above, above), key)


@pytest.mark.parametrize("kind", ["p-256", "p-384", "rsa"])
def test_ordinary_certificates_with_their_chains(kind: str) -> None:
    made = credentials(kind)
    mesh, _ = mesh_with(Http3(lambda _: made))
    browser = Browser(mesh)
    assert browser.get("/live").status == 200
    assert browser.connection.tls._peer_certificate == made.certificate
    assert browser.connection.tls._peer_certificate_chain == list(made.chain)


def test_each_connection_gets_the_certificate_of_its_time() -> None:
    made = [credentials(), credentials()]
    mesh, _ = mesh_with(Http3(lambda _: made[0]))
    for wanted in list(made):
        browser = Browser(mesh)
        assert browser.get("/live").status == 200
        assert browser.connection.tls._peer_certificate == wanted.certificate
        made.reverse()


# --- Two protocols, one port: neither becomes the other. ---


def test_without_a_certificate_there_is_no_http3() -> None:
    mesh, relay = mesh_with(None)
    assert Browser(mesh).refused() == NO_ALPN
    assert Browser(mesh, connection=foreign()).refused() == NO_ALPN
    assert relay.core.totals().http3 is None


@pytest.mark.parametrize("offered", [["h3", "shadowmesh/1"], ["shadowmesh/1", "h3"], ["h2"], ["h3-29"]])
def test_alpn_decides_and_a_mixture_is_refused(offered: list[str]) -> None:
    mesh, relay = mesh_with()
    assert Browser(mesh, connection=stock(alpn_protocols=offered)).refused() == NO_ALPN
    assert hybrid_of(relay) == {"hybrid": 0, "classical": 0}


@pytest.mark.parametrize("stack", [stock, foreign], ids=["aioquic", "qh3"])
def test_no_session_is_had_with_the_cryptography_of_strangers(stack: Any) -> None:
    """Who offers `shadowmesh/1` meets what a node asks for: its group, its signatures, its certificate."""
    mesh, relay = mesh_with()
    code = Browser(mesh, connection=stack(alpn_protocols=["shadowmesh/1"])).refused()
    assert code == 0x100 + 40, "handshake_failure"
    assert not relay.core.clients


def test_a_visitor_is_no_client() -> None:
    """It is parted from the session machinery before its handshake is done."""
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    browser.until(lambda: browser.complete)
    assert relay.core.totals().handshakes_under_way == 0
    assert relay.core._links._by_id == {}
    browser.connection.send_stream_data(0, b"\x00\x00\x00\x10" + bytes(16))
    mesh.network.flush(browser)
    mesh.network.run_for(1)
    assert not relay.core.clients
    assert relay.core.totals().handshakes == {"completed": 0, "refused": 0, "failed": 0}


def test_members_are_served_beside_visitors_as_ever() -> None:
    mesh, relay = mesh_with()
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    browser = Browser(mesh)
    assert browser.get("/live").status == 200
    mesh.network.run_until(lambda: mesh.connected(0, 1), 5)
    link = relay.core.clients[IDENTITIES[0].node_id].driver.link
    assert (link.key_exchange, link.cipher) == ("X25519+ML-KEM-1024", "TLS_CHACHA20_POLY1305_SHA256")


# --- Full, draining, at its end. ---


def test_a_draining_relay_tells_that_it_is_not_ready() -> None:
    mesh, relay = mesh_with()
    relay.core.drain(mesh.network.now + 100, mesh.network.now)
    browser = Browser(mesh)
    answer = browser.get("/ready")
    assert (answer.status, json.loads(answer.body)["reason"]) == (
        503,
        "the relay is draining [relay.draining]",
    )
    assert browser.get("/live").status == 200
    assert json.loads(browser.get("/status").body)["draining"] is True
    client = mesh.start_client(0, ())
    mesh.network.run_for(5)
    assert not relay.core.clients
    assert relay.core.drops["draining"] >= 1
    assert relay.core.totals().handshakes["completed"] == 0
    assert client.core.relays[0].state.value != "connected"


def test_a_full_relay_answers_visitors_and_takes_a_client_when_there_is_room() -> None:
    mesh, relay = mesh_with(limits=Limits(clients=1))
    first = mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 5)
    mesh.start_client(1, ())
    mesh.network.run_for(5)
    assert relay.core.drops["too_many_clients"] >= 1
    assert relay.core.totals().handshakes["refused"] == 0, "a full relay spends nothing on sessions"
    assert Browser(mesh).get("/ready").status == 200
    first.core.close(mesh.network.now)
    mesh.network.flush(first)
    mesh.network.run_until(lambda: IDENTITIES[1].node_id in relay.core.clients, 90)


def test_a_relay_that_ends_says_goodbye() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    browser.get("/live")
    relay.core.close(mesh.network.now)
    mesh.network.flush(relay)
    assert browser.refused() == 0x100, "H3_NO_ERROR"
    assert relay.tables.control == set()


def test_the_stages_of_a_visitor_end_without_an_error() -> None:
    mesh, relay = mesh_with()
    relay.core._stages.on = True
    assert Browser(mesh).get("/live").status == 200
    ended = {stage.name: stage.error for stage in relay.core._stages.poll()}
    assert ended == {"client.join": "", "session.handshake": "", "quic.handshake": ""}

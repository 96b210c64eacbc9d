"""Certificates that a delegate signed: what counts, and that every rule refuses by its own name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.io.documents import credentials_text, load_credentials
from shadowmesh.io.membership import _MENDED as MENDED
from shadowmesh.membership.certificate import MAX_ROUTES, Certificate, CertificateBody
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import (
    BASIS_GRACE,
    MAX_GRANTS,
    Credentials,
    Delegation,
    DelegationBody,
    Grant,
    Scope,
)
from shadowmesh.membership.guard import MAX_SHOWN, Membership, Standing
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.signed import MAX_BODY, Kind, Signed
from shadowmesh.wire import messages
from shadowmesh.wire.reassembly import Reassembler

NOW = RELEASED + 1000
DAY = 86_400
KEY, OTHER_KEY = AuthorityKey.generate(), AuthorityKey.generate()
SUBNETS = [ipaddress.ip_network("10.77.0.0/16")]
NETWORK, OTHER = (Network.make("home", SUBNETS, [], key, NOW) for key in (KEY, OTHER_KEY))
ALICE, MALLORY = Identity.generate("alice"), Identity.generate("mallory")
BOB = b"b" * 32
GRANT = Grant(name="bob", addresses=["10.77.0.2/16"], groups=["admin"], rights=["bridge"], serial=7)
BODY = CertificateBody(
    network=NETWORK.id,
    node=BOB,
    name="bob",
    addresses=["10.77.0.2/16"],
    groups=["admin"],
    rights=["bridge"],
    not_before=NOW - 10,
    not_after=NOW + 10,
    serial=7,
)


def delegation(scope: Scope = Scope.JOIN, key: AuthorityKey = KEY, **changes: Any) -> Delegation:
    body = DelegationBody(
        network=NETWORK.id,
        ed25519=ALICE.public.ed25519,
        mldsa=ALICE.public.mldsa,
        scope=scope,
        not_before=NOW - 100,
        not_after=NOW + 100,
        serial=6,
        grants=[GRANT] if scope is Scope.JOIN else [],
    )
    return Delegation.make(replace(body, **changes), key)


def joined(
    given: Delegation | None = None,
    signer: Identity = ALICE,
    basis: Certificate | None = None,
    **changes: Any,
) -> Credentials:
    return Credentials(Certificate.make(replace(BODY, **changes), signer), given or delegation(), basis)


RENEW = delegation(Scope.RENEW)
BASIS = Certificate.make(replace(BODY, not_before=NOW - 20 * DAY, not_after=NOW - DAY), KEY)


def renewed(basis: Certificate | None = BASIS, **changes: Any) -> Credentials:
    return joined(RENEW, basis=basis, **changes)


@dataclass
class Lists:
    nodes: tuple[bytes, ...] = ()
    serials: tuple[int, ...] = ()

    def open(self) -> Revocations:
        made = RevocationList.make(NETWORK, KEY, 1, NOW, NOW, self.nodes, self.serials)
        return Revocations(NETWORK, made.document, lambda _: None)


NONE = Revocations(NETWORK, b"", lambda _: None)


def refusal(shown: Credentials, revocations: Revocations = NONE, now: float = NOW) -> str:
    with pytest.raises(NotMember) as caught:
        shown.admit(NETWORK, revocations, BOB, now)
    return caught.value.reason


def test_a_delegate_signs_what_was_granted_and_renews_what_the_authority_signed() -> None:
    for shown in (joined(), renewed()):
        shown.admit(NETWORK, NONE, BOB, NOW)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: joined(delegation(network=OTHER.id)), "delegation_of_another_network"),
        (lambda: joined(delegation(key=OTHER_KEY)), "delegation_forged"),
        (lambda: joined(delegation(critical=["quantum"])), "unknown_critical"),
        (lambda: joined(delegation(not_before=NOW + 1)), "delegation_not_yet_valid"),
        (lambda: joined(delegation(not_after=NOW - 1)), "delegation_expired"),
        (lambda: joined(signer=MALLORY), "forged"),
        (lambda: joined(not_after=NOW + 101), "outlives_delegation"),
        (lambda: joined(not_after=NOW - 1), "expired"),
        (lambda: joined(network=OTHER.id), "wrong_network"),
        (lambda: joined(node=b"c" * 32), "wrong_node"),
        (lambda: joined(name="eve"), "not_granted"),
        (lambda: joined(addresses=["10.77.0.3/16"]), "not_granted"),
        (lambda: joined(groups=["admin", "root"]), "not_granted"),
        (lambda: joined(rights=[]), "not_granted"),
        (lambda: joined(serial=8), "not_granted"),
        (lambda: joined(routes=["192.168.5.0/24"]), "not_granted"),
        (lambda: renewed(basis=None), "no_basis"),
        (lambda: renewed(groups=["root"]), "not_renewed"),
        (lambda: renewed(serial=8), "not_renewed"),
        (lambda: renewed(basis=Certificate.make(BODY, ALICE)), "basis_forged"),
        (lambda: renewed(basis=Certificate.make(replace(BODY, node=b"c" * 32), KEY)), "not_renewed"),
        (
            lambda: renewed(
                basis=Certificate.make(replace(BODY, not_before=1, not_after=NOW - BASIS_GRACE - 1), KEY)
            ),
            "basis_expired",
        ),
        (
            lambda: renewed(
                basis=Certificate.make(replace(BODY, not_before=1, not_after=NOW - BASIS_GRACE + 5), KEY)
            ),
            "basis_expired",
        ),
    ],
)
def test_what_does_not_hold_is_refused_by_its_name(make: Callable[[], Credentials], reason: str) -> None:
    assert refusal(make()) == reason


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        (Lists(serials=(6,)), "delegation_revoked"),
        (Lists(nodes=(ALICE.node_id,)), "delegate_revoked"),
        (Lists(serials=(7,)), "revoked"),
        (Lists(nodes=(BOB,)), "revoked"),
    ],
)
def test_what_is_taken_back_ends_sessions_too(lists: Lists, reason: str) -> None:
    for shown in (joined(), renewed()):
        assert refusal(shown, lists.open()) == reason
        clock = SteadyClock(lambda: NOW, 0.0, lambda _: None)
        guard = Membership(NETWORK, lists.open(), clock, shown)
        with pytest.raises(NotMember) as caught:
            guard.recheck(Standing(shown, 0))
        assert caught.value.reason == reason


def test_the_authority_needs_no_delegation_and_its_signature_no_delegate() -> None:
    own = Certificate.make(BODY, KEY)
    Credentials(own).admit(NETWORK, NONE, BOB, NOW)
    assert refusal(Credentials(own, delegation())) == "forged"
    assert refusal(Credentials(joined().certificate)) == "forged"


@pytest.mark.parametrize(
    "changes",
    [
        {"grants": []},
        {"scope": Scope.RENEW},
        {"grants": [replace(GRANT, name="Bob!")]},
        {"grants": [GRANT] * (MAX_GRANTS + 1)},
        {"not_before": NOW + 101},
        {"serial": 0},
        {"mldsa": b"short"},
    ],
)
def test_values_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    body = replace(delegation().body, **changes)
    with pytest.raises(BadPacket):
        Delegation.parse_untrusted(Signed.make(Kind.DELEGATION, body, KEY).encode())
    with pytest.raises(ValueError, match="is not one"):
        Delegation.make(body, KEY)


def test_a_basis_without_delegation_is_a_bad_packet() -> None:
    document = BASIS.document
    with pytest.raises(BadPacket):
        Credentials.parse_untrusted(document, b"", document)


def largest(body: CertificateBody) -> CertificateBody:
    """As large as a certificate may be."""
    rights = ["r" * 60 + f"{i:02}" for i in range(16)]
    whole = replace(body, rights=rights, routes=[f"fd00:1234:5678:{i:x}::/64" for i in range(MAX_ROUTES)])
    groups: list[str] = []
    while len(Certificate.make(whole, KEY).signed.body) < MAX_BODY[Kind.CERTIFICATE] - 80:
        groups.append("g" * 50 + f"{len(groups):02}")
        whole = replace(whole, groups=groups)
    return whole


def test_the_largest_credentials_fit_a_hello_whole() -> None:
    clock, whole = SteadyClock(lambda: NOW, 0.0, lambda _: None), largest(BODY)
    renewal = Credentials(Certificate.make(whole, ALICE), RENEW, Certificate.make(whole, KEY))
    grants = [replace(GRANT, name="n" * 60, groups=["g" * 50] * 2, serial=i + 1) for i in range(22)]
    first = Credentials(Certificate.make(whole, ALICE), delegation(grants=grants))
    for shown in (renewal, first):
        field = Membership(NETWORK, NONE, clock, shown).show()
        assert len(field) <= MAX_SHOWN
        assert Standing.parse_untrusted(field).credentials == shown
        node = messages.Introduction(
            key=bytes(32), nonce=bytes(32), instance=bytes(8), lanes=[bytes(8)] * 8, membership=field
        )
        encoded = messages.encode(messages.Hello(versions=[1], node=node), bytes(64))
        assert len(encoded) <= messages.MAX_HANDSHAKE_MESSAGE
        Reassembler().feed_untrusted(encoded)


@pytest.mark.parametrize("make", [joined, renewed, lambda: Credentials(Certificate.make(BODY, KEY))])
def test_a_file_keeps_all_of_it(make: Callable[[], Credentials], tmp_path: Path) -> None:
    shown = make()
    (tmp_path / "bob.pem").write_text(credentials_text(shown, "home"))
    assert load_credentials(tmp_path / "bob.pem") == shown


def test_a_delegation_of_a_former_key_is_told_from_a_forged_one() -> None:
    """The machine that holds it starts all the same: the authority signs another one."""
    later = NETWORK.rotated(KEY, OTHER_KEY, NOW, NOW, 0)
    with pytest.raises(NotMember) as caught:
        RENEW.check(later, NONE, NOW + 1)
    assert caught.value.reason == "delegation_former_authority"
    assert caught.value.reason in MENDED

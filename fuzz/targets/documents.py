"""Whatever bytes claim to be a certificate, network or list, they raise BadPacket or NotMember only."""

from __future__ import annotations

import contextlib
import ipaddress

from fuzz.traffic import ALICE, identity
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.authority import Authority, Ledger, Request
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import Credentials, Delegation, DelegationBody, Grant, Scope
from shadowmesh.membership.guard import Guard
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.signed import SIGNATURE_SIZE

COVERS = (
    "shadowmesh.membership.certificate",
    "shadowmesh.membership.delegation",
    "shadowmesh.membership.network",
    "shadowmesh.membership.revocation",
    "shadowmesh.membership.rotation",
    "shadowmesh.membership.signed",
)
_authority = identity("authority")
KEY = AuthorityKey(_authority.ed25519, _authority.mldsa)
NETWORK = Network.make("home", [ipaddress.ip_network("10.77.0.0/16")], [], KEY, RELEASED)
AUTHORITY = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
CERTIFICATE = AUTHORITY.sign(Request(node=b"b" * 32, name="bob", groups=["admin"]), RELEASED)
LIST = AUTHORITY.revoke("bob", RELEASED)
GUARD = Guard(
    NETWORK, Revocations(NETWORK, b"", lambda _: None), SteadyClock(lambda: RELEASED, 0.0, lambda _: None)
)
LINK = NETWORK.rotated(KEY, AuthorityKey.generate(), RELEASED, RELEASED, 1).links[0]
REVOCATIONS = Revocations(NETWORK, LIST.document, lambda _: None)
DELEGATE = ALICE.public
DELEGATION = Delegation.make(
    DelegationBody(
        network=NETWORK.id,
        ed25519=DELEGATE.ed25519,
        mldsa=DELEGATE.mldsa,
        scope=Scope.JOIN,
        not_before=RELEASED,
        not_after=RELEASED,
        serial=9,
        grants=[Grant(name="carol", addresses=["10.77.0.9/16"], serial=10)],
    ),
    KEY,
)
SEEDS = [
    # Without the signatures, so that mutations meet the body; `target` puts zeros there.
    document[:-SIGNATURE_SIZE]
    for document in (NETWORK.document, CERTIFICATE.document, LIST.document, DELEGATION.document, LINK)
]


def target(data: bytes) -> None:
    """As each kind of document, its size and version put right, so that the body is reached."""
    body = data[4:]
    for kind in (1, 2, 3, 4, 5):
        whole = bytes((kind, 1)) + (len(body) & 0xFFFF).to_bytes(2, "big") + body + bytes(SIGNATURE_SIZE)
        with contextlib.suppress(BadPacket, NotMember):
            Network.parse_untrusted(whole)
        with contextlib.suppress(BadPacket, NotMember):
            Network.parse_untrusted(NETWORK.document + whole)
        with contextlib.suppress(BadPacket, NotMember):
            GUARD.merge_network_untrusted(whole + data)
        with contextlib.suppress(BadPacket, NotMember):
            Certificate.parse_untrusted(whole).admit(NETWORK, b"b" * 32, RELEASED)
        with contextlib.suppress(BadPacket, NotMember):
            RevocationList.parse_untrusted(whole, NETWORK)
        with contextlib.suppress(BadPacket, NotMember):
            Delegation.parse_untrusted(whole).check(NETWORK, REVOCATIONS, RELEASED)
        with contextlib.suppress(BadPacket, NotMember):
            shown = Credentials.parse_untrusted(whole, DELEGATION.document, whole)
            shown.admit(NETWORK, REVOCATIONS, b"b" * 32, RELEASED)

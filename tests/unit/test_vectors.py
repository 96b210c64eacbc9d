"""The product against the vectors of every protocol version that it speaks."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey

from shadowmesh._ext.aead import PacketKeys
from shadowmesh._ext.fragment import Reassembler
from shadowmesh.crypto import hybrid
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import CompositePublic, Identity, _self_signed, node_id_text
from shadowmesh.crypto.keys import Direction, frame_keys, resumption_secret
from shadowmesh.crypto.provider import AgreementKey, CryptographyProvider, KemKey, KemLevel
from shadowmesh.membership.certificate import Certificate, CertificateBody
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials, Delegation, DelegationBody, Grant, Scope
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.network import Network, NetworkRelay
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.signed import Kind, Signed
from shadowmesh.membership.token import Token, proof
from shadowmesh.overlay.mac import mac_of
from shadowmesh.session.machine import Agreement, Machine, Opening, Secrets
from shadowmesh.session.rekey import Rekey
from shadowmesh.units import PROTOCOL_VERSIONS, Address
from shadowmesh.wire import messages
from shadowmesh.wire.headers import split_channel, through_channel
from shadowmesh.wire.messages import MessageType, RekeyAnswer, RekeyOffer
from tests.reference.fragment import cut

FOLDER = Path(__file__).parents[1] / "vectors"


def load(version: int) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"protocol-{version}.json").read_text())
    return loaded


VECTORS = load(1)


def unhex(value: str) -> bytes:
    return bytes.fromhex(value)


def identity_of(name: str) -> Identity:
    ed25519 = Ed25519PrivateKey.from_private_bytes(unhex(VECTORS[name]["ed25519_seed"]))
    mldsa = MLDSA87PrivateKey.from_seed_bytes(unhex(VECTORS[name]["mldsa_seed"]))
    return Identity._of(name, ed25519, mldsa, _self_signed(mldsa))


def opening_of(name: str) -> Opening:
    side = VECTORS[name]
    session = unhex(VECTORS["handshake"]["session"])
    lanes = [unhex(lane) for lane in side["lanes"]]
    return Opening(unhex(side["nonce"]), unhex(side["instance"]), lanes, session, Address("192.0.2.7", 40000))


def secrets_with(peer: Identity) -> Secrets:
    exporters = VECTORS["handshake"]["exporters"]
    proof, confirm, root = (bytearray(unhex(exporters[name])) for name in ("proof", "confirm", "root"))
    return Secrets(proof, confirm, root, peer.mldsa.public_key().public_bytes_raw())


def test_there_are_vectors_for_every_version() -> None:
    assert all((FOLDER / f"protocol-{version}.json").exists() for version in PROTOCOL_VERSIONS)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_identity(name: str) -> None:
    identity = identity_of(name)
    assert identity.node_id == unhex(VECTORS[name]["node_id"])
    assert node_id_text(identity.node_id) == VECTORS[name]["node_id_text"]
    assert identity.ed25519_public == unhex(VECTORS[name]["ed25519_public"])
    assert mac_of(identity.node_id) == unhex(VECTORS[name]["mac"])


def test_handshake_byte_for_byte() -> None:
    alice, bob = identity_of("alice"), identity_of("bob")
    initiator = Machine(Direction.INITIATOR, alice, bob.node_id, opening_of("alice"))
    responder = Machine(Direction.RESPONDER, bob, None, opening_of("bob"))
    to_alice, to_bob = secrets_with(bob), secrets_with(alice)
    expected = {
        name: unhex(VECTORS["handshake"][name]) for name in ("hello", "challenge", "response", "established")
    }

    hello = initiator.begin(to_alice)
    assert hello == expected["hello"]
    challenge = responder.handle(MessageType.HELLO, hello[4:], to_bob)
    assert challenge == expected["challenge"]
    response = initiator.handle(MessageType.CHALLENGE, challenge[4:], to_alice)
    assert response == expected["response"]
    established = responder.handle(MessageType.RESPONSE, response[4:], to_bob)
    assert established == expected["established"]
    initiator.handle(MessageType.ESTABLISHED, established[4:], to_alice)
    assert initiator.agreement is not None
    assert initiator.agreement.send_keys.hex() == VECTORS["handshake"]["keys_epoch_0"]["initiator"]
    assert initiator.agreement.receive_keys.hex() == VECTORS["handshake"]["keys_epoch_0"]["responder"]


def test_a_relay_tells_its_time_in_established() -> None:
    alice, bob = identity_of("alice"), identity_of("bob")
    relay = dataclasses.replace(opening_of("bob"), wall=lambda: 1_800_000_000.1234)
    responder = Machine(Direction.RESPONDER, bob, None, relay)
    to_bob, vector = secrets_with(alice), VECTORS["handshake"]
    assert responder.handle(MessageType.HELLO, unhex(vector["hello"])[4:], to_bob) == unhex(
        vector["challenge"]
    )
    established = responder.handle(MessageType.RESPONSE, unhex(vector["response"])[4:], to_bob)
    assert established == unhex(vector["established_of_relay"])


def test_resumed_handshake_byte_for_byte() -> None:
    """The same without RESPONSE, and the secret by which the next session is resumed."""
    alice, bob = identity_of("alice"), identity_of("bob")
    initiator = Machine(Direction.INITIATOR, alice, bob.node_id, opening_of("alice"))
    responder = Machine(Direction.RESPONDER, bob, None, opening_of("bob"))
    to_alice, to_bob = (dataclasses.replace(secrets_with(peer), resumed=True) for peer in (bob, alice))
    vector = VECTORS["handshake"]
    challenge, established = unhex(vector["challenge"]), unhex(vector["established_resumed"])

    hello = initiator.begin(to_alice)
    assert hello == unhex(vector["hello"])
    assert responder.handle(MessageType.HELLO, hello[4:], to_bob) == challenge + established
    assert initiator.handle(MessageType.CHALLENGE, challenge[4:], to_alice) == b""
    assert initiator.handle(MessageType.ESTABLISHED, established[4:], to_alice) == b""
    assert initiator.agreement is not None
    secret = resumption_secret(initiator.agreement.root, alice.node_id, bob.node_id)
    assert secret.hex() == vector["resumption_secret"]


class FixedProvider(CryptographyProvider):
    """Makes the keys of the vectors where others are random."""

    def kem_generate(self, level: KemLevel, seed: bytes | None = None) -> KemKey:
        return super().kem_generate(level, unhex(VECTORS["rekey"]["mlkem_seed"]))

    def x25519_generate(self, seed: bytes | None = None) -> AgreementKey:
        return super().x25519_generate(unhex(VECTORS["rekey"]["x25519_seed_of_alice"]))


def agreement_of_alice() -> Agreement:
    """From the handshake of the vectors, replayed."""
    alice, bob = identity_of("alice"), identity_of("bob")
    initiator = Machine(Direction.INITIATOR, alice, bob.node_id, opening_of("alice"))
    secrets = secrets_with(bob)
    initiator.begin(secrets)
    initiator.handle(MessageType.CHALLENGE, unhex(VECTORS["handshake"]["challenge"])[4:], secrets)
    assert initiator.agreement is not None
    return initiator.agreement


def test_rekey(monkeypatch: pytest.MonkeyPatch) -> None:
    """The initiator's side byte for byte, but for the ML-DSA signatures, which are random."""
    vector, bob = VECTORS["rekey"], identity_of("bob")
    agreement = agreement_of_alice()
    assert agreement.binding == unhex(vector["binding"])
    rekey = Rekey(identity_of("alice"), agreement)
    fixed = hybrid.Initiator(hybrid.X25519MLKEM1024, FixedProvider())
    monkeypatch.setattr(hybrid, "Initiator", lambda _: fixed)
    answered = unhex(vector["answer_without_proof"])
    lanes, _ = messages.decode(
        MessageType.REKEY_OFFER, unhex(vector["offer_without_proof"])[4:] + bytes(4691)
    )
    assert isinstance(lanes, RekeyOffer)

    offer = rekey.offer(lanes.lanes)
    content, proof = offer[:-4691], offer[-4691:]
    assert content == unhex(vector["offer_without_proof"])
    assert proof[:64] == unhex(vector["ed25519_signature_in_offer"])
    mldsa = identity_of("alice").mldsa.public_key()
    mldsa.verify(proof[64:], unhex(vector["signed_in_offer"]))

    signature = bob.mldsa.sign(unhex(vector["signed_in_answer"]))
    raw = answered + unhex(vector["ed25519_signature_in_answer"]) + signature
    answer, _ = messages.decode(MessageType.REKEY_ANSWER, raw[4:])
    assert isinstance(answer, RekeyAnswer)
    keys = rekey.handle_answer(answer, raw)
    assert keys.send_keys.hex() == vector["keys_epoch_1"]["initiator"]
    assert keys.receive_keys.hex() == vector["keys_epoch_1"]["responder"]
    assert keys.send_lanes == answer.lanes


def test_key_schedule() -> None:
    root = unhex(VECTORS["handshake"]["exporters"]["root"])
    assert frame_keys(root, 7, Direction.INITIATOR).hex() == VECTORS["handshake"]["keys_initiator_epoch_7"]


@pytest.mark.parametrize("vector", VECTORS["packets_of_alice"], ids=lambda vector: f"lane {vector['lane']}")
def test_packets(vector: dict[str, Any]) -> None:
    keys = PacketKeys(unhex(VECTORS["handshake"]["keys_epoch_0"]["initiator"]))
    payload, packet = unhex(vector["payload"]), unhex(vector["packet"])
    sealed = keys.seal(vector["lane"], unhex(vector["receiver_id"]), vector["number"], payload)
    assert sealed.hex() == vector["packet"]
    assert keys.open(vector["lane"], packet) == (vector["number"], payload)


def test_fragments() -> None:
    made = Reassembler()
    fragments = [unhex(fragment) for fragment in VECTORS["fragments"]["fragments"]]
    taken = [made.take(1, 1, fragment, 0) for fragment in reversed(fragments)]
    assert taken == [None, None, unhex(VECTORS["fragments"]["payload"])]
    # A sender with room for 41 bytes in a packet makes these of it.
    assert cut(taken[-1] or b"", 0x01020304, 41) == fragments


def test_channel_header() -> None:
    channel = VECTORS["channel"]
    datagram = through_channel(unhex(channel["id"]), unhex(channel["inner"]))
    assert datagram.hex() == channel["datagram"]
    assert split_channel(datagram) == (unhex(channel["id"]), unhex(channel["inner"]))


def test_documents_of_an_authority_byte_for_byte() -> None:
    vector, alice = VECTORS["membership"], unhex(VECTORS["alice"]["node_id"])
    key = AuthorityKey(
        Ed25519PrivateKey.from_private_bytes(unhex(vector["ed25519_seed"])),
        MLDSA87PrivateKey.from_seed_bytes(unhex(vector["mldsa_seed"])),
    )
    subnets = [ipaddress.ip_network(text) for text in ("10.77.0.0/16", "fd77::/64")]
    relay = NetworkRelay("192.0.2.1:4433", hashlib.shake_128(b"relay").digest(32))
    network = Network.make("home", subnets, [relay], key, 1_800_000_000)
    body = CertificateBody(
        network=network.id,
        node=alice,
        name="alice",
        addresses=["10.77.0.1/16", "fd77::1/64"],
        routes=["192.168.5.0/24"],
        groups=["admin"],
        rights=["bridge"],
        not_before=1_800_000_000,
        not_after=1_807_776_000,
        serial=7,
    )
    certificate = Certificate.make(body, key)
    revoked = [hashlib.shake_128(b"revoked").digest(32)]
    made = RevocationList.make(network, key, 3, 1_800_000_000, 1_802_592_000, revoked, [5, 2])
    assert network.id == unhex(vector["network_id"])
    for name, document in (
        ("network", network.document),
        ("certificate", certificate.document),
        ("revocations", made.document),
    ):
        assert document[:-4627] == unhex(vector[name]["document_without_mldsa"])
        assert Signed.parse_untrusted(document, Kind(document[0])).fingerprint == unhex(
            vector[name]["fingerprint"]
        )
    membership = Membership(
        network,
        Revocations(network, made.document, lambda data: None),
        SteadyClock(lambda: 1_800_000_000, 0.0, lambda now: None),
        Credentials(certificate),
    )
    shown = membership.show().replace(pack_bytes(certificate.document), pack_bytes(b""))
    assert shown == unhex(vector["shown_without_certificate"])
    second = AuthorityKey(
        Ed25519PrivateKey.from_private_bytes(hashlib.shake_128(b"second ed25519").digest(32)),
        MLDSA87PrivateKey.from_seed_bytes(hashlib.shake_128(b"second mldsa").digest(32)),
    )
    membership.network = network.rotated(key, second, 1_800_000_000, 1_807_776_000, 3)
    (link,) = membership.network.links
    assert link[:-4627] == unhex(vector["rotation"]["document_without_mldsa"])
    assert Signed.parse_untrusted(link, Kind.ROTATION).fingerprint == unhex(vector["rotation"]["fingerprint"])
    membership.renews = 1_800_100_000
    shown = membership.show().replace(pack_bytes(certificate.document), pack_bytes(b""))
    assert shown == unhex(vector["shown_by_delegate_without_certificate"])


def test_a_delegation_and_an_invitation_byte_for_byte() -> None:
    authority, vector = VECTORS["membership"], VECTORS["delegation"]
    inviter = CompositePublic(
        Ed25519PrivateKey.from_private_bytes(hashlib.shake_128(b"inviter ed25519").digest(32))
        .public_key()
        .public_bytes_raw(),
        MLDSA87PrivateKey.from_seed_bytes(hashlib.shake_128(b"inviter mldsa").digest(32))
        .public_key()
        .public_bytes_raw(),
    )
    key = AuthorityKey(
        Ed25519PrivateKey.from_private_bytes(unhex(authority["ed25519_seed"])),
        MLDSA87PrivateKey.from_seed_bytes(unhex(authority["mldsa_seed"])),
    )
    body = DelegationBody(
        network=unhex(authority["network_id"]),
        ed25519=inviter.ed25519,
        mldsa=inviter.mldsa,
        scope=Scope.JOIN,
        not_before=1_800_000_000,
        not_after=1_807_776_000,
        serial=8,
        grants=[Grant(name="bob", addresses=["10.77.0.2/16"], groups=["admin"], serial=9)],
    )
    made = Delegation.make(body, key)
    assert made.document[:-4627] == unhex(vector["document_without_mldsa"])
    assert made.signed.fingerprint == unhex(vector["fingerprint"])
    invitation = VECTORS["invitation"]
    names = ("inviter", "relay", "secret", "binding")
    node, relay, secret, binding = (unhex(invitation[name]) for name in names)
    token = Token(body.network, node, relay, "192.0.2.1:4433", secret)
    assert token.encode() == invitation["token"]
    assert (token.id, token.key) == (unhex(invitation["id"]), unhex(invitation["key"]))
    for role in ("joiner", "inviter"):
        assert proof(token.key, role.encode(), binding) == unhex(invitation[f"proof_of_{role}"])


def pack_bytes(data: bytes) -> bytes:
    return msgspec.msgpack.encode(data)

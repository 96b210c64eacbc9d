"""The hybrid key exchange by itself: layout, agreement, refusals."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from shadowmesh.crypto import hybrid
from shadowmesh.crypto.provider import KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE
from shadowmesh.errors import BadPacket

GROUPS = list(hybrid.GROUPS.values())


@pytest.fixture(params=GROUPS, ids=lambda group: group.name)
def group(request: pytest.FixtureRequest) -> hybrid.HybridGroup:
    found: hybrid.HybridGroup = request.param
    return found


def test_code_points() -> None:
    assert hybrid.X25519MLKEM768.code == 0x11EC
    assert hybrid.X25519MLKEM1024.code == 0xFE4D
    assert 0xFE00 <= hybrid.X25519MLKEM1024.code <= 0xFEFF, "the private-use range of RFC 8446, 4.2.7"


def test_both_sides_agree(group: hybrid.HybridGroup) -> None:
    initiator = hybrid.Initiator(group)
    share, secret = hybrid.respond(group, initiator.share)
    assert initiator.finish(share) == secret
    assert len(secret) == 64
    assert len(initiator.share) == KEM_PUBLIC_SIZE[group.level] + 32
    assert len(share) == KEM_CIPHERTEXT_SIZE[group.level] + 32
    assert hybrid.respond(group, initiator.share)[1] != secret


def test_ml_kem_comes_first_in_shares_and_secret() -> None:
    """Answered and checked with the bare primitives, as draft-ietf-tls-ecdhe-mlkem lays it out."""
    kem, dh = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    offer = kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()
    share, secret = hybrid.respond(hybrid.X25519MLKEM768, offer)
    agreed = dh.exchange(X25519PublicKey.from_public_bytes(share[1088:]))
    assert secret == kem.decapsulate(share[:1088]) + agreed


@pytest.mark.parametrize("size", [0, 1, 31, 32, -1, +1])
def test_wrong_sizes(group: hybrid.HybridGroup, size: int) -> None:
    initiator = hybrid.Initiator(group)
    share, _ = hybrid.respond(group, initiator.share)

    def resize(data: bytes) -> bytes:
        return data[:size] if size >= 0 and size != 1 else (data + b"\0" if size == 1 else data[:-1])

    with pytest.raises(BadPacket, match="key_share"):
        hybrid.respond(group, resize(initiator.share))
    with pytest.raises(BadPacket, match="key_share"):
        initiator.finish(resize(share))


def test_bad_public_keys(group: hybrid.HybridGroup) -> None:
    initiator = hybrid.Initiator(group)
    share, _ = hybrid.respond(group, initiator.share)
    for bad in (initiator.share[:-32] + bytes(32), b"\xff\xff\xff" + initiator.share[3:]):
        with pytest.raises(BadPacket, match="key_share"):
            hybrid.respond(group, bad)
    with pytest.raises(BadPacket, match="key_share"):
        initiator.finish(share[:-32] + bytes(32))


@pytest.mark.parametrize("half", ["ml-kem", "x25519"])
def test_either_half_changes_the_secret(group: hybrid.HybridGroup, half: str) -> None:
    initiator = hybrid.Initiator(group)
    share, secret = hybrid.respond(group, initiator.share)
    at = 0 if half == "ml-kem" else len(share) - 32
    changed = initiator.finish(share[:at] + bytes([share[at] ^ 1]) + share[at + 1 :])
    same, other = (changed[32:], changed[:32]) if half == "ml-kem" else (changed[:32], changed[32:])
    assert same == (secret[32:] if half == "ml-kem" else secret[:32])
    assert other != (secret[:32] if half == "ml-kem" else secret[32:])

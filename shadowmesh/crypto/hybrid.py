"""Hybrid key exchange: X25519 and ML-KEM, where the secret holds if either of them does.

Role: the two groups that TLS and the rekey use, as one round: the initiator sends a share, the responder
answers with a share, both get the same secret.  It does not derive keys (the caller's key schedule does),
and knows nothing of TLS messages.

Layout, both groups, as draft-ietf-tls-ecdhe-mlkem lays out X25519MLKEM768 (ML-KEM first everywhere):

    initiator share = ML-KEM encapsulation key || X25519 public key (32)
    responder share = ML-KEM ciphertext        || X25519 public key (32)
    secret          = ML-KEM secret (32)       || X25519 secret (32)

    group                code     level   initiator share   responder share
    X25519MLKEM768       0x11EC     768        1184 + 32         1088 + 32
    X25519MLKEM1024      0xFE4D    1024        1568 + 32         1568 + 32

0xFE4D is ours: IANA has no code point for X25519 with ML-KEM-1024, and 0xFE00-0xFEFF is left for private
use (RFC 8446, 4.2.7).  The concatenation is the combiner of the draft: TLS feeds it to HKDF-Extract with
both shares in the transcript; another user must bind the shares too.
"""

from __future__ import annotations

from dataclasses import dataclass

from shadowmesh.crypto.provider import (
    DEFAULT_PROVIDER,
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    X25519_SIZE,
    KemLevel,
    Provider,
)
from shadowmesh.errors import BadPacket


@dataclass(frozen=True, slots=True)
class HybridGroup:
    """One combination: TLS code point, name for people, ML-KEM level."""

    code: int
    name: str
    level: KemLevel


X25519MLKEM768 = HybridGroup(0x11EC, "X25519+ML-KEM-768", 768)
X25519MLKEM1024 = HybridGroup(0xFE4D, "X25519+ML-KEM-1024", 1024)
GROUPS: dict[int, HybridGroup] = {group.code: group for group in (X25519MLKEM1024, X25519MLKEM768)}


class Initiator:
    """The side that speaks first. Good for one `finish`; drop it afterwards, it holds the private keys."""

    def __init__(self, group: HybridGroup, provider: Provider = DEFAULT_PROVIDER) -> None:
        self._group = group
        self._kem = provider.kem_generate(group.level)
        self._dh = provider.x25519_generate()
        self.share = self._kem.public + self._dh.public

    def finish(self, share: bytes) -> bytes:
        """Return the 64-byte secret from the responder's share; `BadPacket("key_share")` if that is bad."""
        ciphertext, public = _split(share, KEM_CIPHERTEXT_SIZE[self._group.level])
        try:
            return self._kem.decapsulate(ciphertext) + self._dh.exchange(public)
        except ValueError:
            raise BadPacket("key_share") from None


def respond(group: HybridGroup, share: bytes, provider: Provider = DEFAULT_PROVIDER) -> tuple[bytes, bytes]:
    """Answer an initiator's share: (our share, the 64-byte secret); `BadPacket("key_share")` if it is bad."""
    encapsulation_key, public = _split(share, KEM_PUBLIC_SIZE[group.level])
    dh = provider.x25519_generate()
    try:
        agreed = dh.exchange(public)
        ciphertext, secret = provider.kem_encapsulate(group.level, encapsulation_key)
    except ValueError:
        raise BadPacket("key_share") from None
    return ciphertext + dh.public, secret + agreed


def _split(share: bytes, kem_size: int) -> tuple[bytes, bytes]:
    if len(share) != kem_size + X25519_SIZE:
        raise BadPacket("key_share")
    return share[:kem_size], share[kem_size:]

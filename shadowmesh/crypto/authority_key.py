"""The composite key of a network's authority: Ed25519 + ML-DSA-87, in memory and encrypted at rest.

At rest it is a line that names the network and two PKCS#8 keys, encrypted with a passphrase (PBES2 of RFC
8018: PBKDF2-HMAC-SHA256 and AES-256-CBC, what `cryptography` and OpenSSL choose), in the textual encoding
of RFC 7468. This module reads and writes no file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from shadowmesh.crypto.identity import ED25519_KEY_SIZE, MLDSA87_KEY_SIZE, CompositePublic
from shadowmesh.errors import IdentityError

NetworkId = bytes
"""SHA-256 over both public keys of an authority, 32 bytes; written like a NodeID."""

MIN_PASSPHRASE = 10
"""Bytes: the library's PBKDF2 has only 2048 rounds, so the passphrase has to be the strong part."""
_HEADING = "shadowmesh authority of "
_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n", re.DOTALL)


@dataclass(frozen=True)
class AuthorityPublic(CompositePublic):
    """What everybody may know of an authority."""

    @property
    def network_id(self) -> NetworkId:
        """SHA-256("shadowmesh network" || Ed25519 key || ML-DSA-87 key)."""
        if len(self.ed25519) != ED25519_KEY_SIZE or len(self.mldsa) != MLDSA87_KEY_SIZE:
            raise ValueError("an authority has 32 bytes of Ed25519 and 2592 bytes of ML-DSA-87 key")
        return hashlib.sha256(b"shadowmesh network" + self.ed25519 + self.mldsa).digest()


@dataclass(frozen=True, repr=False)
class AuthorityKey:
    """The private half. Never logged."""

    ed25519: Ed25519PrivateKey
    mldsa: MLDSA87PrivateKey

    @classmethod
    def generate(cls) -> AuthorityKey:
        """A new key in memory."""
        return cls(Ed25519PrivateKey.generate(), MLDSA87PrivateKey.generate())

    @property
    def public(self) -> AuthorityPublic:
        """The public half."""
        return AuthorityPublic(
            self.ed25519.public_key().public_bytes_raw(), self.mldsa.public_key().public_bytes_raw()
        )

    def sign_composite(self, data: bytes) -> bytes:
        """Ed25519 (64 bytes) and ML-DSA-87 signature (4627, empty context) over `data`, joined."""
        return self.ed25519.sign(data) + self.mldsa.sign(data)

    def encode(self, network: str, passphrase: bytes) -> bytes:
        """The encrypted text. Raises IdentityError for a passphrase that is too short."""
        if len(passphrase) < MIN_PASSPHRASE:
            text = f"the passphrase is too short: take at least {MIN_PASSPHRASE} characters"
            raise IdentityError(text, "authority.passphrase")
        blocks = [
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
            for key in (self.ed25519, self.mldsa)
        ]
        return f"{_HEADING}{network}\n".encode() + b"".join(blocks)

    @classmethod
    def decode(cls, data: bytes, passphrase: bytes) -> AuthorityKey:
        """Read what `encode` wrote. Raises IdentityError: damaged, or the passphrase is wrong."""
        text = data.decode("ascii", "replace")
        blocks = _PEM_BLOCK.findall(text)
        if not text.startswith(_HEADING) or len(blocks) != 2:
            raise IdentityError(
                "the authority's key is damaged; restore it from a backup", "authority.damaged"
            )
        try:
            ed25519, mldsa = (load_pem_private_key(block.encode(), passphrase) for block in blocks)
        except (ValueError, TypeError):
            text = "the authority's key does not open: is the passphrase right?"
            raise IdentityError(text, "authority.passphrase") from None
        if not isinstance(ed25519, Ed25519PrivateKey) or not isinstance(mldsa, MLDSA87PrivateKey):
            text = "the authority's keys must be Ed25519 and ML-DSA-87, in this order"
            raise IdentityError(text, "authority.damaged")
        return cls(ed25519, mldsa)

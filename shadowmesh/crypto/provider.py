"""The primitives that ShadowMesh needs, behind one interface, so that a second implementation can stand in.

Role: ML-KEM (FIPS 203), ML-DSA-87 (FIPS 204), X25519 (RFC 7748), Ed25519 (RFC 8032) as objects that take
and return raw bytes.  It does not combine them (`hybrid.py`), store keys (`identity.py`), or seal packets:
the AEAD of the data plane is libcrypto's, called from C.

Errors: wrong sizes, keys that the standards tell to refuse and all-zero X25519 results raise `ValueError`;
a signature that does not verify is `False`.  A ML-KEM ciphertext of the right size never fails: the
standard's implicit rejection gives an unrelated secret instead.
"""

from __future__ import annotations

from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KemLevel = Literal[768, 1024]

KEM_PUBLIC_SIZE: dict[KemLevel, int] = {768: 1184, 1024: 1568}
"""Encapsulation keys. Source: FIPS 203, table 3."""

KEM_CIPHERTEXT_SIZE: dict[KemLevel, int] = {768: 1088, 1024: 1568}
"""Ciphertexts. Source: FIPS 203, table 3."""

MLDSA_PUBLIC_SIZE = 2592
"""ML-DSA-87 public key. Source: FIPS 204, table 2."""

X25519_SIZE = 32


class KemKey(Protocol):
    """A ML-KEM decapsulation key, used once."""

    @property
    def public(self) -> bytes: ...

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte secret; `ValueError` for a wrong size."""


class AgreementKey(Protocol):
    """An X25519 private key, used once."""

    @property
    def public(self) -> bytes: ...

    def exchange(self, public: bytes) -> bytes:
        """Return the 32-byte secret; `ValueError` for a wrong size or an all-zero result (RFC 7748, 6.1)."""


class SigningKey(Protocol):
    """A private signing key."""

    @property
    def public(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


class Provider(Protocol):
    """One implementation of all primitives. `seed` is for stored keys and known answers; None = random."""

    def kem_generate(self, level: KemLevel, seed: bytes | None = None) -> KemKey:
        """Make a key; the seed is d then z of FIPS 203, 64 bytes."""

    def kem_encapsulate(self, level: KemLevel, public: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, 32-byte secret); `ValueError` for a key that FIPS 203, 7.2 refuses."""

    def mldsa_generate(self, seed: bytes | None = None) -> SigningKey:
        """Make a ML-DSA-87 key; the seed is xi of FIPS 204, 32 bytes. Signatures have an empty context."""

    def mldsa_verify(self, public: bytes, signature: bytes, message: bytes) -> bool: ...

    def x25519_generate(self, seed: bytes | None = None) -> AgreementKey: ...

    def ed25519_generate(self, seed: bytes | None = None) -> SigningKey: ...

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes) -> bool: ...


class _KemKey:
    def __init__(self, key: MLKEM768PrivateKey | MLKEM1024PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._key.decapsulate(ciphertext)


class _AgreementKey:
    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def exchange(self, public: bytes) -> bytes:
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        if not any(secret):  # OpenSSL refuses it too; this line keeps the promise with any backend
            raise ValueError("all-zero X25519 result")
        return secret


class _SigningKey:
    def __init__(self, key: MLDSA87PrivateKey | Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class CryptographyProvider:
    """The default: pyca/cryptography, that is OpenSSL."""

    def kem_generate(self, level: KemLevel, seed: bytes | None = None) -> KemKey:
        kind = MLKEM768PrivateKey if level == 768 else MLKEM1024PrivateKey
        return _KemKey(kind.generate() if seed is None else kind.from_seed_bytes(seed))

    def kem_encapsulate(self, level: KemLevel, public: bytes) -> tuple[bytes, bytes]:
        kind = MLKEM768PublicKey if level == 768 else MLKEM1024PublicKey
        secret, ciphertext = kind.from_public_bytes(public).encapsulate()
        return ciphertext, secret

    def mldsa_generate(self, seed: bytes | None = None) -> SigningKey:
        key = MLDSA87PrivateKey.generate() if seed is None else MLDSA87PrivateKey.from_seed_bytes(seed)
        return _SigningKey(key)

    def mldsa_verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        return _verifies(MLDSA87PublicKey.from_public_bytes(public), signature, message)

    def x25519_generate(self, seed: bytes | None = None) -> AgreementKey:
        key = X25519PrivateKey.generate() if seed is None else X25519PrivateKey.from_private_bytes(seed)
        return _AgreementKey(key)

    def ed25519_generate(self, seed: bytes | None = None) -> SigningKey:
        key = Ed25519PrivateKey.generate() if seed is None else Ed25519PrivateKey.from_private_bytes(seed)
        return _SigningKey(key)

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        return _verifies(Ed25519PublicKey.from_public_bytes(public), signature, message)


def _verifies(key: MLDSA87PublicKey | Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


DEFAULT_PROVIDER: Provider = CryptographyProvider()

"""The post-quantum primitives from liboqs, as a second implementation beside `cryptography`.

Role: ML-KEM and ML-DSA-87 through `liboqs-python` where the native liboqs is installed; X25519 and Ed25519
are inherited.  Import this module only after `find_native_library` gave a path: the package `oqs`
downloads and builds a liboqs on import when it finds none.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
from pathlib import Path
from typing import Any

from shadowmesh.crypto.provider import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    CryptographyProvider,
    KemKey,
    KemLevel,
    SigningKey,
)
from shadowmesh.errors import ConfigError

_SIGNATURE = "ML-DSA-87"


def find_native_library() -> str | None:
    """Return a native liboqs that loads, or None; does not import `oqs`.

    Looks where `oqs` does: the system's loader, then OQS_INSTALL_PATH, else ~/_oqs.
    """
    prefix = Path(os.environ.get("OQS_INSTALL_PATH") or Path.home() / "_oqs")
    for library in (ctypes.util.find_library("oqs"), prefix / "lib/liboqs.so", prefix / "lib64/liboqs.so"):
        if library is not None:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library))
                return str(library)
    return None


class LiboqsProvider(CryptographyProvider):
    """`Provider` with ML-KEM and ML-DSA-87 from liboqs; `ConfigError` where the library is missing."""

    def __init__(self) -> None:
        if find_native_library() is None:
            raise ConfigError(
                "liboqs is not installed: set OQS_INSTALL_PATH to where it is", "config.library"
            )
        import oqs

        self._oqs: Any = oqs

    def kem_generate(self, level: KemLevel, seed: bytes | None = None) -> KemKey:
        return _KemKey(self._oqs.KeyEncapsulation(f"ML-KEM-{level}"), KEM_CIPHERTEXT_SIZE[level], seed)

    def kem_encapsulate(self, level: KemLevel, public: bytes) -> tuple[bytes, bytes]:
        if len(public) != KEM_PUBLIC_SIZE[level]:
            raise ValueError("wrong size of a ML-KEM public key")
        with self._oqs.KeyEncapsulation(f"ML-KEM-{level}") as kem:
            try:
                ciphertext, secret = kem.encap_secret(public)
            except RuntimeError as error:
                raise ValueError("bad ML-KEM public key") from error
        return bytes(ciphertext), bytes(secret)

    def mldsa_generate(self, seed: bytes | None = None) -> SigningKey:
        if seed is not None:
            raise ValueError("liboqs makes no ML-DSA key from a seed")
        return _SigningKey(self._oqs.Signature(_SIGNATURE))

    def mldsa_verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        with self._oqs.Signature(_SIGNATURE) as verifier:
            return bool(verifier.verify(message, signature, public))


class _KemKey:
    def __init__(self, kem: Any, ciphertext_size: int, seed: bytes | None) -> None:
        self._kem = kem
        self._ciphertext_size = ciphertext_size
        self.public = bytes(kem.generate_keypair() if seed is None else kem.generate_keypair_seed(seed))

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != self._ciphertext_size:
            raise ValueError("wrong size of a ML-KEM ciphertext")
        return bytes(self._kem.decap_secret(ciphertext))


class _SigningKey:
    def __init__(self, signer: Any) -> None:
        self._signer = signer
        self.public = bytes(signer.generate_keypair())

    def sign(self, message: bytes) -> bytes:
        return bytes(self._signer.sign(message))

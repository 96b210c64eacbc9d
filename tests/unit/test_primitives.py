"""Known answers and refusals of the primitives, for every provider that is installed.

Vectors: the package `cryptography_vectors` (Apache-2.0 OR BSD-3-Clause), in the version of `cryptography`:
ML-KEM and ML-DSA known answers in NIST's format, RFC 7748, the Ed25519 authors' sign.input, RFC 5869.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from aioquic import tls
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shadowmesh.crypto import liboqs_provider
from shadowmesh.crypto.provider import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    MLDSA_PUBLIC_SIZE,
    CryptographyProvider,
    KemLevel,
    Provider,
)
from shadowmesh.errors import ConfigError

LEVELS: tuple[KemLevel, ...] = (768, 1024)


def _liboqs_missing() -> str:
    if liboqs_provider.find_native_library() is None:
        return "the native liboqs is not installed (set OQS_INSTALL_PATH to where it is)"
    try:
        import importlib.util

        return "" if importlib.util.find_spec("oqs") else "liboqs-python is not installed"
    except ImportError as error:
        return str(error)


LIBOQS_MISSING = _liboqs_missing()
needs_liboqs = pytest.mark.skipif(bool(LIBOQS_MISSING), reason=LIBOQS_MISSING or "present")
PROVIDERS = ["cryptography", pytest.param("liboqs", marks=needs_liboqs)]


def make(name: str) -> Provider:
    return CryptographyProvider() if name == "cryptography" else liboqs_provider.LiboqsProvider()


def vectors(path: str) -> Path:
    return Path(cryptography_vectors.__file__).parent / path


def records(path: str, limit: int) -> Iterator[dict[str, bytes]]:
    """Blocks of `name = hex` lines, each opened by a `count` line."""
    record: dict[str, bytes] = {}
    for line in vectors(path).read_text().splitlines():
        name, _, value = line.partition(" = ")
        if name.lower() == "count":
            if record:
                yield record
                limit -= 1
            record = {}
            if limit == 0:
                return
        elif value and not line.startswith("#") and name not in ("mlen", "smlen"):
            record[name] = bytes.fromhex(value.removeprefix("0x"))
    if record:
        yield record


# --- ML-KEM ---


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("level", LEVELS)
def test_ml_kem_known_answers(level: KemLevel, provider: str) -> None:
    """FIPS 203: keys from d and z, decapsulation of good and (implicit rejection) bad ciphertexts."""
    implementation, count = make(provider), 0
    for record in records(f"asymmetric/MLKEM/kat_MLKEM_{level}.rsp", 20):
        key = implementation.kem_generate(level, record["d"] + record["z"])
        assert key.public == record["pk"]
        assert key.decapsulate(record["ct"]) == record["ss"]
        assert key.decapsulate(record["ct_n"]) == record["ss_n"]
        count += 1
    assert count == 20


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("level", LEVELS)
def test_ml_kem_sizes_and_refusals(level: KemLevel, provider: str) -> None:
    implementation = make(provider)
    key = implementation.kem_generate(level)
    ciphertext, secret = implementation.kem_encapsulate(level, key.public)
    assert (len(key.public), len(ciphertext)) == (KEM_PUBLIC_SIZE[level], KEM_CIPHERTEXT_SIZE[level])
    assert key.decapsulate(ciphertext) == secret
    assert len(secret) == 32
    assert implementation.kem_generate(level).public != key.public
    for bad in (b"", key.public[:-1], key.public + b"\0"):
        with pytest.raises(ValueError):
            implementation.kem_encapsulate(level, bad)
    for bad in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(ValueError):
            key.decapsulate(bad)


@pytest.mark.parametrize("level", LEVELS)
def test_ml_kem_keys_outside_the_modulus_are_refused(level: KemLevel) -> None:
    """FIPS 203, 7.2: each coefficient must be below 3329; 0xFFF is not."""
    key = CryptographyProvider().kem_generate(level)
    with pytest.raises(ValueError):
        CryptographyProvider().kem_encapsulate(level, b"\xff\xff\xff" + key.public[3:])


# --- ML-DSA-87 ---


def test_ml_dsa_87_known_answers() -> None:
    """FIPS 204: public key from xi; the published signatures have a context, which ours never have."""
    provider, count = CryptographyProvider(), 0
    for record in records("asymmetric/MLDSA/kat_MLDSA_87_det_pure.rsp", 15):
        key = provider.mldsa_generate(record["xi"])
        assert key.public == record["pk"]
        message = record["msg"]
        signature = record["sm"][: len(record["sm"]) - len(message)]
        MLDSA87PublicKey.from_public_bytes(record["pk"]).verify(signature, message, record["ctx"])
        assert provider.mldsa_verify(key.public, signature, message) is (record["ctx"] == b"")
        count += 1
    assert count == 15


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ml_dsa_87_sign_and_verify(provider: str) -> None:
    implementation = make(provider)
    key = implementation.mldsa_generate()
    signature = key.sign(b"message")
    assert (len(key.public), len(signature)) == (MLDSA_PUBLIC_SIZE, 4627)
    assert implementation.mldsa_verify(key.public, signature, b"message")
    assert not implementation.mldsa_verify(key.public, signature, b"massage")
    assert not implementation.mldsa_verify(key.public, signature[:-1], b"message")
    assert not implementation.mldsa_verify(key.public, bytes([signature[0] ^ 1]) + signature[1:], b"message")
    other = implementation.mldsa_generate()
    assert not implementation.mldsa_verify(other.public, signature, b"message")


# --- both providers against each other ---


@needs_liboqs
@pytest.mark.parametrize("level", LEVELS)
def test_ml_kem_across_providers(level: KemLevel) -> None:
    ours, oqs = make("cryptography"), make("liboqs")
    seed = bytes(range(64))
    assert ours.kem_generate(level, seed).public == oqs.kem_generate(level, seed).public
    for holder, sender in ((ours, oqs), (oqs, ours)):
        key = holder.kem_generate(level)
        ciphertext, secret = sender.kem_encapsulate(level, key.public)
        assert key.decapsulate(ciphertext) == secret
    rejected = bytes(KEM_CIPHERTEXT_SIZE[level])
    assert ours.kem_generate(level, seed).decapsulate(rejected) == oqs.kem_generate(level, seed).decapsulate(
        rejected
    )


@needs_liboqs
def test_ml_dsa_across_providers() -> None:
    ours, oqs = make("cryptography"), make("liboqs")
    for signer, verifier in ((ours, oqs), (oqs, ours)):
        key = signer.mldsa_generate()
        signature = key.sign(b"message")
        assert verifier.mldsa_verify(key.public, signature, b"message")
        assert not verifier.mldsa_verify(key.public, signature, b"other")
    with pytest.raises(ValueError, match="seed"):
        oqs.mldsa_generate(bytes(32))


def test_a_missing_liboqs_is_said_without_importing_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs_provider, "find_native_library", lambda: None)
    with pytest.raises(ConfigError, match="OQS_INSTALL_PATH"):
        liboqs_provider.LiboqsProvider()


def test_a_file_that_is_no_library_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "liboqs.so").write_text("not a library")
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    assert liboqs_provider.find_native_library() is None


# --- X25519, Ed25519 ---


def test_x25519_known_answers() -> None:
    provider, count = CryptographyProvider(), 0
    for record in records("asymmetric/X25519/rfc7748.txt", 3):
        key = provider.x25519_generate(record["INPUT_SCALAR"])
        assert key.exchange(record["INPUT_U"]) == record["OUTPUT_U"]
        count += 1
    assert count == 3


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_x25519_points_of_small_order_are_refused(point: bytes) -> None:
    """RFC 7748, 6.1: they give the all-zero secret, whatever our key."""
    with pytest.raises(ValueError):
        CryptographyProvider().x25519_generate().exchange(point)


def test_ed25519_known_answers() -> None:
    provider, count = CryptographyProvider(), 0
    for line in vectors("asymmetric/Ed25519/sign.input").read_text().splitlines()[:64]:
        secret, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        key = provider.ed25519_generate(secret[:32])
        assert key.public == public
        assert key.sign(message) == signed[:64]
        assert provider.ed25519_verify(public, signed[:64], message)
        assert not provider.ed25519_verify(public, signed[:64], message + b"x")
        count += 1
    assert count == 64


# --- what TLS and the data plane build on ---


def test_chacha20_poly1305_known_answer() -> None:
    """RFC 8439, 2.8.2, through the same class that aioquic seals with."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    sealed = ChaCha20Poly1305(key).encrypt(nonce, plain, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed[:16] == bytes.fromhex("d31a8d34648e60db7b86afbc53ef7ec2")
    assert sealed[-16:] == bytes.fromhex("1ae10b594f09e26a7e902ecbd0600691")


def test_hkdf_known_answers() -> None:
    count = 0
    for record in _hkdf_records():
        length = int(record["L"])
        values = {name: bytes.fromhex(record.get(name, "")) for name in ("IKM", "salt", "info", "OKM")}
        derived = HKDF(hashes.SHA256(), length, values["salt"], values["info"]).derive(values["IKM"])
        assert derived == values["OKM"]
        count += 1
    assert count == 3


def _hkdf_records() -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for line in vectors("KDF/rfc-5869-HKDF-SHA256.txt").read_text().splitlines():
        name, _, value = (part.strip() for part in line.partition(" = "))
        if name == "COUNT":
            found.append({})
        elif value and not line.startswith("#") and found:
            found[-1][name] = value
    return found


def test_hkdf_expand_label_against_plain_hmac() -> None:
    """RFC 8446, 7.1: one block of HKDF-Expand is one HMAC."""
    secret, context = bytes(range(32)), hashlib.sha256(b"").digest()
    info = (32).to_bytes(2, "big") + b"\x0dtls13 derived" + bytes([32]) + context
    expected = hmac.new(secret, info + b"\x01", hashlib.sha256).digest()
    arguments: tuple[Any, ...] = (hashes.SHA256(), secret, b"derived", context, 32)
    assert tls.hkdf_expand_label(*arguments) == expected

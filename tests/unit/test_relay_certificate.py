"""Certificates for HTTP/3: which are taken, which are told to be none, and when a renewed one counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shadowmesh.errors import ConfigError
from shadowmesh.testing.web import write_certificate
from shadowmesh_relay.certificate import LOOK_EVERY, Certificate, credentials
from tests.unit.quic_pair import certify


def test_the_first_certificate_is_ours_and_the_others_are_its_chain(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "relay.test")
    other, _ = write_certificate(tmp_path / "other", "authority.test")
    certificate.write_bytes(certificate.read_bytes() + other.read_bytes())
    made = credentials(certificate, key)
    assert made.certificate.public_key() == made.key.public_key()
    assert [one.subject.rfc4514_string() for one in made.chain] == ["CN=authority.test"]
    assert "Key" not in repr(made)


def test_a_renewed_certificate_counts_within_15_s(tmp_path: Path) -> None:
    paths = write_certificate(tmp_path, "relay.test")
    made = Certificate(*paths, credentials)
    first = made.latest(1000.0)
    write_certificate(tmp_path, "relay.test")
    os.utime(paths[0], (1, 1))
    assert made.latest(1000.0 + LOOK_EVERY - 1) is first
    second = made.latest(1000.0 + LOOK_EVERY)
    assert second.certificate != first.certificate
    paths[1].write_text("this is none")
    os.utime(paths[1], (2, 2))
    assert made.latest(1000.0 + 2 * LOOK_EVERY) is second, "a bad one changes nothing"


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        ("missing", "No such file"),
        ("text", "can't be used for HTTP/3"),
        ("empty", "can't be used for HTTP/3"),
        ("another key", "they don't belong together"),
        ("ed25519", "ECDSA (P-256, P-384) and RSA only"),
        ("p-521", "ECDSA (P-256, P-384) and RSA only"),
        ("long chain", "is larger than 12288 bytes"),
    ],
)
def test_what_can_not_be_used_is_told(tmp_path: Path, break_it: str, problem: str) -> None:
    certificate, key = write_certificate(tmp_path, "relay.test")
    if break_it == "missing":
        certificate.unlink()
    elif break_it == "text":
        key.write_text("this is none")
    elif break_it == "empty":
        certificate.write_text("")
    elif break_it == "another key":
        key.write_bytes(write_certificate(tmp_path / "other", "relay.test")[1].read_bytes())
    elif break_it == "long chain":
        certificate.write_bytes(certificate.read_bytes() * 40)
    else:
        made = (
            ed25519.Ed25519PrivateKey.generate()
            if break_it == "ed25519"
            else ec.generate_private_key(ec.SECP521R1())
        )
        certificate.write_bytes(certify(made).public_bytes(Encoding.PEM))
        key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError) as told:
        credentials(certificate, key)
    assert problem in str(told.value)


def test_an_rsa_key_is_taken(tmp_path: Path) -> None:
    made = rsa.generate_private_key(65537, 2048)
    signer = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "c").write_bytes(certify(made, signer=signer).public_bytes(Encoding.PEM))
    (tmp_path / "k").write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert isinstance(credentials(tmp_path / "c", tmp_path / "k").key, rsa.RSAPrivateKey)

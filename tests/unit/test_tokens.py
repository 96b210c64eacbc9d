"""Admission tokens: their files, and the proof in HELLO."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from shadowmesh.crypto.token import proven_token, token_proof
from shadowmesh.errors import ConfigError
from shadowmesh.io.tokens import load_tokens

ONE, TWO = b"n2yq8rWcDk5VtGm1Zs0xEu7b", b"Q0j9aL4hTf6pXw3oRi8cYv2e"
NONCE, CLIENT, RELAY = b"\1" * 32, b"\2" * 32, b"\3" * 32


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_has_a_token_a_line(tmp_path: Path) -> None:
    text = f"# the new one\n{ONE.decode()}\n\n  {TWO.decode()}  \n"
    assert load_tokens(write(tmp_path / "t", text, 0o640)) == (ONE, TWO)


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (ONE.decode(), 0o644, "chmod 640"),
        ("short\n", 0o600, "t:1: a token has 20 to 512"),
        (f"{ONE.decode()}\n{'x' * 513}\n", 0o600, "t:2: a token"),
        ("# nothing\n", 0o600, "has 0 tokens"),
        ("ü" * 30, 0o600, "ASCII"),
        ("\n".join(f"{ONE.decode()}{n}" for n in range(65)), 0o600, "has 65 tokens"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_tokens(write(tmp_path / "t", text, mode))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_tokens(tmp_path / "t")


def test_the_proof_is_what_the_protocol_says() -> None:
    said = b"shadowmesh token" + NONCE + CLIENT + RELAY
    assert token_proof(ONE, NONCE, CLIENT, RELAY) == hmac.new(ONE, said, hashlib.sha256).digest()


def test_a_proof_holds_for_one_token_nonce_client_and_relay() -> None:
    proof = token_proof(TWO, NONCE, CLIENT, RELAY)
    assert proven_token((ONE, TWO), proof, NONCE, CLIENT, RELAY) == TWO
    assert not proven_token((ONE,), proof, NONCE, CLIENT, RELAY)
    assert not proven_token((), proof, NONCE, CLIENT, RELAY)
    for altered in ((CLIENT, CLIENT, RELAY), (NONCE, RELAY, RELAY), (NONCE, CLIENT, CLIENT)):
        assert not proven_token((ONE, TWO), proof, *altered)
    assert not proven_token((ONE, TWO), bytes(32), NONCE, CLIENT, RELAY)

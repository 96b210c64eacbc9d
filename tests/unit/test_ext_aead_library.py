"""A BoringSSL-class libcrypto in OpenSSL's place. Each case has its own process: it can't be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BORINGSSL = Path("/usr/lib/x86_64-linux-gnu/android/libcrypto.so.0")
"""Debian's package android-libboringssl, which `make` installs."""

TWINS = """
import random, sys
from shadowmesh._ext import aead
from shadowmesh.errors import BadPacket
from tests.reference import frame_packet
material = random.Random(1).randbytes(76)
before = aead.PacketKeys(material).seal(3, b"receiver", 9, b"sealed by OpenSSL")
aead.use_library(sys.argv[1])
assert "aead_library" in aead.implementation()
keys = aead.PacketKeys(material)
assert keys.open(3, before) == (9, b"sealed by OpenSSL")
for size in [*range(1, 300), 1395, 9000, 65478]:
    payload = random.Random(size).randbytes(size)
    sealed = keys.seal(7, b"receiver", size, payload)
    assert sealed == frame_packet.seal(material, 7, b"receiver", size, payload, 0x43), size
    assert keys.open(7, sealed) == (size, payload)
    altered = bytearray(sealed)
    altered[-1 - size % 16] ^= 1
    try:
        keys.open(7, bytes(altered))
    except BadPacket as error:
        assert error.reason == "authentication"
    else:
        raise AssertionError("an altered packet was opened")
keys.wipe()
try:
    aead.use_library(sys.argv[1])
except ValueError:
    print("good")
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not BORINGSSL.exists(), reason="Debian's android-libboringssl is not installed")
def test_seals_and_opens_as_openssl_does() -> None:
    done = run(TWINS, str(BORINGSSL))
    assert done.stdout == "good\n", done.stderr


@pytest.mark.parametrize(
    ("path", "text"), [("/nowhere/libcrypto.so", "No such file"), ("libc.so.6", "no BoringSSL")]
)
def test_what_is_no_such_library_is_refused_and_changes_nothing(path: str, text: str) -> None:
    script = """
import sys
from shadowmesh._ext import aead
try:
    aead.use_library(sys.argv[1])
except ValueError as error:
    print(error)
assert aead.implementation() == "OpenSSL"
assert aead.check_roads()
"""
    done = run(script, path)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout

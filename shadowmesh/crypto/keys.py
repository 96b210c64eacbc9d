"""Key schedule of the data plane: from a TLS exporter secret to what seals frame packets.

    exporter secret -> root of epoch 0
    root, and what a rekey agreed -> root of the next epoch
    root of an epoch -> for each direction: key (32) || IV (12) || header key (32)
    root of epoch 0, at a relay -> pre-shared key of the session that resumes this one

Labels and sizes stand in docs/protocol.md, section 5.  Secrets live in bytearrays, so that whoever
used them can wipe them.  Nothing here touches the network.
"""

from __future__ import annotations

import enum
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ROOT_SIZE = 32
MATERIAL_SIZE = 32 + 12 + 32
"""ChaCha20-Poly1305 key and IV (RFC 8439), AES-256 header key (RFC 9001 section 5.4.3)."""

EXPORTER_PROOF = b"EXPORTER-shadowmesh proof"
EXPORTER_CONFIRM = b"EXPORTER-shadowmesh confirm"
EXPORTER_ROOT = b"EXPORTER-shadowmesh root"
"""Labels of the three TLS exporter secrets (RFC 8446 section 7.5), 32 bytes each, empty context."""


class Direction(enum.Enum):
    """Who seals: the side that opened the session (its QUIC client), or the other."""

    INITIATOR = b"initiator"
    RESPONDER = b"responder"

    @property
    def other(self) -> Direction:
        """The other side's."""
        return Direction.RESPONDER if self is Direction.INITIATOR else Direction.INITIATOR


def frame_keys(root: bytes | bytearray, epoch: int, direction: Direction) -> bytearray:
    """The 76 bytes of key material of one direction of one epoch: key || IV || header key.

    HKDF-Expand (RFC 5869) with info = "shadowmesh/1 frames " || direction || be32(epoch).
    """
    if len(root) != ROOT_SIZE:
        raise ValueError("the root of an epoch has 32 bytes")
    info = b"shadowmesh/1 frames " + direction.value + epoch.to_bytes(4, "big")
    return bytearray(HKDFExpand(hashes.SHA256(), MATERIAL_SIZE, info).derive(bytes(root)))


def resumption_secret(root: bytes | bytearray, initiator: bytes, responder: bytes) -> bytes:
    """The 32-byte pre-shared key by which `initiator` resumes a session with `responder` (NodeIDs).

    HKDF-Expand (RFC 5869) of the root of epoch 0 with info = "shadowmesh/1 resume " || both NodeIDs.
    """
    info = b"shadowmesh/1 resume " + initiator + responder
    return HKDFExpand(hashes.SHA256(), ROOT_SIZE, info).derive(bytes(root))


def next_root(root: bytearray, secret: bytes, transcript: bytes) -> bytearray:
    """The 32-byte root of the next epoch: HKDF-Extract (RFC 5869) with the old root as its salt.

    :param secret: what X25519+ML-KEM-1024 agreed, 64 bytes.
    :param transcript: SHA-256 over both messages of the rekey, 32 bytes.
    """
    return bytearray(hmac.digest(root, secret + transcript, "sha256"))


def wipe(secret: bytearray) -> None:
    """Overwrite a secret that is no longer needed."""
    secret[:] = bytes(len(secret))

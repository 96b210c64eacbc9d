"""What an authority signs: a body in MessagePack, and both signatures of its composite key over it.

     0      1         2            4
     +------+---------+------------+-----------------+--------------+-----------------+
     | kind | version | size (2)   | body (size)     | Ed25519 (64) | ML-DSA-87 (4627)|
     +------+---------+------------+-----------------+--------------+-----------------+

The signatures are over "shadowmesh document" and everything before them; the fingerprint is the SHA-256 of
the same bytes, so that no other encoding of a signature gives a document another name.  Sizes are bounded
before anything is decoded.  This module does not know what a body means, and reads no file: it only writes
documents as text (RFC 7468) and takes such text apart.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

import msgspec

from shadowmesh.crypto.identity import CompositePublic
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.values import parse_name

VERSION = 1
HEADER_SIZE = 4
SIGNATURE_SIZE = 64 + 4627
"""Ed25519 (RFC 8032) and ML-DSA-87 (FIPS 204, table 2)."""
_LABEL = b"shadowmesh document"


class Kind(enum.IntEnum):
    """First byte of a document."""

    NETWORK = 1
    CERTIFICATE = 2
    REVOCATIONS = 3
    DELEGATION = 4
    ROTATION = 5


MAX_BODY: dict[Kind, int] = {
    Kind.NETWORK: 8192,
    Kind.CERTIFICATE: 3072,
    Kind.REVOCATIONS: 49152,
    Kind.DELEGATION: 8192,
    Kind.ROTATION: 6144,
}
"""Bytes. A certificate with its delegation, and with its basis where that grants nothing, has to fit HELLO
(24,576) beside 700 bytes of it, a revocation list a message (65,536)."""
BASIS_TITLE = "SHADOWMESH BASIS"
"""Of a certificate in the file of one that was renewed from it."""
_TITLES = {
    Kind.NETWORK: "SHADOWMESH NETWORK",
    Kind.CERTIFICATE: "SHADOWMESH CERTIFICATE",
    Kind.REVOCATIONS: "SHADOWMESH REVOCATION LIST",
    Kind.DELEGATION: "SHADOWMESH DELEGATION",
    Kind.ROTATION: "SHADOWMESH ROTATION",
}

Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
"""Since 1970, UTC."""
Text = Annotated[str, msgspec.Meta(max_length=100)]
Critical = Annotated[list[Text], msgspec.Meta(max_length=16)]
"""Names of extensions without which a body must not be used."""
T = TypeVar("T", bound=msgspec.Struct)
D = TypeVar("D")
"""A document taken apart."""


def max_size(kind: Kind) -> int:
    """Bytes of the largest document of this kind."""
    return HEADER_SIZE + MAX_BODY[kind] + SIGNATURE_SIZE


class Signer(Protocol):
    """The private half of a composite key: of an authority, or of a node."""

    def sign_composite(self, data: bytes) -> bytes: ...


@dataclass(frozen=True)
class Signed:
    """A document whose signatures nobody has checked yet."""

    kind: Kind
    body: bytes
    signature: bytes

    @classmethod
    def make(cls, kind: Kind, body: msgspec.Struct, key: Signer) -> Signed:
        """Sign a body. Raises ValueError if it is larger than anybody would take."""
        encoded = msgspec.msgpack.encode(body)
        if len(encoded) > MAX_BODY[kind]:
            raise ValueError(f"it takes {len(encoded)} bytes, {MAX_BODY[kind]} is the limit")
        return cls(kind, encoded, key.sign_composite(_LABEL + _header(kind, encoded) + encoded))

    @classmethod
    def parse_untrusted(cls, data: bytes, kind: Kind) -> Signed:
        """Take a document apart. Raises BadPacket("malformed_document")."""
        if not HEADER_SIZE + SIGNATURE_SIZE < len(data) <= max_size(kind):
            raise BadPacket("malformed_document")
        body, signature = data[HEADER_SIZE:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
        if data[:HEADER_SIZE] != _header(kind, body):
            raise BadPacket("malformed_document")
        return cls(kind, body, signature)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over what is signed, 32 bytes."""
        return hashlib.sha256(self.content).digest()

    def verify(self, signer: CompositePublic) -> None:
        """Raises NotMember("forged") unless both signatures hold."""
        if not signer.verifies(self.signature, self.content):
            raise NotMember("forged", "the authority of this network has not signed it")

    def encode(self) -> bytes:
        """All its bytes."""
        return _header(self.kind, self.body) + self.body + self.signature

    @property
    def content(self) -> bytes:
        """What the signatures are over."""
        return _LABEL + _header(self.kind, self.body) + self.body


def decode_body(signed: Signed, struct: type[T]) -> T:
    """The body; unknown fields are ignored. Raises BadPacket("malformed_document")."""
    try:
        return msgspec.msgpack.decode(signed.body, type=struct)
    except UNDECODABLE:
        raise BadPacket("malformed_document") from None


def sign_and_read(
    kind: Kind, body: msgspec.Struct, key: Signer, read: Callable[[bytes], D], problem: str
) -> D:
    """A new document as `read` takes it apart. Raises ValueError if it is too large, or with `problem`."""
    data = Signed.make(kind, body, key).encode()
    try:
        return read(data)
    except BadPacket:
        raise ValueError(problem) from None


def check_names(*names: str) -> None:
    """Of nodes, groups and rights. Raises BadPacket("malformed_document")."""
    try:
        for name in names:
            parse_name(name)
    except ValueError:
        raise BadPacket("malformed_document") from None


def refuse_critical(critical: list[str]) -> None:
    """Raises NotMember("unknown_critical"): this release knows no extension."""
    if critical:
        raise NotMember("unknown_critical", f"it demands what this release does not know: {sorted(critical)}")


def to_text(data: bytes, kind: Kind, heading: str = "", title: str = "") -> str:
    """The document as text; `heading` stands before it, for people. `title` replaces that of its kind."""
    title, lines = title or _TITLES[kind], base64.encodebytes(data).decode()
    # encodebytes breaks at 76 characters, RFC 7468 wants 64.
    flat = lines.replace("\n", "")
    wrapped = "\n".join(flat[start : start + 64] for start in range(0, len(flat), 64))
    return f"{heading}\n-----BEGIN {title}-----\n{wrapped}\n-----END {title}-----\n".lstrip("\n")


def from_text(text: str, kind: Kind, title: str = "") -> bytes:
    """The bytes of the one document of this kind, or with this `title`, in a text. Raises ValueError."""
    title = title or _TITLES[kind]
    found = re.findall(f"-----BEGIN {title}-----\n(.+?)\n-----END {title}-----", text, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"it must hold one {title.lower()}, not {len(found)}")
    try:
        return base64.b64decode(found[0].replace("\n", ""), validate=True)
    except binascii.Error:
        raise ValueError(f"its {title.lower()} is damaged") from None


def _header(kind: Kind, body: bytes) -> bytes:
    return bytes((kind, VERSION)) + len(body).to_bytes(2, "big")

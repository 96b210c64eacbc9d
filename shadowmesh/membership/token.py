"""The token of an invitation: one line that a person pastes on the machine that is to join.

    smesh1 | base32, lower case (RFC 4648, no padding) of

     0          2             34            66           98          130
     +----------+-------------+-------------+------------+-----------+-----------------+-----------+
     | size (2) | network (32)| inviter (32)| relay (32) | secret(32)| relay addresses | CRC-32 (4)|
     +----------+-------------+-------------+------------+-----------+-----------------+-----------+

Size counts all bytes, so that a paste that was cut is told from one that was changed.  The addresses are the
relay's, and behind a space that where it takes TCP, if it does.  The secret is
never sent: relays know the invitation by an id that is derived from it, and joiner and inviter prove it to
each other by a MAC (`docs/protocol.md`, section 9.4).  A token is as secret as
what it opens; it is never logged.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from shadowmesh.crypto.authority_key import NetworkId
from shadowmesh.units import NodeId
from shadowmesh.values import parse_host_port

PREFIX = "smesh1"
SECRET_SIZE = 32
ID_SIZE = 32
KEY_SIZE = 32
PROOF_SIZE = 32
_FIXED = 2 + 4 * 32
_CHECKSUM = 4
_ID_LABEL = b"shadowmesh/1 invitation id"
_KEY_LABEL = b"shadowmesh/1 invitation key"
_PROOF_LABEL = b"shadowmesh/1 join "


class BadToken(ValueError):
    """A text that is no token; says what is wrong with it, and shows nothing of it."""


@dataclass(frozen=True)
class Token:
    """What the joining machine needs to know."""

    network: NetworkId
    inviter: NodeId
    relay: NodeId
    address: str
    """`host:port` of the relay."""
    secret: bytes = field(repr=False)
    tcp: str = ""
    """`host:port` where it takes WebSockets over TLS; empty if the token names none."""

    @property
    def id(self) -> bytes:
        """What relays know the invitation by, 32 bytes."""
        return HKDFExpand(hashes.SHA256(), ID_SIZE, _ID_LABEL).derive(self.secret)

    @property
    def key(self) -> bytes:
        """Key of the proofs, 32 bytes: all that the inviter keeps of the secret."""
        return HKDFExpand(hashes.SHA256(), KEY_SIZE, _KEY_LABEL).derive(self.secret)

    def encode(self) -> str:
        """The line."""
        addresses = f"{self.address} {self.tcp}".rstrip().encode("ascii")
        size = _FIXED + len(addresses) + _CHECKSUM
        body = size.to_bytes(2, "big") + self.network + self.inviter + self.relay + self.secret + addresses
        whole = body + zlib.crc32(body).to_bytes(_CHECKSUM, "big")
        return PREFIX + base64.b32encode(whole).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read the line; white space anywhere and upper case are no harm. Raises BadToken."""
        text = "".join(text.split()).lower()
        if not text.startswith(PREFIX):
            another = re.match(r"smesh\d+", text)
            told = f"it begins with {another[0]}" if another else f"a token begins with {PREFIX}"
            raise BadToken(f"this is no token of this release: {told}")
        data = _decode(text.removeprefix(PREFIX))
        size = int.from_bytes(data[:2], "big")
        if len(data) < max(size, _FIXED + _CHECKSUM):
            raise BadToken("the token is cut off: paste all of its one line")
        checksum = zlib.crc32(data[:-_CHECKSUM]).to_bytes(_CHECKSUM, "big")
        if len(data) != size or data[-_CHECKSUM:] != checksum:
            raise BadToken("the token is damaged: its checksum does not fit; copy it again")
        network, inviter, relay, secret = (data[start : start + 32] for start in range(2, _FIXED, 32))
        try:
            address, *tcp = data[_FIXED:-_CHECKSUM].decode("ascii").split(" ", 1)
            for one in (address, *tcp):
                parse_host_port(one)
        except ValueError:
            raise BadToken("the token names no address of a relay; ask for another") from None
        return cls(network, inviter, relay, address, secret, *tcp)


def proof(key: bytes, role: bytes, binding: bytes) -> bytes:
    """HMAC-SHA256 that `role` ("joiner" or "inviter") knows the secret, in the session with this binding."""
    mac = HMAC(key, hashes.SHA256())
    mac.update(_PROOF_LABEL + role + binding)
    return mac.finalize()


def proves(shown: bytes, key: bytes, role: bytes, binding: bytes) -> bool:
    """Whether `shown` is that proof; takes the same time for every wrong one."""
    mac = HMAC(key, hashes.SHA256())
    mac.update(_PROOF_LABEL + role + binding)
    try:
        mac.verify(shown)
    except InvalidSignature:
        return False
    return True


def _decode(text: str) -> bytes:
    # A text cut at any character: what is left of the last byte is dropped, and the size shows the cut.
    whole = text[: len(text) - (1 if len(text) % 8 in (1, 3, 6) else 0)].upper()
    try:
        return base64.b32decode(whole + "=" * (-len(whole) % 8))
    except (binascii.Error, ValueError):
        raise BadToken("the token is damaged: it has characters that no token has; copy it again") from None

"""Composite identity of a node: Ed25519 + ML-DSA-87, on disk and in memory.

A node is named by NodeID = SHA-256("shadowmesh node" || Ed25519 key (32) || ML-DSA-87 key (2592)),
all 32 bytes, written as 52 base32 characters.  This module makes, stores and loads the two private
keys and the self-signed certificate that TLS shows.  A composite signature is one of each key, joined,
and holds only if both do.

On disk: one file `identity.pem` (0600) in the state directory (0700): a line that names the node,
two PKCS#8 keys and one certificate, all in the textual encoding of RFC 7468.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from shadowmesh.crypto.provider import DEFAULT_PROVIDER
from shadowmesh.errors import IdentityError
from shadowmesh.units import NodeId

IDENTITY_FILE = "identity.pem"
ED25519_KEY_SIZE = 32
ED25519_SIGNATURE_SIZE = 64
MLDSA87_KEY_SIZE = 2592
"""FIPS 204, table 2."""
_HEADING = "shadowmesh identity of "
_MAX_FILE_SIZE = 65536
_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n", re.DOTALL)


@dataclass(frozen=True)
class CompositePublic:
    """What everybody may know of a composite key: the Ed25519 (32) and the ML-DSA-87 key (2592)."""

    ed25519: bytes
    mldsa: bytes

    @property
    def node_id(self) -> NodeId:
        """Of the node whose identity this is."""
        return node_id_of(self.ed25519, self.mldsa)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether both halves of a composite signature hold over `data`."""
        return composite_verifies(self.ed25519, self.mldsa, signature, data)


@dataclass(frozen=True, repr=False)
class Identity:
    """The private half of a node. Never logged: `repr` shows the NodeID alone."""

    name: str
    node_id: NodeId
    ed25519: Ed25519PrivateKey
    mldsa: MLDSA87PrivateKey
    certificate: x509.Certificate

    @classmethod
    def generate(cls, name: str) -> Identity:
        """A new identity in memory; `create` is what keeps one."""
        ed25519, mldsa = Ed25519PrivateKey.generate(), MLDSA87PrivateKey.generate()
        return cls._of(name, ed25519, mldsa, _self_signed(mldsa))

    @classmethod
    def _of(
        cls, name: str, ed25519: Ed25519PrivateKey, mldsa: MLDSA87PrivateKey, certificate: x509.Certificate
    ) -> Identity:
        node_id = node_id_of(ed25519.public_key().public_bytes_raw(), mldsa.public_key().public_bytes_raw())
        return cls(name, node_id, ed25519, mldsa, certificate)

    @property
    def ed25519_public(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return self.ed25519.public_key().public_bytes_raw()

    @property
    def public(self) -> CompositePublic:
        """Both public keys."""
        return CompositePublic(self.ed25519_public, self.mldsa.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature (64 bytes) over `data`. Source: RFC 8032."""
        return self.ed25519.sign(data)

    def sign_composite(self, data: bytes) -> bytes:
        """Ed25519 (64 bytes) and ML-DSA-87 signature (4627, empty context) over `data`, joined."""
        return self.ed25519.sign(data) + self.mldsa.sign(data)

    def __repr__(self) -> str:
        return f"<Identity {self.name} {node_id_text(self.node_id)}>"


def node_id_of(ed25519_public: bytes, mldsa_public: bytes) -> NodeId:
    """NodeID of a pair of raw public keys (32 and 2592 bytes)."""
    if len(ed25519_public) != ED25519_KEY_SIZE or len(mldsa_public) != MLDSA87_KEY_SIZE:
        raise ValueError("a NodeID is made from 32 bytes of Ed25519 and 2592 bytes of ML-DSA-87 key")
    return hashlib.sha256(b"shadowmesh node" + ed25519_public + mldsa_public).digest()


def composite_verifies(ed25519_public: bytes, mldsa_public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether both halves of a composite signature hold over `data`."""
    ed25519, mldsa = signature[:ED25519_SIGNATURE_SIZE], signature[ED25519_SIGNATURE_SIZE:]
    return DEFAULT_PROVIDER.ed25519_verify(ed25519_public, ed25519, data) and (
        DEFAULT_PROVIDER.mldsa_verify(mldsa_public, mldsa, data)
    )


def node_id_text(node_id: NodeId) -> str:
    """The 52 lower-case base32 characters (RFC 4648, no padding) that people copy."""
    return base64.b32encode(node_id).decode().rstrip("=").lower()


def create(state_dir: Path, name: str) -> Identity:
    """Make and keep an identity in `state_dir`; one that is there already is loaded, never replaced."""
    if exists(state_dir):
        return load(state_dir)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_once(state_dir / IDENTITY_FILE, _encode(Identity.generate(name)))
    except OSError as error:
        raise IdentityError(
            f"can't keep an identity in {state_dir}: {_why(error)}", "identity.folder"
        ) from error
    return load(state_dir)


def exists(state_dir: Path) -> bool:
    """Whether `state_dir` holds an identity, sound or not. Raises IdentityError if that can't be seen."""
    try:
        (state_dir / IDENTITY_FILE).stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IdentityError(f"can't look into {state_dir}: {_why(error)}", "identity.folder") from error
    return True


def load(state_dir: Path) -> Identity:
    """The identity kept in `state_dir`. Refuses keys that others can read, and says how to mend it."""
    path = state_dir / IDENTITY_FILE
    if not exists(state_dir):
        text = f"there is no identity in {state_dir}; make one with the verb init"
        raise IdentityError(text, "identity.missing")
    try:
        check_private(state_dir, 0o022, "changed by others, so the identity in it could be swapped", "700")
        check_private(path, 0o077, "read by others, so its keys may be known", "600")
        data = path.read_bytes()[:_MAX_FILE_SIZE]
    except OSError as error:
        raise IdentityError(f"can't read {path}: {_why(error)}") from error
    try:
        return _decode(data)
    except ValueError as error:
        raise IdentityError(f"{path} is damaged ({error}); restore it from a backup") from error


def _why(error: OSError) -> str:
    remedy = "; run it with sudo" if isinstance(error, PermissionError) and os.geteuid() else ""
    return f"{error.strerror}{remedy}"


def check_private(path: Path, forbidden: int, danger: str, mode: str) -> None:
    """Raises IdentityError if `path` has a mode bit of `forbidden`, or is another user's."""
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise IdentityError(f"{path} can be {danger}; run: chmod {mode} {path}", "identity.mode")
    if status.st_uid not in (0, os.geteuid()):
        text = f"{path} belongs to another user; run: chown {os.geteuid()} {path}"
        raise IdentityError(text, "identity.owner")


def write_once(target: Path, data: bytes) -> None:
    """Write all of `data` under a name that did not exist, or nothing: link(2) never replaces."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, target)
    finally:
        os.unlink(draft)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encode(identity: Identity) -> bytes:
    keys = [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for key in (identity.ed25519, identity.mldsa)
    ]
    heading = f"{_HEADING}{identity.name}\n".encode()
    return heading + b"".join(keys) + identity.certificate.public_bytes(Encoding.PEM)


def _decode(data: bytes) -> Identity:
    if not data.isascii():
        raise ValueError("it is not text")
    heading, _, body = data.decode().partition("\n")
    if not heading.startswith(_HEADING):
        raise ValueError("its first line does not name a node")
    blocks = [block.encode() for block in _PEM_BLOCK.findall(body)]
    if len(blocks) != 3:
        raise ValueError("it must hold two keys and one certificate")
    with _named("first key"):
        ed25519 = load_pem_private_key(blocks[0], None)
    with _named("second key"):
        mldsa = load_pem_private_key(blocks[1], None)
    with _named("certificate"):
        certificate = x509.load_pem_x509_certificate(blocks[2])
    if not isinstance(ed25519, Ed25519PrivateKey) or not isinstance(mldsa, MLDSA87PrivateKey):
        raise ValueError("its keys must be Ed25519 and ML-DSA-87, in this order")
    with _named("certificate"):
        shown = certificate.public_key()
    if not isinstance(shown, MLDSA87PublicKey) or shown != mldsa.public_key():
        raise ValueError("its certificate is not of its ML-DSA-87 key")
    return Identity._of(heading.removeprefix(_HEADING), ed25519, mldsa, certificate)


@contextlib.contextmanager
def _named(part: str) -> Iterator[None]:
    """What the library says about broken encodings helps nobody who holds a broken file."""
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"its {part} can't be read") from None


def _self_signed(key: MLDSA87PrivateKey) -> x509.Certificate:
    """The certificate that carries the ML-DSA key in TLS: constant in all but the key, never expiring."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shadowmesh")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(dt.datetime(2020, 1, 1))
    # RFC 5280 section 4.1.2.5: 99991231235959Z means "no expiry"; NodeIDs are pinned, not dated.
    builder = builder.not_valid_after(dt.datetime(9999, 12, 31, 23, 59, 59))
    return builder.sign(key, None)

"""Signed documents of a network in files: read, check, replace. Knows nothing of sessions."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import textwrap
from pathlib import Path

from shadowmesh.crypto.identity import ED25519_KEY_SIZE, CompositePublic, node_id_of, node_id_text
from shadowmesh.errors import BadPacket, ConfigError, NotMember
from shadowmesh.membership.delegation import Credentials, Delegation
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList
from shadowmesh.membership.signed import BASIS_TITLE, Kind, from_text, to_text

_PUBLIC = "SHADOWMESH PUBLIC KEYS"
_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}")
"""As `replace_file` and all others call the file that takes another's place once it is whole."""
MAX_FILE = 262_144
"""Bytes: a network and the largest revocation list, as text, take 90,000."""


def load_network(path: Path) -> tuple[Network, RevocationList | None]:
    """What `network export` wrote: the network, and the newest list if there was one. Raises ConfigError."""
    text = _read(path)
    try:
        network = Network.parse_untrusted(from_text(text, Kind.NETWORK))
        if "REVOCATION LIST" not in text:
            return network, None
        return network, RevocationList.parse_untrusted(from_text(text, Kind.REVOCATIONS), network)
    except (ValueError, NotMember, BadPacket) as error:
        raise ConfigError(f"{path}: is no public part of a network: {_why(error)}", "network.file") from None


def find_network(path: Path) -> Network | None:
    """The network in a file that need not have one. Raises ConfigError."""
    return load_network(path)[0] if "BEGIN SHADOWMESH NETWORK" in _read(path) else None


def network_text(network: Network) -> str:
    """The public part as text."""
    heading = f"network {network.name}, id {node_id_text(network.id)}"
    return to_text(network.document, Kind.NETWORK, heading)


def load_list(path: Path, network: Network) -> RevocationList:
    """A revocation list, or what `network export` wrote with one in it. Raises ConfigError."""
    try:
        return RevocationList.parse_untrusted(from_text(_read(path), Kind.REVOCATIONS), network)
    except (ValueError, NotMember, BadPacket) as error:
        text = f"{path}: is no revocation list of {network.name}: {_why(error)}"
        raise ConfigError(text, "network.list") from error


def load_credentials(path: Path) -> Credentials:
    """What `network sign` or `credentials_text` wrote; nobody has checked it yet. Raises ConfigError."""
    text = _read(path)
    delegated, renewed = "SHADOWMESH DELEGATION" in text, BASIS_TITLE in text
    try:
        return Credentials.parse_untrusted(
            from_text(text, Kind.CERTIFICATE),
            from_text(text, Kind.DELEGATION) if delegated else b"",
            from_text(text, Kind.CERTIFICATE, BASIS_TITLE) if renewed else b"",
        )
    except (ValueError, BadPacket) as error:
        raise ConfigError(f"{path}: is no certificate: {_why(error)}", "network.certificate") from None


def credentials_text(credentials: Credentials, network: str) -> str:
    """A certificate and what it rests on, for the file that `load_credentials` reads."""
    certificate, delegation, basis = credentials.documents
    heading = f"certificate of {credentials.certificate.body.name} in {network}"
    text = to_text(certificate, Kind.CERTIFICATE, heading)
    if delegation:
        text += to_text(delegation, Kind.DELEGATION)
    if basis:
        text += to_text(basis, Kind.CERTIFICATE, title=BASIS_TITLE)
    return text


def load_delegation(path: Path) -> Delegation:
    """What `network delegate` wrote; nobody has checked it yet. Raises ConfigError."""
    try:
        return Delegation.parse_untrusted(from_text(_read(path), Kind.DELEGATION))
    except (ValueError, BadPacket) as error:
        raise ConfigError(f"{path}: is no delegation: {_why(error)}", "network.delegation") from None


def public_text(public: CompositePublic, name: str) -> str:
    """Both public keys of a node, for the authority: what a delegation names."""
    body = textwrap.fill(base64.b64encode(public.ed25519 + public.mldsa).decode(), 64)
    heading = f"public keys of {name}, NodeID {node_id_text(public.node_id)}"
    return f"{heading}\n-----BEGIN {_PUBLIC}-----\n{body}\n-----END {_PUBLIC}-----\n"


def load_public(path: Path) -> CompositePublic:
    """What `public_text` wrote. Raises ConfigError."""
    found = re.findall(f"-----BEGIN {_PUBLIC}-----\n(.+?)-----END {_PUBLIC}-----", _read(path), re.DOTALL)
    try:
        data = base64.b64decode("".join(found[0].split()), validate=True) if len(found) == 1 else b""
        public = CompositePublic(data[:ED25519_KEY_SIZE], data[ED25519_KEY_SIZE:])
        node_id_of(public.ed25519, public.mldsa)
    except ValueError:
        text = "holds no public keys of a node; `shadowmesh-client id --public` there prints them"
        raise ConfigError(f"{path}: {text}", "network.public-keys") from None
    return public


def replace_file(path: Path, data: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Put `data` at `path` so that a crash leaves the old or the new content, on disk. Raises OSError.

    :param owner: user and group that the file shall have, and exactly `mode` then, whatever the umask says.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            if owner is not None:
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_drafts(folder: Path) -> None:
    """Remove what a crash left of files that were being replaced; nobody else may be writing there."""
    for path in folder.iterdir():
        if _DRAFT.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", "config.unreadable") from error
    if len(data) > MAX_FILE or not data.isascii():
        raise ConfigError(f"{path}: is no text of a network; is it the right file?", "network.file")
    return data.decode()


def _why(error: Exception) -> str:
    return "it is damaged" if isinstance(error, BadPacket) else str(error)

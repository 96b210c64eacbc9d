"""What a machine has that became a member: the network's public part, its certificate, a client.yaml.

The configuration comes last: where it is, everything that it names is.  One that exists is never replaced.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from shadowmesh.config import DEFAULT_SOCKET, DEFAULT_STATE_DIR
from shadowmesh.crypto.identity import node_id_text, write_once
from shadowmesh.errors import ConfigError
from shadowmesh.io.documents import credentials_text, replace_file
from shadowmesh.membership.invitations import Admitted
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.membership.token import Token


def require_room(config: Path) -> None:
    """Make the folder; raises ConfigError if `config` exists, or can't be written: before a token is used."""
    if config.exists():
        text = "exists already, and is never replaced; remove it, or give -c another file"
        raise ConfigError(f"{config}: {text}", "join.configured")
    try:
        config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        text = f"{config.parent}: can't be made: {error.strerror}; run it with sudo"
        raise ConfigError(text, "join.folder") from error
    if not os.access(config.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{config.parent}: can't be written; run it with sudo", "join.folder")


def write_joined(
    config: Path, admitted: Admitted, token: Token, state_dir: Path, socket: Path, interface: str | None
) -> None:
    """What `join` leaves: the relay of the token is named if the network names none. Raises ConfigError."""
    lines: list[str] = []
    if not admitted.network.relays:
        tcp = f', tcp: "{token.tcp}"' if token.tcp else ""
        lines = ["relays:", f'  - {{address: "{token.address}", id: {node_id_text(token.relay)}{tcp}}}']
    write_member(config, admitted, lines, state_dir, socket, interface)


def write_member(
    config: Path,
    admitted: Admitted,
    relays: list[str],
    state_dir: Path,
    socket: Path,
    interface: str | None,
) -> Path:
    """Write all three; returns where the public part is. Raises ConfigError.

    :param relays: lines of the configuration.
    """
    network = admitted.network
    public = config.parent / f"{network.name}.pem"
    certificate = config.parent / f"{network.name}-certificate.pem"
    text = to_text(network.document, Kind.NETWORK, f"network {network.name}, id {node_id_text(network.id)}")
    if admitted.revocations:
        text += to_text(admitted.revocations, Kind.REVOCATIONS)
    try:
        replace_file(public, text.encode())
        replace_file(certificate, credentials_text(admitted.credentials, network.name).encode(), mode=0o600)
        lines = [*_lines(admitted, state_dir, socket, interface), *relays]
        lines += ["network:", f"  file: {quoted(public)}", f"  certificate: {quoted(certificate)}"]
        write_once(config, "\n".join([*lines, ""]).encode())
    except OSError as error:
        raise ConfigError(f"{error.filename or config}: {error.strerror}", "join.folder") from error
    return public


def _lines(admitted: Admitted, state_dir: Path, socket: Path, interface: str | None) -> list[str]:
    lines = ["# Written by `shadowmesh-client`; docs/configuration.md tells what else may stand here."]
    lines += ["node:", f'  name: "{admitted.credentials.certificate.body.name}"']
    if state_dir != Path(DEFAULT_STATE_DIR):
        lines.append(f"  state_dir: {quoted(state_dir)}")
    if socket != Path(DEFAULT_SOCKET):
        lines.append(f"  socket: {quoted(socket)}")
    if interface is not None:
        lines += ["interface:", f'  name: "{interface}"']
    return lines


def quoted(path: Path) -> str:
    """A double-quoted scalar of YAML, which JSON's strings are."""
    return json.dumps(str(path.absolute()))

"""The archive of a report: each part redacted, bounded and written, with a README that lists it all.

Sends nothing anywhere. A part whose text is too long loses its beginning, a JSON value is left out whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import yaml

from shadowmesh.diagnosis.collect import Part
from shadowmesh.diagnosis.facts import Unseen
from shadowmesh.diagnosis.redact import REMOVED, Level, Redactor
from shadowmesh.output import size

BUGREPORT_SCHEMA = "shadowmesh.bugreport/1"
MAX_PART = 2 << 20
"""Bytes of one file: a status with 512 peers is 1 MB."""
README = "README.txt"

KNOWN_KEYS = frozenset(
    re.findall(
        r"\w+",
        """
        node name state_dir socket socket_group listen address port interface addresses mtu
        broadcast rate burst bridge vlans relays id tcp proxy tls token_file peers endpoint groups
        rights routes via to metric firewall inbound outbound rules tests action direction src dst
        proto src_port dst_port ethertype vlan expect peer aead_library paths direct port_mapping
        metrics log format tracing otlp network file connect certificate delegation session
        rekey_seconds names domain serve host
        """,
    )
)
"""Keys of client.yaml; the value of any other may be anything. A test compares them with the reference."""

_LEVELS = {
    Level.NONE: "Secrets only: addresses, names and NodeIDs are as they are.",
    Level.ADDRESSES: "Secrets, and IP and MAC addresses. Names, hosts and NodeIDs are as they are.",
    Level.STRICT: "Secrets, IP and MAC addresses, NodeIDs, and names of nodes, networks, groups and hosts\n"
    "that configuration or status know. A log may hold others: of a member that is gone, for example.",
}


_STANDINS = (
    "One address, name or NodeID has one stand-in in all files; which one is written nowhere.",
    "private4-1.2 is the second address seen of the first IPv4 /24 (IPv6: /64); private4-1.0 is that.",
    "",
)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the archive. `size` in bytes."""

    name: str
    size: int
    what: str


class Bugreport(msgspec.Struct, frozen=True, kw_only=True):
    """What `bugreport --json` prints. `left_out`: parts that are not there, and why."""

    schema: str = BUGREPORT_SCHEMA
    file: str
    size: int
    level: Level
    files: list[Listed]
    left_out: dict[str, str]
    removed: dict[str, int]


def write_report(target: Path, parts: Iterable[Part], redactor: Redactor) -> Bugreport:
    """Write the archive, mode 0600, where no file is yet. Raises OSError, and leaves none behind then."""
    files: dict[str, tuple[str, bytes]] = {}
    left_out: dict[str, str] = {}
    for part in parts:
        content = part.content if isinstance(part.content, Unseen) else _encoded(part, redactor)
        if isinstance(content, Unseen):
            left_out[part.name] = redactor.text(content.reason)
        else:
            files[part.name] = (part.what, content)
    readme = _readme(files, left_out, redactor).encode()
    files = {README: ("this list", readme), **files}
    _write(target, {name: data for name, (_, data) in files.items()})
    return Bugreport(
        file=str(target),
        size=target.stat().st_size,
        level=redactor.level,
        files=[Listed(name=name, size=len(data), what=what) for name, (what, data) in files.items()],
        left_out=left_out,
        removed=dict(redactor.removed),
    )


def known_only(value: object) -> object:
    """The values of a configuration without those of keys that are none of ours."""
    if isinstance(value, dict):
        return {
            key if key in KNOWN_KEYS else REMOVED: known_only(one) if key in KNOWN_KEYS else REMOVED
            for key, one in value.items()
        }
    return [known_only(one) for one in value] if isinstance(value, list) else value


def _encoded(part: Part, redactor: Redactor) -> bytes | Unseen:
    """The part as bytes, redacted; too long a text loses its beginning."""
    if isinstance(part.content, str):
        return redactor.text(part.content).encode()[-MAX_PART:]
    if part.name.endswith(".yaml"):
        data = yaml.safe_dump(
            redactor.data(known_only(part.content)), sort_keys=False, allow_unicode=True
        ).encode()
    else:
        data = json.dumps(redactor.data(part.content), indent=1, ensure_ascii=False).encode() + b"\n"
    return data if len(data) <= MAX_PART else Unseen(f"{size(len(data))} are too much")


def _readme(files: dict[str, tuple[str, bytes]], left_out: dict[str, str], redactor: Redactor) -> str:
    width = max(map(len, [*files, *left_out]), default=0)
    lines = [
        "A report on a ShadowMesh client, for whoever is to help. Look through it before you send it.",
        "Nothing has been sent. No key, ticket, token or invitation is in it.",
        "",
        "Files",
        *(
            f"  {name.ljust(width)}  {size(len(data)).rjust(8)}  {what}"
            for name, (what, data) in files.items()
        ),
        "",
        "Not there",
        *(f"  {name.ljust(width)}  {why}" for name, why in left_out.items()),
        "",
        f"What was taken out (--anonymise {redactor.level.value})",
        *(f"  {line}" for line in _LEVELS[redactor.level].splitlines()),
        *(f"  {count} × {kind}" for kind, count in sorted(redactor.removed.items()) if count),
        "",
        *(_STANDINS if redactor.level is not Level.NONE else ()),
    ]
    return "\n".join(lines)


def _write(target: Path, files: dict[str, bytes]) -> None:
    folder, now = target.name.partition(".")[0], int(time.time())
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(data), now, 0o600
                archive.addfile(entry, io.BytesIO(data))
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise

"""What goes into a report, before anything is taken out of it: the edge of `bugreport`.

Opens no file of secrets but token files, to know what must not be in the report (`known_secrets`).

Each part is a text or a JSON value, or `Unseen` with the reason why it is not there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from shadowmesh import __version__
from shadowmesh.api.client import ApiClient
from shadowmesh.config import DEFAULT_STATE_DIR
from shadowmesh.diagnosis.doctor import examine
from shadowmesh.diagnosis.facts import Facts, Unseen
from shadowmesh.diagnosis.system import output_of
from shadowmesh.document import Document
from shadowmesh.errors import ConfigError, ShadowMeshError
from shadowmesh.node.lifecycle import LOG_FILE
from shadowmesh.units import PROTOCOL_VERSIONS
from shadowmesh.web.caller import caller_of

MAX_LOG = 1 << 20
"""Bytes of each log, the latest."""
JOURNAL_LINES = 5000
UNIT = "shadowmesh-client"
PACKAGES = (
    "iproute2",
    "libc6",
    "libssl3",
    "libssl3t64",
    "nftables",
    "openssl",
    "systemd",
    "systemd-resolved",
)
"""Of Debian's, that have to do with what we do."""
SECRET_VARIABLE = re.compile(r"(?i)token|passphrase|password|secret|headers|api_?key")
"""Names in an environment whose values are secrets."""
PROXY_VARIABLE = re.compile(r"(?i)(?:https?|all)_proxy")


class Part(NamedTuple):
    """One file of the report."""

    name: str
    what: str
    content: object
    """A text, a JSON value, or Unseen."""


def parts(facts: Facts, values: object, socket_path: Path) -> Iterator[Part]:
    """Everything, in the order of the README. `values`: of the configuration, by `read_values`."""
    folder = state_dir_of(values)
    yield Part("doctor.json", "what `doctor` found", plain(examine(facts)))
    yield Part("status.json", "what the running client says of itself", plain(facts.status))
    yield Part("netcheck.json", "what the network allows", plain(facts.netcheck))
    yield Part(
        "drops.json",
        "what was dropped since the start, and while this was gathered",
        drops(facts, socket_path),
    )
    yield Part("config.yaml", "the configuration: known keys only, without comments", values)
    yield Part("versions.json", "kernel, Python, OpenSSL, libraries and packages", versions())
    yield Part("state.json", "names, modes and sizes of the files in the state directory", state(folder))
    yield Part("running.log", "the latest lines of the running client", running_log(facts, socket_path))
    yield Part("client.log", "the end of the log of a detached client", own_log(folder))
    yield Part("journal.log", f"the end of the log of {UNIT} in the journal", journal())
    for name, arguments in IP_COMMANDS.items():
        yield Part(f"{name}.json", f"ip {' '.join(arguments)}", ip_json(*arguments))


IP_COMMANDS = {
    "links": ("-details", "-statistics", "link"),
    "addresses": ("address",),
    "routes": ("-4", "route", "show", "table", "all"),
    "routes6": ("-6", "route", "show", "table", "all"),
    "rules": ("rule",),
}


def plain(value: object) -> object:
    """A struct as JSON values."""
    return value if isinstance(value, Unseen) else msgspec.to_builtins(value)


def drops(facts: Facts, socket_path: Path) -> object:
    """By reason: of the status that the facts have, and what was added until now."""
    if isinstance(facts.status, Unseen):
        return facts.status
    before = facts.status.drops
    try:
        after = ApiClient(socket_path).status().drops
    except ShadowMeshError as error:
        return Unseen(str(error))
    grown = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    return {
        "since_start": {reason: count for reason, count in after.items() if count},
        "in_the_last": {
            "seconds": round(time.time() - facts.now, 1),
            "drops": {reason: count for reason, count in grown.items() if count},
        },
    }


def read_values(file: Path | None) -> object:
    """The values of the file. One that is no YAML of ours is left out: nobody knows what is in it."""
    if file is None:
        return Unseen("no configuration is named; -c FILE does")
    try:
        return Document.load(file).values()
    except ConfigError as error:
        return Unseen(str(error))


def versions() -> object:
    """Ours, the kernel's, those of the libraries that we ask for, and of some packages of Debian."""
    libraries = {}
    for text in importlib.metadata.requires("shadowmesh") or []:
        name = re.split(r"[^\w.-]", text, maxsplit=1)[0]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    listed = output_of("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n")
    lines = [] if isinstance(listed, Unseen) else [line.split() for line in listed.splitlines()]
    import ssl

    return {
        "shadowmesh": __version__,
        "session_protocols": list(PROTOCOL_VERSIONS),
        "kernel": f"{platform.system()} {platform.release()} {platform.version()}",
        "architecture": platform.machine(),
        "system": _os_release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "libraries": libraries,
        "packages": {line[0]: line[1] for line in lines if line[0] in PACKAGES and line[-1] == "installed"},
    }


def state_dir_of(values: object) -> Path | Unseen:
    """As the file says; it need not be right in anything else."""
    if isinstance(values, Unseen):
        return values
    node = values.get("node") if isinstance(values, dict) else None
    named = node.get("state_dir") if isinstance(node, dict) else None
    return Path(named if isinstance(named, str) else DEFAULT_STATE_DIR)


def state(folder: Path | Unseen) -> object:
    """Of each file there; none is opened."""
    if isinstance(folder, Unseen):
        return folder
    try:
        found = sorted(folder.iterdir())[:200]
    except OSError as error:
        return Unseen(f"{folder}: {error.strerror}")
    files = []
    for path in found:
        with contextlib.suppress(OSError):
            about = path.lstat()
            age = round(time.time() - about.st_mtime)
            files.append(
                {
                    "name": path.name,
                    "mode": f"{about.st_mode:o}",
                    "owner": about.st_uid,
                    "size": about.st_size,
                    "age": age,
                }
            )
    return files


def running_log(facts: Facts, socket_path: Path) -> str | Unseen:
    """What the running client keeps of its log; times are of UTC."""
    if isinstance(facts.status, Unseen):
        return facts.status
    try:
        lines = ApiClient(socket_path).log().lines
    except ShadowMeshError as error:
        return Unseen(str(error))
    times = (dt.datetime.fromtimestamp(one.at, dt.UTC).isoformat(timespec="milliseconds") for one in lines)
    return "".join(f"{at} {one.level.upper()} {one.text}\n" for at, one in zip(times, lines, strict=True))


def own_log(folder: Path | Unseen) -> str | Unseen:
    """The file that `up --detach` writes."""
    if isinstance(folder, Unseen):
        return folder
    path = folder / LOG_FILE
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LOG))
            return file.read(MAX_LOG).decode(errors="replace")
    except OSError as error:
        return Unseen(f"{path}: {error.strerror}")


def journal() -> str | Unseen:
    """The unit's lines."""
    text = output_of(
        "journalctl", "--unit", UNIT, "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "short-iso"
    )
    if isinstance(text, Unseen):
        return text
    return text[-MAX_LOG:] if not text.startswith("-- No entries") else Unseen(f"no lines of {UNIT}")


def ip_json(*arguments: str) -> object:
    """What ip(8) tells."""
    text = output_of("ip", "-json", *arguments)
    if isinstance(text, Unseen):
        return text
    try:
        return json.loads(text or "[]")
    except ValueError:
        return Unseen("what ip tells is no JSON")


def known_secrets(values: object, socket_path: Path) -> set[str]:
    """What must not be in the report and could have come into a log: tokens, passwords, headers of traces.

    :param values: of the configuration.
    """
    found: set[str] = set()
    for variables in (os.environ, environment_of(socket_path)):
        for name, value in variables.items():
            if SECRET_VARIABLE.search(name):
                # Several headers in one: `key=value,key=value`, in the form of URLs.
                pieces = [piece.partition("=")[2] for piece in value.split(",")]
                found |= {value, *pieces, *map(urllib.parse.unquote, pieces)}
            elif PROXY_VARIABLE.fullmatch(name):
                found |= passwords_in(value)
    for url in texts_at(values, frozenset({"proxy", "otlp"})):
        found |= passwords_in(url)
    for path in texts_at(values, frozenset({"token_file"})):
        with contextlib.suppress(OSError):
            lines = Path(path).read_text(errors="replace").splitlines()
            found |= {line.strip() for line in lines if not line.startswith("#")}
    return found - {""}


def texts_at(values: object, keys: frozenset[str], below: bool = False) -> Iterator[str]:
    """Every text at one of `keys`, and in lists there."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from texts_at(value, keys, key in keys)
    elif isinstance(values, list):
        for value in values:
            yield from texts_at(value, keys, below)
    elif below and isinstance(values, str):
        yield values


def passwords_in(url: str) -> set[str]:
    """User and password of a URL, as written and as meant."""
    with contextlib.suppress(ValueError):
        head, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")
        if at:
            password = head.partition(":")[2]
            return {head, password, urllib.parse.unquote(password)}
    return set()


def environment_of(socket_path: Path) -> Mapping[str, str]:
    """That of the client which listens there, which root may see."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        probe.connect(str(socket_path))
        client = caller_of(probe)
        data = Path(f"/proc/{client.pid if client else 0}/environ").read_bytes().decode(errors="replace")
        return dict(line.partition("=")[::2] for line in data.split("\0") if line)
    return {}


def names_of(facts: Facts, values: object) -> set[str]:
    """Of nodes, networks, groups and hosts, as far as configuration and status know them."""
    found = {platform.node(), platform.node().partition(".")[0]}
    found |= set(texts_at(values, frozenset({"name", "groups", "peers", "peer", "via", "domain"})))
    for text in texts_at(values, frozenset({"address", "tcp", "proxy", "otlp"})):
        with contextlib.suppress(ValueError):
            found.add(urllib.parse.urlsplit(text if "//" in text else f"//{text}").hostname or "")
    if not isinstance(facts.status, Unseen):
        node = facts.status.node
        found |= {node.name} | {peer.name for peer in facts.status.peers}
        found |= {group for peer in facts.status.peers for group in peer.groups}
        if node.network is not None:
            found |= {node.network.name, node.network.member, *node.network.groups}
        found |= {relay.address.rpartition(":")[0] for relay in facts.status.relays}
    if not isinstance(facts.papers, Unseen) and facts.papers is not None:
        found |= {facts.papers.network, facts.papers.member, *facts.papers.groups}
    # Interfaces are no secret, and addresses have stand-ins of their own.
    interface = values.get("interface") if isinstance(values, dict) else None
    found -= set(texts_at(interface, frozenset({"name"})))
    return {name for name in found if re.search(r"[A-Za-z]", name) and ":" not in name}


def node_ids_of(facts: Facts, values: object) -> set[str]:
    """NodeIDs, and that of the network, of 52 characters."""
    found = {text.lower() for text in texts_at(values, frozenset({"id"}))}
    if not isinstance(facts.status, Unseen):
        node = facts.status.node
        found |= {node.node_id} | {peer.node_id for peer in facts.status.peers}
        found |= {relay.node_id for relay in facts.status.relays}
        found |= {node.network.network_id} if node.network is not None else set()
    if not isinstance(facts.papers, Unseen) and facts.papers is not None:
        found.add(facts.papers.network_id)
    return found


def _os_release() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return ""

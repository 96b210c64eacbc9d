"""What `get` and `set` know of client.yaml: which file it is, its keys, and how one of them is changed.

The loader itself tells which keys there are, so nothing here can differ from it. Writes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from shadowmesh.api.client import ApiClient, ApiFailed, NotRunning
from shadowmesh.api.schema import Status
from shadowmesh.cli.options import DEFAULT_CONFIG, socket_path
from shadowmesh.cli.replies import Change, Setting, Value
from shadowmesh.cli.splice import path_of, put, quoted, remove, steps_in
from shadowmesh.command import CommandFailed
from shadowmesh.config import KEYS, ClientConfig, read_client_config
from shadowmesh.document import Document, Reading
from shadowmesh.errors import ConfigError
from shadowmesh.spelling import did_you_mean


class Found(NamedTuple):
    """The file, and the client that runs by it, if one does."""

    file: Path
    client: ApiClient | None


def find(config: Path | None, socket: Path | None) -> Found:
    """The file of -c, else that of the client that runs, else the usual one."""
    try:
        client = ApiClient(socket_path(config, socket))
    except ConfigError:  # the file that is to be mended
        client = ApiClient(socket_path(None, socket))
    try:
        running = msgspec.json.decode(client.status_json(), type=Status).node.config
    except (NotRunning, ApiFailed):
        return Found((config or DEFAULT_CONFIG).absolute(), None)
    file = (config or Path(running)).absolute()
    same = os.path.realpath(file) == os.path.realpath(running)
    return Found(file, client if same else None)


def settings(document: Document) -> list[Setting]:
    """Every single key that there is, in the order of the reference; the document has been read."""
    found = [
        Setting(
            key=key, value=_value(reading), default=_plain(reading.default), given=reading.node is not None
        )
        for key, reading in document.readings.items()
        if reading.kind not in ("section", "sections")
    ]
    return sorted(found, key=lambda one: KEYS.index(one.key.replace("[", ".").partition(".")[0]))


def only(found: list[Setting], key: str, document: Document) -> tuple[list[Setting], bool]:
    """What `key` names of it, and whether that is a single value. Raises ConfigError."""
    name = steps_in(document, path_of(key))
    within = [one for one in found if one.key == name or one.key.startswith((f"{name}.", f"{name}["))]
    if within:
        return within, within[0].key == name
    top = name.replace("[", ".").partition(".")[0]
    if top in KEYS and top not in document.readings:
        raise CommandFailed(f"{key} is not set: the file has no {top}")
    known = [*KEYS, *(one.key for one in found)]
    raise ConfigError(
        f"{key}: unknown key; {did_you_mean(key, known, '`get --all` shows all')}", "config.unknown-key"
    )


def text_of(value: object) -> str:
    """A value as `set` takes it; a dash for none."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def differences(old: str, new: str, file: str) -> list[Change]:
    """Which keys have another value in the new text; none is known of a text that was no configuration."""
    before, after = ({one.key: one for one in _settings_of(text, file)} for text in (old, new))
    changed = [key for key in {**before, **after} if _at(before, key) != _at(after, key)]
    return [Change(key=key, old=_at(before, key), new=_at(after, key)) for key in changed]


def _settings_of(text: str, file: str) -> list[Setting]:
    document = Document(text, file)
    with contextlib.suppress(ConfigError):
        read_client_config(document)
    return settings(document)


def _at(found: dict[str, Setting], key: str) -> Value:
    return found[key].value if key in found else None


def change(text: str, file: str, pairs: Sequence[tuple[str, str]], unset: Sequence[str]) -> str:
    """The text with other values, not checked. Raises ConfigError where a key can't be changed."""
    for key in unset:
        text = remove(text, file, path_of(key))
    for key, value in pairs:
        text = _put(text, file, path_of(key), value)
    return text


def checked(text: str, file: str) -> ClientConfig:
    """What the whole loader, and the tests of the firewall in it, say of the text. Raises ConfigError."""
    config = read_client_config(Document(text, file))
    if config.firewall is not None:
        from shadowmesh.overlay.firewall import firewall_of

        firewall_of(config)
    return config


def _put(text: str, file: str, steps: list[str], value: str) -> str:
    """What the loader expects there is known when it has read the key, whatever it says to the value."""
    trial = Document(put(text, file, steps, quoted(value, as_text=True)), file)
    refused = None
    try:
        read_client_config(trial)
    except ConfigError as error:
        refused = error
    reading = trial.readings.get(steps_in(trial, steps))
    if reading is None:
        raise refused or ConfigError(f"{'.'.join(steps)} is no key of its own", "config.unknown-key")
    if reading.kind in ("section", "sections"):
        raise ConfigError(f"{'.'.join(steps)} has keys of its own; name one of them, as `get` does")
    if reading.kind not in ("list", "words"):
        return put(text, file, steps, quoted(value, as_text=reading.kind == "text"))
    parts = [part.strip() for part in value.split(",")]
    if parts == [""]:
        raise ConfigError(f"{'.'.join(steps)} gets no value; --unset takes the key out")
    return put(text, file, steps, [quoted(part, as_text=reading.kind == "list") for part in parts])


def _value(reading: Reading) -> Value:
    if reading.node is None:
        return _plain(reading.default)
    if isinstance(reading.node.value, list):
        return [str(entry.value) for entry in reading.node.value]
    text = str(reading.node.value)
    if reading.kind == "words":
        return [text]
    if reading.kind == "flag":
        return text.lower() == "true"
    return int(text) if reading.kind == "number" and text.lstrip("+-").isdigit() else text


def _plain(default: object) -> Value:
    """A default as JSON has it."""
    if isinstance(default, tuple):
        return list(default)
    return str(default) if isinstance(default, Path) else cast("Value", default)

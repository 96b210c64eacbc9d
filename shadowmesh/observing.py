"""What both configurations say of being watched: `metrics:` and `log:`. Reads values, opens nothing."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from shadowmesh.units import Address

if TYPE_CHECKING:
    from shadowmesh.document import Section

MAX_SOCKET_PATH = 107
"""Bytes of sockaddr_un.sun_path, less its closing NUL (unix(7))."""


class LogSection(msgspec.Struct, frozen=True):
    """`log:` the form of the log, and whether lines of level INFO name addresses and NodeIDs."""

    format: Literal["text", "json"] = "text"
    addresses: bool = False


def log_section(top: Section) -> LogSection:
    """The section `log`."""
    section = top.section("log", ("format", "addresses"))
    form = cast("Literal['text', 'json']", section.text("format", _form, "json", "text"))
    return LogSection(form, section.flag("addresses", default=False))


def metrics_address(top: Section) -> Address | Path | None:
    """Where Prometheus may read; None: nowhere."""
    return top.text("metrics", parse_metrics, '"127.0.0.1:9464"', None)


def parse_metrics(text: str) -> Address | Path | None:
    """`off`, an absolute path for a Unix socket, or an address of this machine with a port."""
    if text == "off":
        return None
    if text.startswith("/") and "\0" not in text and len(text.encode()) <= MAX_SOCKET_PATH:
        return Path(text)
    match = re.fullmatch(r"(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    try:
        host = ipaddress.ip_address(match[1] or match[2]) if match else None
    except ValueError:
        host = None
    if match is None or host is None or not host.is_loopback or not 1 <= int(match[3]) <= 65535:
        raise ValueError(
            f"{text!r} is neither an address of this machine alone (127.0.0.1:PORT, [::1]:PORT) nor an "
            f"absolute path of at most {MAX_SOCKET_PATH} bytes"
        )
    return Address(str(host), int(match[3]))


def _form(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f"{text!r} is neither text nor json")
    return text

"""What both configurations say of being watched: `metrics:`, `log:` and `tracing:`. Opens nothing."""

from __future__ import annotations

import importlib.util
import ipaddress
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from shadowmesh.units import Address
from shadowmesh.values import one_of, parse_host_port, parse_socket_path

if TYPE_CHECKING:
    from shadowmesh.document import Section


class LogSection(msgspec.Struct, frozen=True):
    """`log:` the form of the log, and whether lines of level INFO name addresses and NodeIDs."""

    format: Literal["text", "json"] = "text"
    addresses: bool = False


def log_section(top: Section) -> LogSection:
    """The section `log`."""
    section = top.section("log", ("format", "addresses"))
    form = cast("Literal['text', 'json']", section.text("format", one_of("text", "json"), "json", "text"))
    return LogSection(form, section.flag("addresses", default=False))


def tracing_url(top: Section) -> str | None:
    """Where traces go, the whole URL; None: nowhere."""
    if not top.has("tracing"):
        return None
    section = top.section("tracing", ("otlp",))
    url = section.text("otlp", parse_otlp, '"http://127.0.0.1:4318"')
    if _missing("opentelemetry.sdk") or _missing("opentelemetry.exporter.otlp.proto.http"):
        problem = "needs OpenTelemetry, which is not installed; see Extras in docs/install.md"
        section.refuse("otlp", problem)
    return url


def _missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def parse_otlp(text: str) -> str:
    """The URL of a collector that takes OTLP over HTTP; without a path the usual one is meant."""
    url = urllib.parse.urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError(f"{text!r} is no URL of an OTLP collector")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a password; put headers into OTEL_EXPORTER_OTLP_HEADERS")
    return urllib.parse.urlunsplit(url._replace(path="/v1/traces")) if url.path in ("", "/") else text


def metrics_address(top: Section) -> Address | Path | None:
    """Where Prometheus may read; None: nowhere."""
    return top.text("metrics", parse_metrics, '"127.0.0.1:9464"', None)


def parse_metrics(text: str) -> Address | Path | None:
    """`off`, an absolute path for a Unix socket, or an address of this machine with a port."""
    if text == "off":
        return None
    if text.startswith("/"):
        return parse_socket_path(text)
    host, port = parse_host_port(text)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(
            f"{text} is no address of this machine only (127.0.0.1, [::1]), and no absolute path"
        )
    return Address(host, port)

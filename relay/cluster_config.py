"""`cluster:` of relay.yaml: where the common directory is, and where other relays reach this one.

Reads values and no files. Reference for people: docs/configuration.md.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from pathlib import Path

import msgspec

from shadowmesh.document import Section
from shadowmesh.units import Address
from shadowmesh.values import parse_endpoint, parse_name, parse_path

NATS_PORT = 4222
DEFAULT_NAME = "shadowmesh"
KEYS = ("nats", "name", "address", "replicas", "ca", "certificate", "key")


class ClusterSection(msgspec.Struct, frozen=True):
    """`cluster:` the relays that share clients with this one. The URLs may hold passwords: show none."""

    nats: tuple[str, ...]
    name: str
    address: Address
    """Where the other relays send to."""
    replicas: int = 1
    """How many servers of a NATS cluster keep the directory."""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def cluster_section(top: Section, host: str, port: int) -> ClusterSection | None:
    """None without such a section.

    :param host: what the relay listens on, the default for `address`; empty if that was refused.
    """
    if not top.has("cluster"):
        return None
    section = top.section("cluster", KEYS)
    nats = section.words("nats", parse_nats, '"nats://nats.example.net:4222"')
    if not section.has("nats") or not nats:
        section.refuse("nats", "is missing", '"nats://nats.example.net:4222"')
    certificate = section.text("certificate", parse_path, "/etc/shadowmesh/nats.crt", None)
    key = section.text("key", parse_path, "/etc/shadowmesh/nats.key", None)
    if (certificate is None) != (key is None):
        missing = "key" if key is None else "certificate"
        section.refuse(missing, "certificate and key go together", "/etc/shadowmesh/nats.key")
    ca = section.text("ca", parse_path, "/etc/shadowmesh/nats-ca.pem", None)
    plain = any(str(url).startswith("nats:") for url in nats)
    if plain and (ca is not None or certificate is not None):
        section.refuse(
            "nats", "with ca or certificate all URLs begin with tls://", '"tls://nats.example.net:4222"'
        )
    return ClusterSection(
        nats=nats,
        name=section.text("name", parse_name, "shadowmesh", DEFAULT_NAME),
        address=_address(section, host, port),
        replicas=section.number("replicas", 1, 5, default=1),
        ca=ca,
        certificate=certificate,
        key=key,
    )


def parse_nats(text: str) -> str:
    """URL of a NATS server, with or without user and password, or a token. Raises ValueError without it."""
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port or NATS_PORT
    except ValueError:
        raise ValueError("is no URL of a NATS server") from None
    if url.scheme not in ("nats", "tls") or not url.hostname or url.path not in ("", "/") or url.query:
        raise ValueError("is no URL of a NATS server: nats:// or tls://, and HOST:PORT")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    user, at, _ = url.netloc.rpartition("@")
    return f"{url.scheme}://{user}{at}{host}:{port}"


def shown(url: str) -> str:
    """Host and port of such a URL, without what may be secret in it."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _address(section: Section, host: str, port: int) -> Address:
    """Frames of strangers' members are sent there, so nothing may take them to many at once."""
    default = Address(host, port) if host and not ipaddress.ip_address(host).is_unspecified else None
    address = section.text("address", parse_endpoint, '"192.0.2.1:4433"', default)
    if not section.has("address") and default is None:
        problem = "is missing, as listen names no address by which other relays could reach this one"
        section.refuse("address", problem, '"192.0.2.1:4433"')
    elif address is not None:
        ip = ipaddress.ip_address(address.host)
        if ip.is_multicast or ip.is_unspecified:
            section.refuse("address", f"{ip} is no address of one relay", '"192.0.2.1:4433"')
    return address or Address("", 0)

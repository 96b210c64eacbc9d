"""Single values of configurations and command lines: text -> value.

Each parser raises ValueError with what is wrong; `document` adds file, line, key and an example.
Knows no key.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from shadowmesh.units import NODE_ID_SIZE, Address, NodeId

MAX_SOCKET_PATH = 107
"""Bytes of sockaddr_un.sun_path, less its closing NUL (unix(7))."""

MIN_ROUTE_PREFIX = 8
"""A default route in two halves is one too; whole blocks of private use are /8 at the largest (RFC 1918)."""

ANY_TLS, VERIFIED_TLS = "any", "verify"
"""`relays[].tls`: take every certificate, or such as a browser would."""

MAX_DOMAIN = 189
"""Characters: 253 of a whole name, less the 63 of a member's and the dot."""

_TAKEN_DOMAINS = ("arpa", "invalid", "local", "localhost", "onion")
"""Source: RFC 3172, RFC 6761, RFC 6762 (`.local` is multicast DNS), RFC 7686."""

EXAMPLE_NODE_ID = "exampleaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"


def parse_name(text: str) -> str:
    """A host name label (RFC 1123 section 2.1): what is a DNS name below a domain."""
    if not _is_label(text):
        raise ValueError(
            f"{text!r} is not a name; a name is 1 to 63 lower-case letters, digits and inner hyphens"
        )
    return text


def parse_domain(text: str) -> str:
    """A domain for members' names, in lower case: each name and a dot more must still fit (RFC 1035)."""
    parts = text.split(".")
    if len(text) > MAX_DOMAIN or not all(map(_is_label, parts)) or parts[-1].isdigit():
        raise ValueError(
            f"{text!r} is no domain; one is up to {MAX_DOMAIN} lower-case letters, digits, inner hyphens and "
            f"inner dots"
        )
    if parts[-1] in _TAKEN_DOMAINS:
        raise ValueError(f"names below .{parts[-1]} have a meaning of their own; take another domain")
    return text


def parse_node_id(text: str) -> NodeId:
    """A NodeID as people copy it: 52 characters of RFC 4648 base32, in either case."""
    if len(text) != 52:
        raise ValueError(f"a NodeID has 52 characters, this has {len(text)}")
    try:
        node_id = base64.b32decode(text.upper() + "====")
    except ValueError:
        raise ValueError("a NodeID has only the letters a-z and the digits 2-7") from None
    if len(node_id) != NODE_ID_SIZE or base64.b32encode(node_id)[:52].decode() != text.upper():
        raise ValueError("the last character of a NodeID is a or q; is this one copied in full?")
    return node_id


def parse_tcp(text: str) -> Address:
    """Host and TCP port, as the address of a relay."""
    return Address(*parse_host_port(text))


def parse_proxy(text: str) -> str:
    """ "auto", "off", or the URL of an HTTP proxy, with or without user and password."""
    if text in ("auto", "off"):
        return text
    url = urllib.parse.urlsplit(text)  # a ValueError of its own for brackets and ports that are none
    # The URL may hold a password, so no error shows it.
    if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/") or url.query:
        raise ValueError("is no URL of an HTTP proxy, nor auto or off")
    if url.port is None:
        raise ValueError("lacks the proxy's port")
    return text


def parse_tls(text: str) -> str:
    """`any`, `verify`, or a pin as curl writes it: "sha256//" and base64 of the hash of the public key."""
    kind, slashes, digest = text.partition("//")
    if text in (ANY_TLS, VERIFIED_TLS):
        return text
    try:
        if (kind, slashes) == ("sha256", "//") and len(base64.b64decode(digest, validate=True)) == 32:
            return text
    except ValueError:
        pass
    raise ValueError(f"{text!r} is neither any nor verify nor a pin (sha256//, then 44 characters of base64)")


def parse_path(text: str) -> Path:
    """An absolute path, since the daemon's working directory is nobody's choice."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(text)


def parse_socket_path(text: str) -> Path:
    """An absolute path that fits a Unix socket address."""
    if len(text.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"has {len(text.encode())} bytes, a Unix socket's path at most {MAX_SOCKET_PATH}")
    return parse_path(text)


def parse_system_group(text: str) -> str:
    """Name of a group of this machine, as groupadd(8) takes it; whether there is one is not looked up."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", text):
        raise ValueError(f"{text!r} is not the name of a group of this machine, such as groupadd takes")
    return text


def parse_interface_name(text: str) -> str:
    """What Linux takes (dev_valid_name) and its tools understand."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) or text in (".", "..", "all", "default", "lo"):
        raise ValueError(
            f"{text!r} is not the name of an interface; a name is up to 15 letters, digits, _ . -"
        )
    return text


def parse_listen_address(text: str) -> str:
    """A local IPv4 or IPv6 address, `::` for both families."""
    address = _ip_address(text)
    if address.is_multicast:
        raise ValueError(f"{text} is a multicast address")
    return str(address)


def parse_interface_address(text: str) -> str:
    """An overlay address of this node with its prefix length."""
    host, slash, prefix = text.partition("/")
    address = _overlay_address(host)
    if not slash:
        raise ValueError(f"{text} lacks its prefix length")
    if not re.fullmatch(r"[0-9]{1,3}", prefix) or not 1 <= int(prefix) <= address.max_prefixlen:
        raise ValueError(f"the prefix length of {text} is not between 1 and {address.max_prefixlen}")
    network = ipaddress.ip_network((address, int(prefix)), strict=False)
    reserved = [network.network_address] + ([network.broadcast_address] if address.version == 4 else [])
    if address in reserved and int(prefix) < address.max_prefixlen - 1:
        raise ValueError(f"{text} names the network itself, not a node in it")
    return f"{address}/{int(prefix)}"


def parse_overlay_address(text: str) -> str:
    """An overlay address of a peer, without prefix length."""
    if "/" in text:
        raise ValueError(f"{text}: peers' addresses have no prefix length")
    return str(_overlay_address(text))


def parse_route(text: str) -> str:
    """A prefix behind a member, in its canonical form; nothing that takes a large part of all addresses."""
    try:
        prefix = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 prefix") from None
    if "/" not in text:
        raise ValueError(f"{text} lacks its prefix length")
    if str(prefix.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        raise ValueError(f"{text} is an address in {prefix}; name the prefix itself")
    if prefix.prefixlen < MIN_ROUTE_PREFIX:
        raise ValueError(
            f"{text} takes too much; default routes and prefixes below /{MIN_ROUTE_PREFIX} are not taken"
        )
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        raise ValueError(f"{text} is nothing that can be behind a member")
    return str(prefix)


def _is_label(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text) is not None


def parse_host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[IPv6]:port`; the host without brackets, the port from 1."""
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    if not match:
        form = "host:port" if text.count(":") < 2 else "[IPv6 address]:port"
        raise ValueError(f"{text!r} has not the form {form}")
    if not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"port {match[3]} is not between 1 and 65535")
    if match[1] is not None:
        return _ipv6_literal(match[1]), int(match[3])
    return _host(match[2]), int(match[3])


def parse_endpoint(text: str) -> Address | None:
    """`ADDRESS:PORT` or `[IPv6]:PORT`; no name, since nobody looks it up again when it changes."""
    host, port = parse_host_port(text)
    try:
        return Address(str(ipaddress.ip_address(host)), port)
    except ValueError:
        raise ValueError(f"{host!r} is no IP address") from None


def printable(text: str) -> str:
    """What may stand in a log or on a terminal of a text that somebody else wrote."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_of(*words: str) -> Callable[[str], str]:
    """A parser that takes exactly these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def _overlay_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = _ip_address(text)
    if address.is_multicast or address.is_loopback or address.is_unspecified or "%" in text:
        raise ValueError(f"{text} can't be the address of a node on the overlay")
    return address


def _ipv6_literal(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None
    return str(address.ipv4_mapped or address)


def _host(text: str) -> str:
    if re.fullmatch(r"[0-9.]*", text):
        return str(_ip_address(text))
    label = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*\.?", text):
        raise ValueError(f"{text!r} is neither a host name nor an address")
    return text

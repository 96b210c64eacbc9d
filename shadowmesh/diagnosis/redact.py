"""Takes secrets, and by choice addresses and names, out of a report. Text in, text out; no I/O.

    secrets     always: those that are known, in every form that is likely, and what looks like one
    addresses   IP and MAC addresses; one address has one stand-in in one report, whatever its spelling
    strict      names, hosts and NodeIDs as well

Stand-ins are numbered as they come, and the map is kept nowhere. `private4-1.2` is the second address that
was seen of the first IPv4 /24 (IPv6: /64), `.0` that prefix itself: who shares a network with whom is left.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import ipaddress
import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

REMOVED = "[removed]"
SHORTEST_SECRET = 4
"""Characters: to look for less would leave nothing of the report."""
SHORTEST_NAME = 2
SHORT_ID = 10
"""Characters by which NodeIDs are known in tables and file names."""


class Level(enum.StrEnum):
    """What is taken out besides secrets, the least first."""

    NONE = "none"
    ADDRESSES = "addresses"
    STRICT = "strict"


class Rule(NamedTuple):
    """What looks like a secret. `hides`: whether a match really is one."""

    name: str
    pattern: re.Pattern[str]
    replacement: str = REMOVED
    hides: Callable[[str], bool] = lambda _: True


def _is_blob(text: str) -> bool:
    """A long run of letters is a key in base64 or hexadecimal, not a path, a NodeID or a word."""
    mixed = any(c.isupper() for c in text) and any(c.islower() for c in text)
    return mixed or re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", text) is not None


SECRET_RULES = (
    Rule(
        "private-key",
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL),
    ),
    Rule("invitation", re.compile(r"smesh1[a-z2-7]{8,}", re.IGNORECASE)),
    Rule("password-in-url", re.compile(r"(?<=://)[^/\s\"'<>]+@"), f"{REMOVED}@"),
    Rule(
        "header",
        re.compile(
            r"(?i)((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,30}(?:key|auth))(\s*[:=]\s*)[^\r\n\"']+"
        ),
        rf"\1\2{REMOVED}",
    ),
    Rule("bearer", re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"), rf"\1\2{REMOVED}"),
    Rule(
        "named",
        re.compile(
            r"(?i)((?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key)[\w-]{0,30}[\"']?\s*[:=]\s*[\"']?)"
            r"(?!/)[^\s\"',;}]+"
        ),
        rf"\1{REMOVED}",
    ),
    Rule(
        "blob",
        re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{32,}={0,2}(?![A-Za-z0-9+/_=-])"),
        hides=_is_blob,
    ),
)
"""In this order; each has a test that fails without it. None takes longer than in proportion to
the text: strangers may have had a hand in it."""

SECRET_KEY = re.compile(r"(?i)passw|passphrase|secret|private_?key|^token$|api_?key|authorization")
"""Names of fields whose text is a secret, whatever it looks like."""

_MAC = re.compile(r"(?<![\w:-])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*")
"""What may be one: a time of day looks the same at first."""
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\w)")
_NODE_ID = re.compile(rf"(?<!\w)(?:[a-z2-7]{{52}}(?!\w)|[a-z2-7]{{{SHORT_ID}}}(?=…))")
_HOME = re.compile(r"(?<=/home/)[^/\s\"']+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Redactor:
    """Of one report.

    :param secrets: values that must not be in it, as they are.
    :param names: of nodes, networks, groups and hosts, for `STRICT`.
    :param node_ids: 52 characters each, likewise: files name them by their beginning alone.
    """

    def __init__(
        self,
        level: Level,
        secrets: Iterable[str] = (),
        names: Iterable[str] = (),
        node_ids: Iterable[str] = (),
    ) -> None:
        self.level = level
        self.removed: Counter[str] = Counter()
        """How often what was taken out, by kind."""
        self._secrets = _any_of(
            form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in forms(secret)
        )
        known = {name for name in names if len(name) >= SHORTEST_NAME}
        self._names = _any_of(known, r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])", re.IGNORECASE)
        self._ids = _any_of({one[:SHORT_ID] for one in node_ids}, r"(?<!\w){}(?:[a-z2-7]{{42}})?(?!\w)")
        self._standins: dict[str, dict[object, str]] = {}

    def text(self, text: str) -> str:
        """The text with stand-ins."""
        if self._secrets is not None:
            text = self._sub("known secret", self._secrets, lambda _: REMOVED, text)
        for rule in SECRET_RULES:
            text = self._sub(rule.name, rule.pattern, lambda match, rule=rule: _apply(rule, match), text)  # type: ignore[misc]
        if self.level is not Level.NONE:
            text = self._without_addresses(text)
        if self.level is Level.STRICT:
            text = self._without_names(text)
        return text

    def data(self, value: object, key: str = "") -> object:
        """The same for a JSON value: its texts, and keys that are no names of fields."""
        if isinstance(value, dict):
            return {self._key(name): self.data(one, name) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(one, key) for one in value]
        if isinstance(value, str) and value and SECRET_KEY.search(key):
            self.removed["named"] += 1
            return REMOVED
        return self.text(value) if isinstance(value, str) else value

    def _key(self, name: str) -> str:
        return name if re.fullmatch(r"[a-z][a-z0-9_]*", name) else self.text(name)

    def _without_addresses(self, text: str) -> str:
        text = self._sub("MAC address", _MAC, self._mac, text)
        text = self._sub("IP address", _IPV6, self._ip, text)
        return self._sub("IP address", _IPV4, self._ip, text)

    def _without_names(self, text: str) -> str:
        if self._ids is not None:
            text = self._sub("NodeID", self._ids, self._node, text)
        text = self._sub("NodeID", _NODE_ID, self._node, text)
        text = self._sub("name", _HOME, lambda match: self._standin("user", match[0]), text)
        if self._names is not None:
            text = self._sub("name", self._names, lambda match: self._standin("name", match[0].lower()), text)
        return text

    def _sub(
        self, kind: str, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str
    ) -> str:
        def counted(match: re.Match[str]) -> str:
            put = replace(match)
            self.removed[kind] += put != match[0]
            return put

        return pattern.sub(counted, text)

    def _standin(self, kind: str, what: object) -> str:
        known = self._standins.setdefault(kind, {})
        return known.setdefault(what, f"{kind}-{len(known) + 1}")

    def _node(self, match: re.Match[str]) -> str:
        return self._standin("node", match[0][:SHORT_ID])

    def _mac(self, match: re.Match[str]) -> str:
        mac = match[0].lower()
        return match[0] if mac in ("ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00") else self._standin("mac", mac)

    def _ip(self, match: re.Match[str]) -> str:
        # A colon or full stop may be the sentence's.
        for end in range(len(match[0]), max(0, len(match[0]) - 3), -1):
            with contextlib.suppress(ValueError):
                return self._named(ipaddress.ip_address(match[0][:end]), match[0][:end]) + match[0][end:]
        return match[0]

    def _named(self, ip: Address, text: str) -> str:
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
            return text
        host_bits = 8 if ip.version == 4 else 64
        kind = "link" if ip.is_link_local else "public" if ip.is_global else "private"
        network = self._standin(f"{kind}{ip.version}", int(ip) >> host_bits)
        host = int(ip) & ((1 << host_bits) - 1)
        within = self._standins.setdefault(network, {})
        return f"{network}.{0 if host == 0 else within.setdefault(host, str(len(within) + 1))}"


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def forms(secret: str) -> list[str]:
    """A secret as it is, and as JSON, URLs, base64 and hexadecimal write it."""
    raw = secret.encode()
    return [
        secret,
        json.dumps(secret)[1:-1],
        urllib.parse.quote(secret, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        raw.hex(),
        raw.hex().upper(),
    ]


def _apply(rule: Rule, match: re.Match[str]) -> str:
    return match.expand(rule.replacement) if rule.hides(match[0]) else match[0]


def _any_of(
    texts: Iterable[str], frame: str = "{}", flags: re.RegexFlag = re.NOFLAG
) -> re.Pattern[str] | None:
    """The longest first, so that no name hides a longer one."""
    every = sorted(set(texts), key=lambda text: (-len(text), text))
    return re.compile(frame.format("(?:" + "|".join(map(re.escape, every)) + ")"), flags) if every else None

"""Which rules of a host's nftables may drop our UDP, by what `nft -j list ruleset` tells. Pure, and careful.

Only what speaks of UDP, of our ports, or of everything is told; rules for single addresses or interfaces are
not, unless they speak of UDP as well. Chains without a hook are judged as if somebody jumped there.
Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_HOOKS = frozenset({"input", "output", "prerouting", "postrouting", "ingress", "egress"})
_OUTBOUND = frozenset({"output", "postrouting", "egress"})

Json = Mapping[str, Any]


def dropping(ruleset: Sequence[Json], port: int, relay_ports: frozenset[int]) -> list[str]:
    """Rules and policies that may drop datagrams between us and a relay, for people.

    :param port: of our socket, 0 if it is not known.
    """
    chains = {_key(one["chain"], "name"): one["chain"] for one in ruleset if "chain" in one}
    sets = {_key(one["set"], "name"): one["set"].get("elem", []) for one in ruleset if "set" in one}
    rules = [one["rule"] for one in ruleset if "rule" in one]
    found = []
    for key, chain in chains.items():
        if chain.get("hook", "input") not in _HOOKS:
            continue
        outbound = chain.get("hook") in _OUTBOUND
        own = _Ports(port, relay_ports, outbound, lambda name, key=key: sets.get((*key[:2], name), []))
        found += list(_of_chain(chain, [rule for rule in rules if _key(rule, "chain") == key], own))
    return found


class _Ports:
    """The ports of our datagrams as one chain sees them."""

    def __init__(self, port: int, relays: frozenset[int], outbound: bool, elements: Any) -> None:
        ours = frozenset({port} if port else ())
        self.source, self.target = (ours, relays) if outbound else (relays, ours)
        self._elements = elements

    def matches(self, match: Json) -> bool | None:
        """Whether a `match` is true of our datagrams; None: it speaks of something else."""
        left, right, negated = match.get("left", {}), match.get("right"), match.get("op") == "!="
        payload, meta = left.get("payload", {}), left.get("meta", {})
        field = payload.get("field")
        if field in ("dport", "sport"):
            wanted = self.target if field == "dport" else self.source
            if payload.get("protocol") not in ("udp", "th"):
                return False
            return any(self._has(right, port) for port in wanted) != negated
        if meta.get("key") == "l4proto" or (field in ("protocol", "nexthdr")):
            return self._has(right, "udp") != negated
        return None

    def accepts_replies(self, match: Json) -> bool:
        """Whether it is about connections that we began."""
        about = match.get("left", {}).get("ct", {}).get("key") == "state"
        return about and match.get("op") != "!=" and self._has(match.get("right"), "established")

    def _has(self, right: Any, value: int | str) -> bool:
        if isinstance(right, str) and right.startswith("@"):
            return self._has(self._elements(right[1:]), value)
        if isinstance(right, list):
            return any(self._has(one, value) for one in right)
        if isinstance(right, dict) and "set" in right:
            return self._has(right["set"], value)
        if isinstance(right, dict) and "range" in right:
            low, high = right["range"]
            return isinstance(value, int) and isinstance(low, int) and low <= value <= high
        return bool(right == value or (value == "udp" and right == 17))


def _of_chain(chain: Json, rules: Iterable[Json], ports: _Ports) -> Iterator[str]:
    where = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
    for rule in rules:
        verdict, matches = _verdict(rule), _matches(rule)
        told = [ports.matches(match) for match in matches]
        about_us = False not in told and (True in told or not matches)
        if verdict in ("drop", "reject") and about_us:
            yield f"rule {rule.get('handle')} of {where} ({verdict})"
        replies = all(ports.accepts_replies(match) or ports.matches(match) for match in matches)
        if (verdict == "accept" and (replies or (about_us and None not in told))) or (
            verdict in ("drop", "reject", "accept") and not matches
        ):
            return  # nothing of ours comes further
    if chain.get("policy") == "drop":
        yield f"the policy of {where} (drop)"


def _verdict(rule: Json) -> str:
    for expression in rule.get("expr", []):
        for name in ("drop", "reject", "accept"):
            if name in expression:
                return name
    return ""


def _matches(rule: Json) -> list[Json]:
    """Its conditions; what we do not know is one that says nothing to us."""
    plain = {"counter", "log", "limit", "drop", "reject", "accept", "comment"}
    return [expression.get("match", {}) for expression in rule.get("expr", []) if not plain & set(expression)]


def _key(thing: Json, name: str) -> tuple[Any, Any, Any]:
    return thing.get("family"), thing.get("table"), thing.get(name)

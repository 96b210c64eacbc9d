"""Which requirements does a run of `compare.py` meet?  From its medians alone, no figure of another day.

Each requirement is a ratio (or a size) with a bound that is asked for, and an aim beyond it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Systems = dict[str, dict[str, Any]]

OPENSSL, BORINGSSL, RELAYED = "shadowmesh", "shadowmesh-boringssl", "shadowmesh-relayed"
CURRENT, DEBIAN = "wireguard-go-current", "wireguard-go-debian"
PEERS = ("tinc", "n2n", "fastd", "openvpn", DEBIAN, "nebula")
STAND_IN = 5
"""Debian's wireguard-go times this stands in for a current one in TCP, where there is none."""
COLLAPSE = 0.8
"""A flood may cost a fifth of the peak: less can't be told from noise."""
FASTD_AIM = 100 / 122
"""Idle round trip: 100 µs where fastd has 122."""


@dataclass(frozen=True)
class Verdict:
    """`value` None: not measured.  `less`: the bounds are upper ones."""

    question: str
    value: float | None
    asked: float
    aim: float | None
    less: bool = False
    unit: str = "x"

    def word(self) -> str:
        """Aim reached, reached, MISSED or not measured."""
        if self.value is None:
            return "not measured"
        sign = -1 if self.less else 1
        if self.aim is not None and sign * self.value >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * self.value >= sign * self.asked else "MISSED"

    def line(self) -> str:
        """One line for people."""
        if self.value is None:
            return f"{self.question}: not measured"
        bound = "at most " if self.less else ""
        aim = "" if self.aim is None else f", aim {self.aim:.3g}{self.unit}"
        asked = f"asked {bound}{self.asked:.3g}{self.unit}{aim}"
        return f"{self.question}: {self.value:.3g}{self.unit} ({asked}): {self.word()}"

    def row(self) -> dict[str, Any]:
        """As the JSON document has it."""
        return asdict(self) | {"verdict": self.word()}


def figure(systems: Systems, name: str, key: str) -> float | None:
    """The median, or None if the system or the figure is not there."""
    value = systems[name]["median"].get(key) if name in systems else None
    return float(value) if value else None


def ratio(systems: Systems, key: str, mine: str, other: str) -> float | None:
    """Median of `mine` over that of `other`."""
    a, b = figure(systems, mine, key), figure(systems, other, key)
    return a / b if a and b else None


def _best(systems: Systems, key: str, less: bool) -> str:
    """The peer with the best figure; empty if there is none."""
    found = {name: value for name in (*PEERS, CURRENT) if (value := figure(systems, name, key))}
    return (min if less else max)(found, key=lambda name: found[name], default="")


def _tcp(systems: Systems) -> list[Verdict]:
    verdicts = []
    for mine, asked, aim in ((OPENSSL, 1.4, 2.0), (BORINGSSL, 2.0, 3.0)):
        other, value = CURRENT, ratio(systems, "tcp1_gbit", mine, CURRENT)
        if CURRENT not in systems and (stand_in := ratio(systems, "tcp1_gbit", mine, DEBIAN)):
            other, value = f"{STAND_IN} times {DEBIAN}", stand_in / STAND_IN
        verdicts.append(Verdict(f"TCP one stream, {mine} vs {other}", value, asked, aim))
    for peer in PEERS:
        value = ratio(systems, "tcp1_gbit", OPENSSL, peer)
        verdicts.append(Verdict(f"TCP one stream, {OPENSSL} vs {peer}", value, 6.0, 10.0))
    value = ratio(systems, "tcp1_gbit", RELAYED, OPENSSL)
    return [*verdicts, Verdict(f"TCP one stream, {RELAYED} vs {OPENSSL}", value, 0.45, 0.7)]


def _udp(systems: Systems) -> list[Verdict]:
    key = "udp64_peak_kpps"
    best = _best(systems, key, less=False)
    peak, flood = figure(systems, OPENSSL, key), figure(systems, OPENSSL, "udp64_flood_kpps")
    kept = flood / peak if flood and peak else None
    against = f"best peer, {best}" if best else "best peer"
    return [
        Verdict(f"64-byte UDP, {OPENSSL} vs {against}", ratio(systems, key, OPENSSL, best), 2.0, 3.0),
        Verdict(f"64-byte UDP, {OPENSSL} in a flood vs its own peak", kept, COLLAPSE, None),
    ]


def _round_trips(systems: Systems) -> list[Verdict]:
    idle, load = "rtt_idle_p50_us", "rtt_load_p99_us"
    best = _best(systems, idle, less=True)
    against = f"best peer, {best}" if best else "best peer"
    return [
        Verdict(
            f"idle RTT p50, {OPENSSL} vs {against}", ratio(systems, idle, OPENSSL, best), 1.0, None, True
        ),
        Verdict(
            f"idle RTT p50, {OPENSSL} vs fastd", ratio(systems, idle, OPENSSL, "fastd"), 1.0, FASTD_AIM, True
        ),
        Verdict(
            f"RTT p99 under one TCP stream, {OPENSSL} vs {CURRENT}",
            ratio(systems, load, OPENSSL, CURRENT),
            1.0,
            0.5,
            True,
        ),
    ]


def _costs(systems: Systems) -> list[Verdict]:
    verdicts = []
    for mine, asked, aim in ((OPENSSL, 0.7, 0.5), (BORINGSSL, 0.5, 0.35)):
        value = ratio(systems, "cpu_s_per_gb", mine, CURRENT)
        verdicts.append(Verdict(f"CPU s/GB both ends, {mine} vs {CURRENT}", value, asked, aim, True))
    memory = figure(systems, OPENSSL, "rss_mb")
    return [*verdicts, Verdict(f"RSS, {OPENSSL} with 2 peers", memory, 70.0, 60.0, True, " MB")]


def judge(systems: Systems) -> list[Verdict]:
    """One verdict for each requirement; empty if ShadowMesh was not measured."""
    if not {OPENSSL, BORINGSSL, RELAYED} & systems.keys():
        return []
    return [*_tcp(systems), *_udp(systems), *_round_trips(systems), *_costs(systems)]

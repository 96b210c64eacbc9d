"""`netcheck`: what the network around this machine allows, told from the core after a fresh question.

Serves the running client, and the node of `alone.py` that lives for this question only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

from shadowmesh.api.schema import Netcheck, RelayCheck
from shadowmesh.core.node import Core
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.errors import told
from shadowmesh.node.report import home_reason, load_of, nat_status, transport_of
from shadowmesh.node.standing import clock_text, clock_warning, skew_of
from shadowmesh.node.surroundings import Surroundings
from shadowmesh.units import MAX_QUIC_DATAGRAM

TIMEOUT = 8.0
"""Seconds at most: a relay that is silent is given up after 3, and NAT tests take 4 (`path.nat`)."""
POLL = 0.05

Family = Literal["works", "not confirmed", "no route"]


async def check_network(core: Core, surroundings: Surroundings) -> Netcheck:
    """Wait until what was asked is answered, `TIMEOUT` at most, and tell."""
    end = time.monotonic() + TIMEOUT
    for _ in range(int(TIMEOUT / POLL)):
        if time.monotonic() >= end or _settled(core, surroundings):
            break
        await asyncio.sleep(POLL)
    return _report(core, surroundings)


def _settled(core: Core, surroundings: Surroundings) -> bool:
    if not surroundings.monitor.changes:
        return False
    return not surroundings.mapper.busy and all(_relay_settled(relay) for relay in core.relays)


def _relay_settled(relay: RelayClient) -> bool:
    if relay.binding is None:
        # Between two tries it has failed at least once; while one is under way, its end is awaited.
        return relay.state is RelayState.WAITING and relay.last_error is not None
    if relay.binding.waits:
        return False
    return relay.leg.over_tcp or relay.second_port is None or relay.second_port.deadline is None


def _report(core: Core, surroundings: Surroundings) -> Netcheck:
    core.homing.look(core.relays, time.monotonic())
    gateways = surroundings.monitor.snapshot.gateways
    connected = [relay for relay in core.relays if relay.state is RelayState.CONNECTED]
    routed = {":" in gateway.source for gateway in gateways}
    by_udp = [relay for relay in connected if not relay.leg.over_tcp]
    reached = {":" in relay.address.host for relay in by_udp if relay.address is not None}

    def family(ipv6: bool) -> Family:
        return "works" if ipv6 in reached else "not confirmed" if ipv6 in routed else "no route"

    return Netcheck(
        nat=nat_status(core, surroundings.mapper),
        udp="works" if by_udp else "blocked" if core.local else "no network",
        ipv4=family(False),
        ipv6=family(True),
        datagram=_largest_datagram(by_udp),
        clock=told(clock_warning(core)) or clock_text(core.relays),
        tcp=_tcp(core.relays),
        relays=[_relay(relay, home_reason(relay, core)) for relay in core.relays],
    )


def _tcp(relays: Sequence[RelayClient]) -> Literal["works", "fails", "not tried"]:
    if any(relay.leg.carrier is not None for relay in relays):
        return "works"
    return "fails" if any(relay.leg.problem for relay in relays) else "not tried"


def _largest_datagram(connected: list[RelayClient]) -> int | None:
    """Bytes of UDP payload that surely pass: a handshake is padded to this (RFC 9000 section 14.1)."""
    return MAX_QUIC_DATAGRAM if connected else None


def _relay(relay: RelayClient, home: str | None) -> RelayCheck:
    binding, test = relay.binding, relay.second_port
    rtt = binding.round_trip.smoothed if binding is not None else None
    skew, error = skew_of(relay)
    second: Literal["none", "answers", "silent", "unknown"] = "unknown"
    if relay.state is RelayState.CONNECTED and not relay.leg.over_tcp:
        second = "none" if test is None else "answers" if test.observed else "silent"
    return RelayCheck(
        address=relay.name,
        state=relay.state.value,
        rtt_ms=None if rtt is None else round(rtt * 1000, 3),
        loss=None if relay.loss is None else round(relay.loss, 4),
        load=load_of(relay),
        observed_address=str(relay.observed) if relay.observed else None,
        second_port=second,
        home=home is not None,
        home_reason=home,
        last_error=told(relay.last_error),
        clock_skew=skew,
        clock_error=error,
        transport=transport_of(relay),
    )

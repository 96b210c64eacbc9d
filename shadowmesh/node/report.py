"""What `status` shows, read from the core and the engine; changes nothing."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from shadowmesh import __version__
from shadowmesh._ext import aead
from shadowmesh._ext.engine import Engine
from shadowmesh.api.schema import (
    CarrierStatus,
    NatStatus,
    NodeStatus,
    PathStatus,
    PeerStatus,
    RelayStatus,
    Status,
)
from shadowmesh.config import ClientConfig, Peer
from shadowmesh.core.node import Core
from shadowmesh.core.peers import PeerClient
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import Failure, told
from shadowmesh.io.portmap import PortMapper
from shadowmesh.io.udp import local_address
from shadowmesh.node.carriers import Carriers
from shadowmesh.node.samples import PeerReading, Reading
from shadowmesh.node.standing import network_status, peer_expiry, peer_renews, skew_of
from shadowmesh.node.wall import firewall_status
from shadowmesh.overlay.compilation import Party
from shadowmesh.overlay.firewall import as_configured
from shadowmesh.overlay.mac import mac_of, mac_text
from shadowmesh.path.path import Path

if TYPE_CHECKING:
    from shadowmesh.io.carrier import Carrier


def report(
    config: ClientConfig,
    core: Core,
    engine: Engine,
    udp: socket.socket,
    mtu: int,
    uptime: float,
    unsent: Mapping[str, int],
    ports: PortMapper,
    carriers: Carriers,
) -> Status:
    """A whole status."""
    drops = Counter(engine.drops())
    drops.update(core.drops)
    drops.update(unsent)
    return Status(
        node=NodeStatus(
            name=config.node.name,
            node_id=node_id_text(core.node_id),
            version=__version__,
            interface=config.interface.name,
            mac=mac_text(mac_of(core.node_id)),
            mtu=mtu,
            addresses=list(config.interface.addresses),
            listen=str(local_address(udp)),
            uptime=uptime,
            aead=aead.implementation(),
            features=engine.features(),
            nat=nat_status(core, ports),
            network=network_status(core, config.interface.name),
        ),
        relays=[_relay(relay, home_reason(relay, core), carriers.of(relay.index)) for relay in core.relays],
        peers=[_peer(peer, core, engine, config.peers, time.monotonic()) for peer in core.peers.values()],
        counters=engine.counters(),
        drops=dict(drops),
        firewall=firewall_status(engine, config.firewall),
    )


def totals(core: Core, engine: Engine, unsent: Mapping[str, int]) -> Reading:
    """What samples are made of; far cheaper than a status."""
    drops = sum(engine.drops().values()) + sum(core.drops.values()) + sum(unsent.values())
    return Reading(time.time(), drops, [_peer_totals(peer, engine) for peer in core.peers.values()])


def _peer_totals(peer: PeerClient, engine: Engine) -> PeerReading:
    counters = engine.peer_counters(peer.handle)
    current = peer.routing.paths.current if _is_live(peer) else None
    return PeerReading(
        node_id=node_id_text(peer.node_id),
        name=peer.member.name,
        tx_bytes=int(counters["tx_bytes"]) + peer.demand.sent_bytes,
        rx_bytes=int(counters["rx_bytes"]),
        rtt_ms=_milliseconds(current.rtt) if current is not None else None,
    )


def outline(core: Core) -> Hashable:
    """What somebody who looks at a status wants to see change at once: who is there, and by which path."""
    relays = tuple((relay.state, relay is core.home, relay.last_error) for relay in core.relays)
    return relays, tuple(_peer_outline(peer) for peer in core.peers.values())


def _peer_outline(peer: PeerClient) -> Hashable:
    paths = tuple(path.state for path in peer.routing.paths.paths)
    return peer.member.name, peer.path, peer.present, peer.is_confirmed, peer.last_error, paths


def nat_status(core: Core, ports: PortMapper) -> NatStatus:
    """What is known of the NAT before this machine."""
    nat = core.nat
    return NatStatus(
        mapping=nat.mapping.value,
        filtering=nat.filtering.value,
        local=[str(address) for address in core.local],
        observed=[str(address) for address in nat.observed],
        mapped=str(core.mapped) if core.mapped is not None else None,
        port_mapping=ports.report,
    )


ABSENT = Failure(
    "peer.absent", "no relay knows of it: it is down, or does not list this node, or uses another relay"
)
"""Shown for a peer that never came so far as to fail."""
NO_RELAY = Failure("peer.no-relay", "this machine is not connected to any relay; the relays' entries say why")
"""Shown for every peer without a path while that is so: no older error of the peer matters then."""


ON_DEMAND = "a session is made with the first frame for it"
"""Shown for a member that is known, and with which there is nothing to talk about just now."""


def is_idle(peer: PeerClient, now: float) -> bool:
    """Whether there is no session because no frame wants one."""
    return peer.present and not _is_live(peer) and not peer.demand.wanted(now)


def is_connected(core: Core) -> bool:
    """Whether frames could go anywhere: a relay is connected, or a peer."""
    relays = any(relay.state is RelayState.CONNECTED for relay in core.relays)
    return relays or any(_is_live(peer) for peer in core.peers.values())


def problem_of(peer: PeerClient, relays: Iterable[RelayClient]) -> Failure | None:
    """Why frames to this peer go nowhere; None if they do, or if nothing failed yet."""
    live = _is_live(peer)
    if not live and not any(relay.state is RelayState.CONNECTED for relay in relays):
        return NO_RELAY
    return peer.last_error or (None if live or peer.present else ABSENT)


def _is_live(peer: PeerClient) -> bool:
    return peer.path is not None


def home_reason(relay: RelayClient, core: Core) -> str | None:
    """Why this is the home relay; None if it is not."""
    return core.homing.reason if relay is core.home else None


def load_of(relay: RelayClient) -> int | None:
    """What it says of its load; None while it is not connected."""
    return relay.load if relay.state is RelayState.CONNECTED else None


def _relay(relay: RelayClient, home: str | None, carrier: Carrier | None) -> RelayStatus:
    binding, observed = relay.binding, relay.observed
    skew, error = skew_of(relay)
    return RelayStatus(
        address=relay.name,
        node_id=node_id_text(relay.config.id),
        state=relay.state.value,
        rtt_ms=_milliseconds(binding.round_trip.smoothed if binding else None),
        loss=None if relay.loss is None else round(relay.loss, 4),
        load=load_of(relay),
        observed_address=str(observed) if observed else None,
        last_error=told(relay.last_error),
        home=home is not None,
        home_reason=home,
        clock_skew=skew,
        clock_error=error,
        transport=transport_of(relay),
        carrier=_carrier(relay, carrier) if carrier is not None else None,
    )


def transport_of(relay: RelayClient) -> Literal["udp", "tcp"] | None:
    """What the leg runs over; None while the relay is not connected."""
    if relay.state is not RelayState.CONNECTED:
        return None
    return "tcp" if relay.leg.over_tcp else "udp"


def _carrier(relay: RelayClient, carrier: Carrier) -> CarrierStatus:
    secured, tunnel = carrier.secured, carrier.tunnel
    return CarrierStatus(
        address=str(relay.config.tcp),
        tls=secured.version if secured else None,
        cipher=secured.cipher if secured else None,
        key_exchange=secured.key_exchange if secured else None,
        messages_sent=tunnel.sent if tunnel else 0,
        messages_received=tunnel.received if tunnel else 0,
        dropped=tunnel.dropped if tunnel else 0,
    )


def _state(peer: PeerClient, now: float) -> Literal["idle", "connecting", "absent"]:
    if is_idle(peer, now):
        return "idle"
    return "connecting" if peer.present else "absent"


def _path(path: Path, in_use: bool, now: float) -> PathStatus:
    measured = path.rtt is not None
    return PathStatus(
        path=path.name,
        kind=path.kind.value if path.kind is not None else "relay",
        state=path.state.value,
        in_use=in_use,
        rtt_ms=_milliseconds(path.rtt),
        jitter_ms=_milliseconds(path.jitter),
        loss=round(path.loss, 3),
        budget=path.mtu.budget if path.usable else None,
        last_heard=round(max(0.0, now - path.heard_at), 3) if measured else None,
        detail=path.detail or None,
    )


def _peer(
    peer: PeerClient, core: Core, engine: Engine, configured: tuple[Peer, ...], now: float
) -> PeerStatus:
    member = peer.member
    party = Party(member.name, node_id_text(member.node_id), member.groups, member.addresses)
    counters = engine.peer_counters(peer.handle)
    session = peer.session if _is_live(peer) else None
    current = peer.routing.paths.current
    return PeerStatus(
        name=member.name,
        node_id=party.node_id,
        addresses=list(member.addresses),
        groups=list(as_configured(party, configured).groups),
        state="connected" if session else _state(peer, now),
        path=peer.path,
        path_reason=peer.routing.paths.reason if session else None,
        paths=[_path(path, path is current, now) for path in peer.routing.paths.paths] if session else [],
        rtt_ms=_milliseconds(current.rtt) if session and current else None,
        tx_bytes=int(counters["tx_bytes"]) + peer.demand.sent_bytes,
        rx_bytes=int(counters["rx_bytes"]),
        tx_frames=int(counters["tx_frames"]) + peer.demand.sent_frames,
        rx_frames=int(counters["rx_frames"]),
        last_handshake=now - session.established_at if session else None,
        epoch=session.epoch if session else None,
        epoch_age=session.epoch_age(time.monotonic()) if session else None,
        cipher=session.driver.link.cipher if session else None,
        key_exchange=session.driver.link.key_exchange if session else None,
        bridge=peer.may_bridge,
        stations=int(counters.get("stations", 0)),
        refused=peer.refusals.counts,
        refused_example=peer.refusals.example,
        last_error=told(problem_of(peer, core.relays)),
        expires_in=peer_expiry(core, peer),
        renews=peer_renews(core, peer),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)

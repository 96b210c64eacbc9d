"""The firewall of a running client: its rules into the engine, its counters out, and the file read again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from shadowmesh._ext.engine import Engine
from shadowmesh.api.schema import FirewallRule, FirewallStatus, ReloadReply
from shadowmesh.config import ClientConfig, NetworkSection, Peer, load_client_config, refuse_own_id
from shadowmesh.core.node import Core
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.roster import Member
from shadowmesh.overlay.compilation import Compiler, Party
from shadowmesh.overlay.firewall import as_configured, firewall_of, words
from shadowmesh.rules import FirewallSection
from shadowmesh.units import NodeId

_SECTIONS = (
    "node",
    "listen",
    "interface",
    "relays",
    "paths",
    "session",
    "network",
    "aead_library",
    "metrics",
    "log",
    "tracing",
    "names",
)
"""What needs a restart to be changed, besides the peers."""


class Wall:
    """The rules that count now, and the members as their certificates and the configuration call them."""

    def __init__(self, engine: Engine, core: Core) -> None:
        self._engine = engine
        self._core = core
        self._peers: tuple[Peer, ...] = ()
        self._compiler: Compiler | None = None
        core.members.on_learned = self._follow

    def install(self, config: ClientConfig) -> None:
        """Let the engine judge by the rules of `config`. Raises ConfigError if a test of the file fails.

        The peers of `config` that the core does not have (before a restart) are left out.
        """
        firewall_of(config)
        self._peers = config.peers
        self._compiler = None
        if config.firewall is None:
            self._engine.set_firewall(None)
            return
        compiler = Compiler(config.firewall)
        for peer in self._core.peers.values():
            compiler.put(self._party(peer.member))
        self._engine.set_firewall(compiler.compiled())
        self._compiler = compiler

    def _follow(self, member: Member) -> None:
        """Connections of other members stay, and are asked once whether they may."""
        if self._compiler is not None and self._compiler.put(self._party(member)):
            self._engine.set_firewall(self._compiler.compiled(), same_rules=True)

    def _party(self, member: Member) -> Party:
        number = self._core.peers[member.node_id].handle
        known = Party(member.name, node_id_text(member.node_id), member.groups, member.addresses, number)
        return as_configured(known, self._peers)


class Reload(msgspec.Struct, frozen=True):
    """A file that was read again. `wanted` is the file, `config` what of it can run from now on."""

    wanted: ClientConfig
    config: ClientConfig
    reply: ReloadReply


def read_again(running: ClientConfig, file: Path, own: NodeId) -> Reload:
    """The file as it is now. Raises ConfigError, and nothing is changed then."""
    wanted = load_client_config(file)
    refuse_own_id(wanted, own)
    firewall_of(wanted)
    groups = {peer.id: peer.groups for peer in wanted.peers}
    peers = tuple(
        msgspec.structs.replace(peer, groups=groups.get(peer.id, peer.groups)) for peer in running.peers
    )
    config = msgspec.structs.replace(
        running,
        firewall=wanted.firewall,
        peers=peers,
        routes=wanted.routes,
        network=_network(wanted, running),
    )
    applied = ["firewall"] if config.firewall != running.firewall else []
    applied += ["peers[].groups"] if config.peers != running.peers else []
    applied += ["routes"] if config.routes != running.routes else []
    filled = _filled(wanted, running)
    restart = [name for name in _SECTIONS if getattr(filled, name) != getattr(config, name)]
    restart += ["peers"] if wanted.peers != config.peers else []
    return Reload(wanted, config, ReloadReply(applied=applied, restart=restart))


def _network(wanted: ClientConfig, running: ClientConfig) -> NetworkSection | None:
    """The one that runs, with the delegation of the file."""
    if running.network is None or wanted.network is None:
        return running.network
    return msgspec.structs.replace(running.network, delegation=wanted.network.delegation)


def _filled(wanted: ClientConfig, running: ClientConfig) -> ClientConfig:
    """With what a network gave the running one where the file leaves it out."""
    if wanted.network is None:
        return wanted
    interface = msgspec.structs.replace(
        wanted.interface, addresses=wanted.interface.addresses or running.interface.addresses
    )
    return msgspec.structs.replace(wanted, relays=wanted.relays or running.relays, interface=interface)


def firewall_status(engine: Engine, section: FirewallSection | None) -> FirewallStatus | None:
    """The rules with their counters; None without a firewall."""
    counters = engine.firewall_counters()
    if section is None or counters is None:
        return None
    decided, replies = counters["decided"], counters["replies"]
    defaults, resolution = len(section.rules), len(section.rules) + 1
    return FirewallStatus(
        inbound=section.inbound,
        outbound=section.outbound,
        inbound_default=decided[0][defaults],
        outbound_default=decided[1][defaults],
        resolution=decided[0][resolution] + decided[1][resolution],
        default_replies=replies[0][defaults] + replies[1][defaults],
        flows=sum(counters["flows"]),
        untracked=sum(counters["untracked"]),
        rules=list(_counted(section, decided, replies)),
    )


def _counted(
    section: FirewallSection, decided: list[list[int]], replies: list[list[int]]
) -> Iterator[FirewallRule]:
    for index, rule in enumerate(section.rules):
        yield FirewallRule(
            number=index + 1,
            name=rule.name,
            line=rule.line,
            direction=rule.direction,
            action=rule.action,
            text=words(rule),
            decided=decided[0][index] + decided[1][index],
            replies=replies[0][index] + replies[1][index],
        )

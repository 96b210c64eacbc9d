"""The systems of the comparison, one per file, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.systems.fastd import Fastd
from bench.systems.n2n import N2n
from bench.systems.nebula import Nebula
from bench.systems.openvpn import Openvpn
from bench.systems.raw import Raw
from bench.systems.shadowmesh import ShadowMeshBoringssl, ShadowMeshDirect, ShadowMeshRelayed
from bench.systems.tinc import Tinc
from bench.systems.wireguard_go import WireguardGo, WireguardGoCurrent

if TYPE_CHECKING:
    from bench.systems.base import System

CLASSES: tuple[type[System], ...] = (
    Raw,
    ShadowMeshDirect,
    ShadowMeshBoringssl,
    ShadowMeshRelayed,
    WireguardGoCurrent,
    WireguardGo,
    Nebula,
    Fastd,
    N2n,
    Openvpn,
    Tinc,
)
SYSTEMS = {system.name: system for system in CLASSES}

__all__ = ["CLASSES", "SYSTEMS"]

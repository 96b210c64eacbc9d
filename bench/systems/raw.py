"""The bare veth link between the two hosts: what the machine itself can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.systems.base import System

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab


class Raw(System):
    """No overlay at all; the underlay address of the far side."""

    name = "raw"
    cipher = "none"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Nothing to start."""
        return far.address

"""n2n as Debian has it (1.3: Twofish, no authentication), edges that found each other by a supernode."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.systems.base import FAR_ADDRESS, NEAR_ADDRESS, PORT, System, address_interface

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

INTERFACE = "n2n0"


class N2n(System):
    """Two edges and a supernode on a third host; the edges talk directly after their first packets."""

    name = "n2n"
    cipher = "Twofish, not authenticated"
    programs = ("edge", "supernode")
    package = "n2n"
    # It adds 92 bytes to a frame: with 1400, every large frame would travel as two IP fragments.
    mtu = 1360

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Supernode first, then both edges with a random common key."""
        center = lab.host("relay")
        self.spawn(center, ["supernode", "-l", str(PORT)], helper=True)
        # Version 1.3 takes the key as text from the environment or the command line only.
        key = os.urandom(12).hex()
        for host, address in ((far, FAR_ADDRESS), (near, NEAR_ADDRESS)):
            command = ["env", f"N2N_KEY={key}", "edge", "-d", INTERFACE, "-a", address, "-c", "bench"]
            command += ["-l", f"{center.address}:{PORT}", "-M", str(self.mtu), "-u", "0", "-g", "0"]
            self.spawn(host, command)
            address_interface(host, INTERFACE, address, self.mtu)
        return FAR_ADDRESS

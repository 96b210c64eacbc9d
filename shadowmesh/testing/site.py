"""Physical networks behind members: a Linux bridge beside a client, and hosts that know no overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shadowmesh.testing.lab import UNDERLAY_INTERFACE

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import ClientNode, Mesh

LAN_BRIDGE = "lan0"


class Site:
    """The network behind one client, whose configuration then names its bridge; made before the start."""

    def __init__(self, client: ClientNode) -> None:
        self.client = client
        self.lab = client.host.lab
        client.host.add_bridge(LAN_BRIDGE)
        client.config["interface"]["bridge"] = LAN_BRIDGE

    def host(self, name: str, address: str) -> Host:
        """A host in that network with "ADDRESS/PREFIX"."""
        host = self.lab.new_host(name)
        self.lab.plug(host, self.client.host, LAN_BRIDGE)
        host.ip_batch([f"address add {address} dev {UNDERLAY_INTERFACE}"])
        return host

    def cable(self, other: Site, name: str = "cable") -> None:
        """Join both networks by a cable beside the overlay."""
        self.client.host.ip_batch(
            [
                f"link add {name} type veth peer name {name} netns {other.client.host.namespace}",
                f"link set {name} addrgenmode none master {LAN_BRIDGE} up",
            ]
        )
        other.client.host.ip_batch([f"link set {name} addrgenmode none master {LAN_BRIDGE} up"])

    def uncable(self, name: str = "cable") -> None:
        """Take the cable away."""
        self.client.host.ip_batch([f"link delete {name}"])


def allow_bridges(mesh: Mesh, *names: str) -> None:
    """Let every client of a configured mesh take frames from stations behind these."""
    for client in mesh.clients.values():
        for peer in client.config["peers"]:
            if peer["name"] in names:
                peer["rights"] = ["bridge"]

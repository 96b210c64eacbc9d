"""What is odd about a client's configuration that is valid by itself; the identity and the eye find it."""

from __future__ import annotations

import ipaddress

from shadowmesh.config import ClientConfig
from shadowmesh.errors import ConfigError
from shadowmesh.units import NodeId


def refuse_own_id(config: ClientConfig, own: NodeId) -> None:
    """Raise ConfigError if this machine is among its own relays or peers."""
    relays = [("relays", index, "relay", relay.id) for index, relay in enumerate(config.relays)]
    peers = [("peers", index, "peer", peer.id) for index, peer in enumerate(config.peers)]
    for key, index, whose, node_id in relays + peers:
        if node_id == own:
            problem = f"is this machine's own NodeID; put that of the {whose} there"
            raise ConfigError(f"{config.file}: {key}[{index}].id: {problem}")


def doubts(config: ClientConfig, identity_name: str | None = None) -> list[str]:
    """What is allowed and yet looks like a mistake, one line each.

    :param identity_name: the name that the identity was made with, None if that isn't known.
    """
    found = []
    # In a network the certificate says what a member is called.
    if config.network is None and identity_name not in (None, config.node.name):
        made = f"the identity in {config.node.state_dir} was made for {identity_name}"
        found.append(f"{config.file}: node.name: is {config.node.name}, but {made}; is it the right one?")
    networks = [ipaddress.ip_interface(text).network for text in config.interface.addresses]
    for index, peer in enumerate(config.peers):
        for address in peer.addresses:
            ip = ipaddress.ip_address(address)
            if networks and not ip.is_link_local and not any(ip in network for network in networks):
                found.append(
                    f"{config.file}: peers[{index}].addresses: {address} is in no network of "
                    f"interface.addresses, so it needs a route of its own to be reached"
                )
    return found

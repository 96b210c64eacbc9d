"""A Linux bridge that is there: looked up, our TAP put in, our addresses put on it and taken away again.

Makes no bridge and removes none. The TAP leaves the bridge by being removed. Source: netlink by pyroute2.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shadowmesh.errors import DeviceError
from shadowmesh.io.netlink import in_thread

if TYPE_CHECKING:
    from shadowmesh.io.iproute import IPRoute

_IFA_F_NODAD = 0x02
_IFF_UP = 0x01


@dataclass(frozen=True)
class LinuxBridge:
    """What was found: its name, interface index, MAC address (6 bytes), MTU, and whether it is up."""

    name: str
    index: int
    mac: bytes
    mtu: int
    up: bool

    @classmethod
    def find(cls, name: str) -> LinuxBridge:
        """The bridge of this name. Raises DeviceError: there is none, or it is no bridge."""
        return in_thread(lambda: _find(name))


def _find(name: str) -> LinuxBridge:
    from shadowmesh.io.iproute import IPRoute

    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=name)
        if not found:
            text = f"there is no bridge {name}; make it with: ip link add {name} type bridge"
            raise DeviceError(text, "device.bridge")
        link = netlink.get_links(found[0])[0]
    info = link.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "bridge":
        raise DeviceError(f"{name} is no bridge, but an interface of another kind", "device.bridge")
    return LinuxBridge(
        name=name,
        index=found[0],
        mac=bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", "")),
        mtu=link.get_attr("IFLA_MTU"),
        up=bool(link["flags"] & _IFF_UP),
    )


def join(netlink: IPRoute, port: int, bridge: LinuxBridge) -> None:
    """Put the interface with index `port` into the bridge. Raises NetlinkError."""
    # Set once, a bridge keeps its address. Else it takes the lowest of its ports, which may now be ours, and
    # its hosts would lose their DHCP leases and neighbours.
    netlink.link("set", index=bridge.index, address=bridge.mac.hex(":"))
    netlink.link("set", index=port, master=bridge.index)


def add_addresses(netlink: IPRoute, index: int, addresses: Sequence[str], shared: bool) -> list[str]:
    """Put "ADDRESS/PREFIX" on an interface; returns those that were added. Raises DeviceError.

    :param shared: the interface is not ours, and may have some of them already.
    """
    from shadowmesh.io.iproute import NetlinkError

    added: list[str] = []
    for address in addresses:
        host, _, prefix = address.partition("/")
        flags = {"flags": _IFA_F_NODAD} if ":" in host else {}
        try:
            netlink.addr("add", index=index, address=host, prefixlen=int(prefix), **flags)
            added.append(address)
        except NetlinkError as error:
            if not shared or error.code != errno.EEXIST:
                remove_addresses(index, added)
                raise DeviceError(
                    f"can't add {address}: {os.strerror(error.code)}", "device.address"
                ) from error
    return added


def remove_addresses(index: int, addresses: Sequence[str]) -> None:
    """Take away what `add_addresses` put there; what is gone already is no matter."""

    def remove() -> None:
        from shadowmesh.io.iproute import IPRoute, NetlinkError

        with IPRoute() as netlink:
            for address in addresses:
                host, _, prefix = address.partition("/")
                with contextlib.suppress(NetlinkError):
                    netlink.addr("del", index=index, address=host, prefixlen=int(prefix))

    if addresses:
        in_thread(remove)

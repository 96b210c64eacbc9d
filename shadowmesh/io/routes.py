"""Routes into the TAP: put into the kernel's main table and taken out (rtnetlink by pyroute2).

They go with the device; from one that stays, a bridge, whoever has put them in takes them out.  Decides
nothing, and touches no route of others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shadowmesh.overlay.routes import Key

if TYPE_CHECKING:
    from shadowmesh.io.iproute import IPRoute

MAIN_TABLE = 254


def apply(interface: str, before: Mapping[Key, str], wanted: Mapping[Key, str]) -> dict[Key, str]:
    """Make the routes `before` those that are `wanted`; returns why some could not be made.

    Blocks for some milliseconds; call in a thread without an event loop. Raises OSError.
    """
    from shadowmesh.io.iproute import IPRoute, NetlinkError

    failed: dict[Key, str] = {}
    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=interface)
        if not found:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), interface)
        for key in before.keys() - wanted.keys():
            try:
                netlink.route("del", dst=key.to, gateway=before[key], oif=found[0], priority=key.metric)
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENODEV):  # somebody was faster
                    raise OSError(error.code, os.strerror(error.code)) from error
        for key, via in wanted.items():
            if before.get(key) == via:
                continue
            # "replace" takes any route with this prefix and metric: only where that is our own.
            verb = "replace" if key in before else "add"
            try:
                netlink.route(verb, dst=key.to, gateway=via, oif=found[0], priority=key.metric)
            except NetlinkError as error:
                failed[key] = _problem(key, error.code)
    return failed


def restore(interface: str, routes: Mapping[Key, str]) -> None:
    """Put back those of our `routes` that are gone: all go when somebody sets the device down. As `apply`.

    None is taken from others: where there is a route of this prefix and metric, it stays.
    """
    from shadowmesh.io.iproute import IPRoute, NetlinkError

    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=interface)
        present = _present(netlink, found[0]) if found else routes.keys()
        for key in routes.keys() - present:
            with contextlib.suppress(NetlinkError):  # another's, or the device is still down
                netlink.route("add", dst=key.to, gateway=routes[key], oif=found[0], priority=key.metric)


def _present(netlink: IPRoute, index: int) -> set[Key]:
    """The routes of the main table into a device, by one question."""
    dump = netlink.get_routes(family=socket.AF_UNSPEC, table=MAIN_TABLE, oif=index)
    return {
        Key(f"{one.get_attr('RTA_DST')}/{one['dst_len']}", one.get_attr("RTA_PRIORITY") or 0) for one in dump
    }


def _problem(key: Key, code: int) -> str:
    if code == errno.EEXIST:
        return f"there is a route to {key.to} with metric {key.metric} already; set another metric"
    return f"the system refuses the route: {os.strerror(code)}"


def forwards(interface: str, version: int) -> bool:
    """Whether this machine passes packets on that come in by `interface`; reads sysctls, sets none."""
    name = f"/proc/sys/net/ipv4/conf/{interface}/forwarding" if version == 4 else _FORWARDING6
    try:
        with open(name) as file:
            return file.read().strip() not in ("0", "")
    except OSError:
        return False


_FORWARDING6 = "/proc/sys/net/ipv6/conf/all/forwarding"

"""The machine's own network: usable local addresses and the ways out, kept current.

Netlink only wakes us: what an event says is never read.  After a short pause the tables are read anew
(pyroute2), so a burst of events costs one reading, and events that the kernel had to drop (ENOBUFS) cost
nothing else.  A wake-up from sleep counts as a change too.  Decides nothing about paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from shadowmesh.io.shield import survives
from shadowmesh.units import Address

log = logging.getLogger("shadowmesh")

DEBOUNCE = 0.25
"""Seconds from the first event to the reading: an interface that comes up tells ten things in that time."""
READ_SHARE = 10
"""The pause is also this many times as long as the last reading took: 10 % of a core at most."""
RETRY = 5.0
"""Seconds until a reading that failed is tried again."""
SLEEP_CHECK = 2.0
"""Seconds between looks at the clocks."""
SLEEP_JUMP = 1.0
"""Seconds that CLOCK_BOOTTIME must gain on CLOCK_MONOTONIC, which stands still in sleep."""
MAX_ADDRESSES = 32
"""Addresses kept: twice the candidates that a peer is told (architecture section 5)."""
MAX_DRAIN = 4096
"""Events thrown away per reading; more stay for the next."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE. Source: linux/rtnetlink.h."""
_UP_AND_RUNNING = 0x1 | 0x40
_LOOPBACK = 0x8
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
"""Of ifa_flags; 0x01 means "secondary" for IPv4. Source: linux/if_addr.h."""
_OUTSIDE = ((socket.AF_INET, "1.1.1.1"), (socket.AF_INET6, "2606:4700:4700::1111"))
"""Addresses whose route is looked up, since that is the way to the Internet; nothing is sent to them."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Gateway(NamedTuple):
    """The way out of one family. `host` is empty on links without a gateway (point to point)."""

    host: str
    """Next hop; link-local ones with %INDEX."""
    source: str
    """Our address on that way."""
    interface: int


class Snapshot(NamedTuple):
    """What one reading found. `carriers` tells a link that went and came back from one that stayed."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    carriers: tuple[tuple[int, int], ...] = ()


class LocalAddress(NamedTuple):
    """One address as the kernel has it; `flags` are ifa_flags."""

    host: str
    interface: int
    flags: int


def usable(
    found: Iterable[LocalAddress], running: Iterable[int], overlay: Sequence[Network], first: int = 0
) -> dict[str, int]:
    """The addresses under which others may reach this machine, and their interfaces; at most `MAX_ADDRESSES`.

    Those of the interface `first` come first.  Left out: loopback, multicast, the overlay's own, those that
    are tentative, refused by duplicate detection or deprecated, and temporary ones (RFC 8981) beside a
    stable one of the same /64: a candidate should outlive the day.  Link-local ones of IPv6 carry %INDEX;
    those of links without any other address are left out, since containers come and go with such links.
    """
    links = set(running)
    good = []
    for one in found:
        ip = ipaddress.ip_address(one.host)
        refused = one.flags & (_DAD_FAILED | _DEPRECATED | _TENTATIVE)
        foreign = ip.is_loopback or ip.is_multicast or ip.is_unspecified or any(ip in net for net in overlay)
        if one.interface in links and not refused and not foreign:
            good.append((one, ip))
    stable = {(one.interface, ip.packed[:8]) for one, ip in good if not one.flags & _TEMPORARY}
    wider = {one.interface for one, ip in good if not (ip.version == 6 and ip.is_link_local)}
    hosts: dict[str, int] = {}
    for one, ip in sorted(good, key=lambda item: item[0].interface != first):
        if ip.version == 6 and one.flags & _TEMPORARY and (one.interface, ip.packed[:8]) in stable:
            continue
        scoped = ip.version == 6 and ip.is_link_local
        if one.interface in wider and len(hosts) < MAX_ADDRESSES:
            hosts[f"{ip}%{one.interface}" if scoped else str(ip)] = one.interface
    return hosts


def read(own_interface: str, overlay: Sequence[Network]) -> Snapshot:
    """Ask the kernel now. Blocks for some milliseconds; call in a thread without an event loop.

    Raises OSError.
    """
    from shadowmesh.io.iproute import IPRoute, NetlinkError

    try:
        with IPRoute() as netlink:
            running = {
                link["index"]: int(link.get_attr("IFLA_CARRIER_CHANGES") or 0)
                for link in netlink.get_links()
                if link["flags"] & _UP_AND_RUNNING == _UP_AND_RUNNING
                and not link["flags"] & _LOOPBACK
                and link.get_attr("IFLA_IFNAME") != own_interface
            }
            found = [_local_address(message) for message in netlink.get_addr()]
            gateways = []
            for family, outside in _OUTSIDE:
                with contextlib.suppress(NetlinkError):  # no route
                    gateways += [_gateway(one) for one in netlink.route("get", dst=outside, family=family)]
    except NetlinkError as error:
        raise OSError(error.code, f"netlink: {error}") from error
    ways = tuple(way for way in gateways if way.interface in running)
    hosts = usable(found, running, overlay, ways[0].interface if ways else 0)
    carriers = tuple(sorted((link, running[link]) for link in set(hosts.values())))
    return Snapshot(tuple(hosts), ways, carriers)


def _local_address(message: Any) -> LocalAddress:
    # IFA_LOCAL is ours where IFA_ADDRESS is the other end's (point to point).
    host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    return LocalAddress(host, message["index"], message["flags"] if flags is None else flags)


def _gateway(route: Any) -> Gateway:
    host, interface = route.get_attr("RTA_GATEWAY") or "", int(route.get_attr("RTA_OIF") or 0)
    if host and ipaddress.ip_address(host).is_link_local and ":" in host:
        host = f"{host}%{interface}"
    return Gateway(host, route.get_attr("RTA_PREFSRC") or "", interface)


def time_asleep() -> float:
    """Seconds that this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class NetworkMonitor:
    """Calls `on_change` with the local addresses at the start and whenever they, the routes or links change.

    :param bound: where the UDP socket is bound; "::" and "0.0.0.0" mean every address.
    :param own_interface: the TAP, which is no underlay.
    :param overlay: networks of the overlay, "ADDRESS/PREFIX LENGTH".
    :param asleep: tells the seconds spent asleep so far.
    :param on_wake: called soon after netlink said something, whatever it was.
    """

    def __init__(
        self,
        on_change: Callable[[list[Address]], None],
        bound: Address,
        own_interface: str,
        overlay: Iterable[str],
        asleep: Callable[[], float] = time_asleep,
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.snapshot = Snapshot()
        self.changes = 0
        self._on_change = on_change
        self._bound = bound
        self._own_interface = own_interface
        self._overlay = [ipaddress.ip_interface(text).network for text in overlay]
        self._asleep = asleep
        self._on_wake = on_wake
        self._woke = False
        self._wake = asyncio.Event()
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._read_took = 0.0

    @property
    def addresses(self) -> list[Address]:
        """Where peers may reach our socket, as far as this machine knows; the best guess first."""
        host, port = self._bound
        if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            return [Address(host, port)] if host in self.snapshot.hosts else []
        return [Address(one, port) for one in self.snapshot.hosts if host == "::" or ":" not in one]

    def start(self) -> None:
        """Begin to listen, then read once: nothing can fall between. Raises OSError without netlink.

        The first reading waits `DEBOUNCE` as every other: a node that starts has better things to do.
        """
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        self._wake.set()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._watch_sleep())]

    async def stop(self) -> None:
        """Listen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def _follow(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            loop.add_reader(self._socket, self._wake.set)
            await self._wake.wait()
            self._wake.clear()
            # Not read while we pause: what the socket can't hold is dropped by the kernel, at no cost to us.
            loop.remove_reader(self._socket)
            await asyncio.sleep(max(DEBOUNCE, READ_SHARE * self._read_took))
            survives(self._drain)
            survives(self._on_wake)
            await self._refresh()

    async def _watch_sleep(self) -> None:
        known = self._asleep()
        while True:
            await asyncio.sleep(SLEEP_CHECK)
            asleep = self._asleep()
            if asleep - known > SLEEP_JUMP:
                log.info("woke up after %.0f s of sleep", asleep - known)
                self._woke = True
                self._wake.set()
            known = asleep

    def _drain(self) -> None:
        assert self._socket is not None
        for _ in range(MAX_DRAIN):
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # events were lost: the reading to come makes up for them
                    raise

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            snapshot = await asyncio.to_thread(read, self._own_interface, self._overlay)
        except Exception as error:  # with no descriptor or memory left, what pyroute2 raises is its own
            line = "the network's state is read again soon, as it can't be read now: %s [machine.netlink]"
            log.warning(line, str(error) or type(error).__name__)
            asyncio.get_running_loop().call_later(RETRY, self._wake.set)
            return
        self._read_took = time.monotonic() - began
        if snapshot == self.snapshot and not self._woke and self.changes:
            return
        self.snapshot, self._woke = snapshot, False
        self.changes += 1
        survives(self._on_change, self.addresses)

"""Reads what the machine itself says: kernel, memory, clock, capabilities, links, routes, nftables.

The edge below `gather`, for what has nothing to do with our client. Changes nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from shadowmesh import __version__
from shadowmesh.diagnosis.facts import HostFirewall, Kernel, Link, Machine, Surroundings, Unseen, Way
from shadowmesh.errors import DeviceError
from shadowmesh.io.udp import open_udp

COMMAND_TIMEOUT = 5.0
"""Seconds for a tool of the system."""
_CAP_NET_ADMIN = 12
_UDP_SEGMENT, _UDP_GRO = 103, 104
"""Socket options of level IPPROTO_UDP. Source: linux/udp.h."""
_TUNGETFEATURES, _IFF_VNET_HDR = 0x800454CF, 0x4000
_TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock."""
_TIMEX_SIZE = 512
"""Bytes, more than struct timex has anywhere."""
_MAIN_TABLE = 254
_UNICAST = 1
_IFF_UP = 0x1


def read_machine() -> Machine:
    """What runs here, and as whom."""
    return Machine(
        system=platform.system(),
        release=platform.release(),
        architecture=platform.machine(),
        memory=_memory_left(),
        python=sys.version_info[:2],
        openssl=ssl.OPENSSL_VERSION_INFO[:2],
        openssl_text=ssl.OPENSSL_VERSION,
        installed=__version__,
        root=os.geteuid() == 0,
        net_admin=_may_make_interfaces(),
        synchronised=_synchronised(),
    )


def read_kernel(netlink: str) -> Kernel:
    """What it offers. `netlink`: why it could not be asked for links and routes, else empty."""
    tun, vnet = _tun()
    try:
        with open_udp("127.0.0.1", 0) as udp:
            # The kernel tells twice what may be used (socket(7)).
            buffer = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    except DeviceError:
        buffer = 0
    return Kernel(
        tun=tun,
        vnet_header=vnet,
        udp_segments=_takes(socket.IPPROTO_UDP, _UDP_SEGMENT, 0),
        udp_coalesces=_takes(socket.IPPROTO_UDP, _UDP_GRO, 1),
        shares_ports=_takes(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
        netlink=netlink,
        ipv6=socket.has_dualstack_ipv6(),
        receive_buffer=buffer,
        receive_limit=_number("/proc/sys/net/core/rmem_max"),
    )


def read_surroundings() -> Surroundings | Unseen:
    """Links with addresses, and the routes of the main table."""
    from shadowmesh.io.iproute import IPRoute, NetlinkError

    try:
        with IPRoute() as netlink:
            addresses: dict[int, list[str]] = {}
            for one in netlink.get_addr():
                host = one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")
                addresses.setdefault(one["index"], []).append(f"{host}/{one['prefixlen']}")
            found = {link["index"]: link for link in netlink.get_links()}
            links = tuple(_link(link, addresses.get(index, [])) for index, link in found.items())
            names = {index: str(link.get_attr("IFLA_IFNAME")) for index, link in found.items()}
            routes = netlink.get_routes(family=socket.AF_UNSPEC, table=_MAIN_TABLE)
            return Surroundings(links=links, ways=tuple(_way(one, names) for one in routes if _leads(one)))
    except (NetlinkError, OSError) as error:
        return Unseen(f"links and routes can't be read: {error}")


def read_firewall() -> HostFirewall | Unseen:
    """The rules of nftables, which root alone may see."""
    text = output_of("nft", "-j", "list", "ruleset")
    if isinstance(text, Unseen):
        return text
    try:
        legacy = (
            Path("/proc/net/ip_tables_names").read_text() + Path("/proc/net/ip6_tables_names").read_text()
        )
    except OSError:
        legacy = ""
    try:
        return HostFirewall(ruleset=tuple(json.loads(text)["nftables"]), legacy=bool(legacy.strip()))
    except (ValueError, KeyError, TypeError):
        return Unseen("what nft tells is no JSON")


def output_of(*command: str) -> str | Unseen:
    """What a tool of the system prints."""
    if shutil.which(command[0]) is None:
        return Unseen(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unseen(f"{command[0]}: {error}")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return Unseen(f"{command[0]}: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _memory_left() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def _may_make_interfaces() -> bool:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return os.geteuid() == 0
    mask = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(mask, 16) >> _CAP_NET_ADMIN & 1)


def _synchronised() -> bool | None:
    """By adjtimex(2) with no mode set, which reads only."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    except (AttributeError, OSError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR


def _tun() -> tuple[str | Unseen, bool | Unseen]:
    """What is wrong with /dev/net/tun, and whether it knows IFF_VNET_HDR. Makes no interface."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid():
            unseen = Unseen("this user may not open /dev/net/tun")
            return unseen, unseen
        remedy = "load the module with `modprobe tun`, or give the container that device"
        return f"/dev/net/tun can't be opened ({error.strerror}): {remedy}", Unseen(
            "there is no /dev/net/tun"
        )
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)), sys.byteorder)
    except OSError:
        flags = 0
    finally:
        os.close(fd)
    return "", bool(flags & _IFF_VNET_HDR)


def _takes(level: int, option: int, value: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.setsockopt(level, option, value)
        except OSError:
            return False
    return True


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _link(message: Any, addresses: list[str]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        up=bool(message["flags"] & _IFF_UP),
        addresses=tuple(addresses),
    )


def _leads(message: Any) -> bool:
    """A route into a device, other than link-local and multicast ones of IPv6, which every device has."""
    to = str(message.get_attr("RTA_DST") or "")
    return message["type"] == _UNICAST and not to.startswith(("fe80:", "ff"))


def _way(message: Any, names: dict[int, str]) -> Way:
    to = message.get_attr("RTA_DST") or ("::" if message["family"] == socket.AF_INET6 else "0.0.0.0")
    hops = message.get_attr("RTA_MULTIPATH") or []
    index = message.get_attr("RTA_OIF") or next((hop["oif"] for hop in hops), 0)
    return Way(to=f"{to}/{message['dst_len']}", device=names.get(index, "?"))

"""The TAP device: made, configured and removed. Reads and writes no frame; that is the engine's work.

The device lives exactly as long as its file descriptor (it is not persistent), so a crash of the
process removes device, addresses and routes with it.
Source: Linux Documentation/networking/tuntap.rst; netlink by pyroute2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from shadowmesh.errors import DeviceError
from shadowmesh.io.bridge import LinuxBridge, add_addresses, join, remove_addresses
from shadowmesh.io.netlink import in_thread

if TYPE_CHECKING:
    from shadowmesh.io.iproute import IPRoute

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNGETIFF: Final = 0x800454D2
_TUNGETFEATURES: Final = 0x800454CF
_TUNSETOFFLOAD: Final = 0x400454D0
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x0001
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
"""Refuse to attach to a device that exists: it would be somebody else's."""

_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_OFFLOADS: Final = (
    (("checksum", "tso", "uso"), _CSUM | _TSO4 | _TSO6 | _TSO_ECN | _USO4 | _USO6),
    (("checksum", "tso"), _CSUM | _TSO4 | _TSO6 | _TSO_ECN),  # before Linux 6.2
    ((), 0),
)
"""What the kernel may leave to us, the best first: each is an all-or-nothing request."""

_VNET_SIZE: Final = 10
"""Bytes of struct virtio_net_hdr."""

_IFREQ: Final = struct.Struct("16sH22x")
"""struct ifreq of 40 bytes: name, flags, padding."""

_IPV6_SETTINGS: Final = {
    "accept_ra": "0",  # routers of the overlay are decided by configuration, not by whoever advertises
    "accept_dad": "0",  # the MAC is derived from the NodeID: the link-local address is usable at once
    "keep_addr_on_down": "1",  # as the kernel does with those of IPv4: whoever sets it up again finds them
}

_IPV6_OFF: Final = {"disable_ipv6": "1"}
"""In a bridge, the bridge has the addresses."""

_EUI64, _NO_ADDRESS = 0, 1
"""Which link-local address the kernel makes (<linux/if_link.h>): that of the MAC, as peers take no other;
or none, in a bridge. Set by netlink: a container has /proc/sys read-only."""


class Tap:
    """An open TAP device; a context manager that removes it. Made by `open` only."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self._vnet = bool(_IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))[1] & _IFF_VNET_HDR)
        self.offloads = _set_offloads(fd) if self._vnet else ()
        """What the kernel leaves to the engine: of "checksum", "tso", "uso"."""
        self._bridge: LinuxBridge | None = None
        self.lent: list[str] = []
        """Addresses that we put on the bridge."""
        self.unset: list[str] = []
        """Settings that differ from ours, such as "accept_ra=1", as /proc/sys is read-only."""

    @classmethod
    def open(
        cls, name: str, mac: bytes, mtu: int, addresses: Sequence[str], bridge: LinuxBridge | None = None
    ) -> Tap:
        """Make device `name`, non-blocking, up, with `mac` (6 bytes) and "ADDRESS/PREFIX" addresses.

        With `bridge` it becomes a port of that one, and the addresses are the bridge's.

        Raises DeviceError with what to do about it; then nothing is left behind. Blocks for a few
        milliseconds (more at the first call, which imports pyroute2). Safe inside an event loop.
        """
        tap = cls(_create(name), name)
        try:
            tap.unset = _set_ipv6(name, _IPV6_SETTINGS if bridge is None else _IPV6_OFF)
            tap._bridge = bridge
            tap.lent = in_thread(lambda: _configure(name, mac, mtu, addresses, bridge))
        except BaseException:
            tap.close()
            raise
        return tap

    def fileno(self) -> int:
        """The descriptor: each read and write is one whole Ethernet frame or super-frame.

        Before it is a virtio_net_hdr of 10 bytes, if the kernel knows IFF_VNET_HDR (TUNGETIFF tells).
        """
        return self._fd

    @property
    def gone(self) -> bool:
        """Whether somebody has removed the device: the descriptor outlives it, and carries nothing."""
        try:
            fcntl.ioctl(self._fd, _TUNGETIFF, bytes(_IFREQ.size))
        except OSError:
            return True
        return False

    @property
    def up(self) -> bool:
        """Whether the kernel has it, administratively up (netdevice(7))."""
        if self.gone:
            return False
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            found = fcntl.ioctl(asked, _SIOCGIFFLAGS, _IFREQ.pack(self.name.encode(), 0))
        return bool(_IFREQ.unpack(found)[1] & _IFF_UP)

    def write(self, frame: bytes) -> bool:
        """Hand one Ethernet frame to the kernel, beside the engine; False if it takes none now."""
        head = bytes(_VNET_SIZE) if self._vnet else b""
        try:
            return os.write(self._fd, head + frame) > 0
        except OSError:
            return False

    def forget_stations(self) -> None:
        """Let the bridge forget what it has learned behind this port, so that it looks elsewhere."""
        with contextlib.suppress(OSError):
            Path(f"/sys/class/net/{self.name}/brport/flush").write_text("1")

    def close(self) -> None:
        """Remove the device with everything that hangs on it. Again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._bridge is not None:
            remove_addresses(self._bridge.index, self.lent)
            self._bridge = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(name: str) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(_open_problem(error), "device.tun") from error
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL | (_features(fd) & _IFF_VNET_HDR)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise DeviceError(_create_problem(name, error), "device.create") from error
    return fd


def _features(fd: int) -> int:
    """Flags that TUNSETIFF takes here."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _set_offloads(fd: int) -> tuple[str, ...]:
    """The first of `_OFFLOADS` that the kernel agrees to."""
    for names, value in _OFFLOADS:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, value)
            return names
    return ()


def _open_problem(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{_DEVICE} is not there: load the module with `modprobe tun`, or give it to the container"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"may not open {_DEVICE}: run as root, or give the container that device"
    return f"can't open {_DEVICE}: {error.strerror}"


def _create_problem(name: str, error: OSError) -> str:
    if error.errno in (errno.EBUSY, errno.EINVAL, errno.EEXIST):
        return f"there is an interface {name} already: set another interface.name, or remove it"
    if error.errno == errno.EPERM:
        return f"may not make the interface {name}: that needs root (CAP_NET_ADMIN)"
    return f"can't make the interface {name}: {error.strerror}"


def _set_ipv6(name: str, settings: Mapping[str, str]) -> list[str]:
    """Before the device goes up. A kernel without IPv6 has no such files. Returns what is read-only."""
    folder = Path("/proc/sys/net/ipv6/conf") / name
    unset: list[str] = []
    for key, value in settings.items():
        try:
            found = (folder / key).read_text().strip()
            if found != value:
                (folder / key).write_text(value)
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno != errno.EROFS:
                raise DeviceError(f"can't set {key} of {name}: {error.strerror}") from error
            unset.append(f"{key}={found}")
    return unset


def _set_link_local(netlink: IPRoute, index: int, mode: int) -> None:
    """Before the device goes up. Raises NetlinkError."""
    from shadowmesh.io.iproute import NetlinkError

    family = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", mode)]}
    try:
        netlink.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", family)]})
    except NetlinkError as error:
        if error.code != errno.EAFNOSUPPORT:  # a kernel without IPv6, or an MTU below what that needs
            raise


def _configure(
    name: str, mac: bytes, mtu: int, addresses: Sequence[str], bridge: LinuxBridge | None
) -> list[str]:
    """Returns the addresses that a bridge was given."""
    from shadowmesh.io.iproute import IPRoute, NetlinkError

    step = "find it"
    lent: list[str] = []
    try:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            step = f"set its MAC address and MTU {mtu}"
            netlink.link("set", index=index, address=mac.hex(":"), mtu=mtu)
            step = "choose its link-local address"
            _set_link_local(netlink, index, _EUI64 if bridge is None else _NO_ADDRESS)
            if bridge is not None:
                step = f"make it a port of {bridge.name}"
                join(netlink, index, bridge)
            if bridge is not None:
                lent = add_addresses(netlink, bridge.index, addresses, shared=True)
            else:
                add_addresses(netlink, index, addresses, shared=False)
            step = "set it up"
            netlink.link("set", index=index, state="up")
            return lent
    except DeviceError as error:
        raise DeviceError(f"interface {name}: {error}", error.error_id) from error
    except (NetlinkError, OSError, IndexError) as error:
        if bridge is not None:
            remove_addresses(bridge.index, lent)
        reason = os.strerror(error.code) if isinstance(error, NetlinkError) else str(error)
        raise DeviceError(f"interface {name}: can't {step}: {reason}") from error

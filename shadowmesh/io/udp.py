"""The UDP socket of a node or relay, and addresses in the form that the kernel takes.

One socket serves IPv4 and IPv6 (IPv4 as mapped addresses, RFC 4291 section 2.5.5.2); where the kernel has
no IPv6, it is an IPv4 socket.  The engine's threads and asyncio share it.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator

from shadowmesh.errors import DeviceError
from shadowmesh.units import Address, Whole

BUFFER = 4 << 20
"""Bytes of socket buffer each way; with 208 KB a fast stream lost 125,000 packets (measured)."""
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2s4s16sI")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT, _PMTUDISC_DO = 10, 23, 0, 2
ALWAYS_FITS = 1000
"""Bytes of UDP payload that are sent without a thought to the MTU: nearly all of our control datagrams."""


def open_udp(host: str, port: int, beside: bool = False, receive_buffer: int = BUFFER) -> socket.socket:
    """A bound, non-blocking socket that does not fragment (but see `send`). Raises DeviceError.

    :param host: a local address; "::" and "0.0.0.0" mean all of that family, "::" IPv4 too.
    :param beside: other sockets of ours may have this port, with SO_REUSEPORT.
    :param receive_buffer: bytes, as far as we may.
    """
    try:
        ipv6 = ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        raise DeviceError(f"can't listen on {host!r}: it is no IP address", "device.listen") from None
    if host == "::" and not socket.has_dualstack_ipv6():
        host, ipv6 = "0.0.0.0", False
    udp = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        udp.setblocking(False)
        if beside:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ipv6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _discover_mtu(udp, _PMTUDISC_DO)
        _enlarge(udp, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer)
        _enlarge(udp, _SO_SNDBUFFORCE, socket.SO_SNDBUF, BUFFER)
        udp.bind((host, port))
    except OSError as error:
        udp.close()
        text = f"can't listen on UDP {Address(host, port)}: {why_not(error)}"
        raise DeviceError(text, "device.listen") from error
    return udp


def why_not(error: OSError) -> str:
    """Why a port could not be opened, and what to do about it."""
    remedy = {
        errno.EADDRINUSE: ": another program has that port",
        errno.EACCES: ": ports below 1024 are for root or CAP_NET_BIND_SERVICE (systemd: configs/ports.conf)",
    }
    return f"{error.strerror}{remedy.get(error.errno or 0, '')}"


def _enlarge(udp: socket.socket, forced: int, polite: int, size: int) -> None:
    """Past net.core.?mem_max where we may, else as far as we may."""
    try:
        udp.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, polite, size)


def local_address(udp: socket.socket) -> Address:
    """Where the socket is bound."""
    host, port = udp.getsockname()[:2]
    return Address(host, port)


def to_sockaddr(address: Address, family: int) -> bytes:
    """The kernel's form: sockaddr_in6 (28 bytes) for an AF_INET6 socket, else sockaddr_in (16).

    Raises ValueError if the family can't reach the address.
    """
    host, _, zone = address.host.partition("%")
    ip = ipaddress.ip_address(host)
    port = address.port.to_bytes(2, "big")
    if family == socket.AF_INET:
        if ip.version != 4:
            raise ValueError("an IPv4 socket can't reach an IPv6 address")
        return _SOCKADDR_IN.pack(socket.AF_INET, port, ip.packed)
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    scope = (int(zone) if zone.isdigit() else socket.if_nametoindex(zone)) if zone else 0
    return _SOCKADDR_IN6.pack(socket.AF_INET6, port, bytes(4), packed, scope)


def from_sockaddr(sockaddr: bytes) -> Address:
    """The inverse of `to_sockaddr`; mapped IPv4 comes back as IPv4."""
    if len(sockaddr) == _SOCKADDR_IN.size:
        _, port, packed = _SOCKADDR_IN.unpack(sockaddr)
        return Address(str(ipaddress.IPv4Address(packed)), int.from_bytes(port, "big"))
    _, port, _, packed, scope = _SOCKADDR_IN6.unpack(sockaddr)
    ip = ipaddress.IPv6Address(packed)
    zone = f"%{scope}" if scope else ""
    return Address(str(ip.ipv4_mapped or ip) + zone, int.from_bytes(port, "big"))


def receive(udp: socket.socket) -> tuple[bytes, Address] | None:
    """A control datagram and where it came from; None if there is none now."""
    try:
        data, (host, port, *_) = udp.recvfrom(65536)
    except OSError:  # nothing there, or the ICMP error of an earlier datagram: neither is ours to judge
        return None
    return data, Address(host.removeprefix("::ffff:") if "." in host else host, port)


def send(udp: socket.socket, data: bytes, address: Address) -> bool:
    """Send a control datagram; False if the kernel would not take it (QUIC and BIND send again).

    QUIC must come through where paths carry less than its 1200 bytes, so IP may fragment it; the probes of
    a path, which are to tell what that carries, are `Whole`.
    """
    host = address.host
    if udp.family == socket.AF_INET6 and ":" not in host:
        host = f"::ffff:{host}"
    with contextlib.suppress(OSError):
        if isinstance(data, Whole) or len(data) <= ALWAYS_FITS:
            udp.sendto(data, (host, address.port))
        else:
            with _fragmenting(udp):
                udp.sendto(data, (host, address.port))
        return True
    return False


@contextlib.contextmanager
def _fragmenting(udp: socket.socket) -> Iterator[None]:
    """Let IP fragment. What the engine sends meanwhile is no larger than its path."""
    _discover_mtu(udp, _PMTUDISC_DONT)
    try:
        yield
    finally:
        _discover_mtu(udp, _PMTUDISC_DO)


def _discover_mtu(udp: socket.socket, mode: int) -> None:
    if udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
    udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)

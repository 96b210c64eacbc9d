"""Keeps one port of the default gateway's outside address mapped to our UDP socket, while there is one.

PCP and NAT-PMP by `shadowmesh.path.portmap` over a socket that is connected to the gateway, so the kernel
drops what others send; UPnP by `shadowmesh.io.upnp` where these two are not offered.  Nothing here is
needed for a node to work: a failure is a line in `report`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable

from shadowmesh.errors import BadPacket
from shadowmesh.io.network import Gateway
from shadowmesh.io.upnp import UpnpMapping, find_and_map
from shadowmesh.path.portmap import LIFETIME, TRY_AGAIN, PortMapping
from shadowmesh.units import Address
from shadowmesh.wire.portmap import MAX_REPLY, PORT

MAX_READ = 16
"""Answers read at once; a gateway that sends more waits."""


class PortMapper:
    """Follows the default gateway. Call everything in the event loop.

    :param on_change: called with the mapped address, or None when there is none any more.
    :param port: of our UDP socket.
    """

    def __init__(self, on_change: Callable[[Address | None], None], port: int) -> None:
        self.drops: Counter[str] = Counter()
        self.external: Address | None = None
        self._on_change = on_change
        self._port = port
        self._gateway: Gateway | None = None
        self._mapping: PortMapping | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._upnp: UpnpMapping | None = None
        self._upnp_task: asyncio.Task[None] | None = None
        self._upnp_report = ""

    @property
    def busy(self) -> bool:
        """Whether the first answer is still to come."""
        searching = self._upnp_task is not None and not self._upnp_report
        asking = self._mapping is not None and not self._mapping.exhausted and not self._mapping.settled
        return self.external is None and (searching or asking)

    @property
    def report(self) -> dict[str, str]:
        """Protocol (pcp, nat-pmp, upnp) -> how it went, for people; only those that were tried."""
        found = dict(self._mapping.report) if self._mapping is not None else {}
        return found | ({"upnp": self._upnp_report} if self._upnp_report else {})

    def handle_network(self, gateways: Iterable[Gateway]) -> None:
        """The network changed: ask the gateway that there is now, also if it has the address of the old one.

        Where our own address towards it is a public one, there is nothing to map.
        """
        ways = (way for way in gateways if way.host and way.source and ":" not in way.host)
        gateway = next((way for way in ways if not ipaddress.ip_address(way.source).is_global), None)
        if self._mapping is not None and gateway == self._gateway:
            self._mapping.refresh(time.monotonic())
            self._drive()
            return
        self._forget()
        self._gateway = gateway
        if gateway is not None:
            self._begin(gateway)
        self._tell()

    def _begin(self, gateway: Gateway) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            udp = socket.socket(socket.AF_INET, kind)
        except OSError:
            return  # no descriptor is free; nothing here is needed for a node to work
        try:
            udp.bind((gateway.source, 0))
            udp.connect((gateway.host, PORT))
        except OSError:
            udp.close()  # the network has changed again; the monitor tells us soon
            return
        self._socket = udp
        self._mapping = PortMapping(secrets.token_bytes, gateway.source, self._port, time.monotonic())
        asyncio.get_running_loop().add_reader(udp, self._serve_socket)
        self._drive()

    async def stop(self) -> None:
        """Delete the mapping at the gateway; waits for UPnP only, and not long."""
        upnp = self._upnp
        self._forget()
        if upnp is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(upnp.release(), 1.0)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._upnp_task is not None:
            self._upnp_task.cancel()
        if self._socket is not None:
            farewell = self._mapping.release() if self._mapping is not None else None
            if farewell is not None:
                self._send(farewell)
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._timer = self._upnp_task = self._socket = self._mapping = self._upnp = None
        self._upnp_report = ""

    def _serve_socket(self) -> None:
        assert self._socket is not None
        assert self._mapping is not None
        for _ in range(MAX_READ):
            now = time.monotonic()
            try:
                self._mapping.handle_reply_untrusted(self._socket.recv(MAX_REPLY + 1), now)
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                self._mapping.handle_unreachable(now)
            except OSError:
                break  # the way to the gateway is gone: the monitor tells us soon
            except BadPacket as error:
                self.drops[error.reason] += 1
        self._drive()

    def _drive(self) -> None:
        assert self._mapping is not None
        now = time.monotonic()
        while (request := self._mapping.poll(now)) is not None:
            self._send(request)
        if self._mapping.exhausted and self._upnp is None:
            self._upnp_task = asyncio.create_task(self._keep_upnp())
        if self._timer is not None:
            self._timer.cancel()
        if self._mapping.deadline is not None:
            delay = max(0.0, self._mapping.deadline - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._drive)
        self._tell()

    def _send(self, request: bytes) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # lost: asked again
            self._socket.send(request)

    async def _keep_upnp(self) -> None:
        assert self._gateway is not None
        self._upnp = mapping = UpnpMapping(self._gateway.host, self._gateway.source, self._port)
        while True:
            outside, self._upnp_report = await find_and_map(mapping)
            self._tell()
            await asyncio.sleep(TRY_AGAIN if outside is None else LIFETIME / 2)

    def _tell(self) -> None:
        external = self._mapping.external if self._mapping is not None else None
        if external is None and self._upnp is not None:
            external = self._upnp.external
        if external != self.external:
            self.external = external
            self._on_change(external)

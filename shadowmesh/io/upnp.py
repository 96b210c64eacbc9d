"""Port mapping by UPnP-IGD, for gateways that speak neither PCP nor NAT-PMP; by async-upnp-client.

That package is optional (the extra `upnp`).  UPnP answers come from whoever is on the local network, so
only the default gateway is believed: its address must be in every URL that is fetched, and answers are
bounded in size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from shadowmesh.errors import ShadowMeshError
from shadowmesh.path.portmap import LIFETIME, problem_of_outside
from shadowmesh.units import Address

if TYPE_CHECKING:
    from async_upnp_client.client import UpnpRequester
    from async_upnp_client.const import HttpRequest, HttpResponse
    from async_upnp_client.profiles.igd import IgdDevice

log = logging.getLogger(__name__)

SEARCH_TIME = 2
"""Seconds to wait for answers to the search; the search asks devices to answer within as many."""
REQUEST_TIMEOUT = 5.0
MAX_BODY = 262_144
"""Bytes of one description or answer: ten times those of well-known routers."""
TRIES = 3
"""Ports asked for, if others have the first."""
DESCRIPTION = "ShadowMesh"
_PERMANENT_ONLY = 725
"""OnlyPermanentLeasesSupported. Source: UPnP WANIPConnection:2, table 2-20."""
_EVERYBODY = ipaddress.IPv4Address(0)


class UpnpFailed(ShadowMeshError):
    """No mapping; the text says why."""


class NotInstalled(UpnpFailed):
    """The optional package is not there."""


class UpnpMapping:
    """One UDP port at the gateway.

    :param gateway: its IPv4 address.
    :param source: our IPv4 address towards it.
    :param port: of our UDP socket.
    """

    def __init__(self, gateway: str, source: str, port: int) -> None:
        self.external: Address | None = None
        self._gateway, self._source, self._port = gateway, source, port
        self._device: IgdDevice | None = None
        self._outside_port = 0

    async def renew(self) -> Address:
        """Find the gateway if that was not done yet, and (again) ask it for the port. Raises UpnpFailed."""
        self.external = None
        try:
            from async_upnp_client.exceptions import UpnpError
        except ImportError:
            raise NotInstalled("not installed (see Extras in docs/install.md)") from None
        try:
            if self._device is None:
                self._device = await self._find()
            await self._map(self._device)
            host = await self._device.async_get_external_ip_address()
        except (UpnpError, OSError) as error:
            self._device = None
            raise UpnpFailed(f"failed: {error}") from error
        problem = problem_of_outside(host or "")
        if problem:
            raise UpnpFailed(problem)
        self.external = Address(str(host), self._outside_port)
        return self.external

    async def release(self) -> None:
        """Delete the mapping, if there is one and the gateway listens."""
        if self._device is None or not self._outside_port:
            return
        port, self._outside_port, self.external = self._outside_port, 0, None
        with contextlib.suppress(Exception):  # we are going; leases end by themselves
            await self._device.async_delete_port_mapping(_EVERYBODY, port, "UDP")

    async def _find(self) -> IgdDevice:
        from async_upnp_client.client_factory import UpnpFactory
        from async_upnp_client.profiles.igd import IgdDevice
        from async_upnp_client.search import async_search
        from async_upnp_client.utils import CaseInsensitiveDict

        locations: dict[str, None] = {}

        async def collect(answer: CaseInsensitiveDict) -> None:
            location = str(answer.get("location", ""))
            if answer.get("st") in IgdDevice.DEVICE_TYPES and _belongs_to(location, self._gateway):
                locations[location] = None

        source = (self._source, 0)
        kinds = IgdDevice.DEVICE_TYPES
        await asyncio.gather(*(async_search(collect, SEARCH_TIME, kind, source) for kind in kinds))
        if not locations:
            raise UpnpFailed("no answer")
        factory = UpnpFactory(cast("UpnpRequester", BoundedRequester(self._gateway)))
        device = await factory.async_create_device(next(iter(locations)))
        return IgdDevice(device, None)

    async def _map(self, device: IgdDevice) -> None:
        from async_upnp_client.exceptions import UpnpActionError

        wished, lease = self._outside_port or self._port, timedelta(seconds=LIFETIME)
        for attempt in range(TRIES):
            try:
                await device.async_add_port_mapping(
                    _EVERYBODY,
                    wished,
                    "UDP",
                    self._port,
                    ipaddress.IPv4Address(self._source),
                    True,
                    DESCRIPTION,
                    lease,
                )
                self._outside_port = wished
                return
            except UpnpActionError as error:
                if attempt == TRIES - 1:
                    raise
                if error.error_code == _PERMANENT_ONLY:
                    lease = timedelta(0)
                else:
                    wished = 1024 + secrets.randbelow(64512)


def _belongs_to(url: str, gateway: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.hostname == gateway
    except ValueError:
        return False


class BoundedRequester:
    """The HTTP side of async-upnp-client (UpnpRequester there): asks the gateway only, reads so much only."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Raises UpnpFailed for a URL elsewhere and for an answer that is too large."""
        import aiohttp
        from async_upnp_client.const import HttpResponse

        if not _belongs_to(http_request.url, self._gateway):
            raise UpnpFailed("the gateway's description points elsewhere")
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    http_request.method,
                    http_request.url,
                    headers=dict(http_request.headers or {}),
                    data=http_request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = b""
                async for chunk in response.content.iter_chunked(8192):
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise UpnpFailed(f"an answer of more than {MAX_BODY} bytes")
                return HttpResponse(response.status, response.headers, body.decode(errors="replace"))
        except aiohttp.ClientError as error:
            raise UpnpFailed(f"failed: {error}") from error


async def find_and_map(mapping: UpnpMapping) -> tuple[Address | None, str]:
    """One try: the outside address, and how it went, for people."""
    try:
        async with asyncio.timeout(4 * REQUEST_TIMEOUT):
            outside = await mapping.renew()
        return outside, f"maps {outside}"
    except TimeoutError:
        return None, "failed: the gateway is too slow"
    except UpnpFailed as error:
        return None, str(error)
    except Exception as error:  # what a strange gateway makes of the library must not end the node
        log.debug("UPnP", exc_info=True)
        return None, f"failed: {type(error).__name__}"

"""What is believed of UPnP answers, which anybody on the local network may send."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from shadowmesh.io import upnp
from shadowmesh.io.upnp import BoundedRequester, UpnpFailed, UpnpMapping, find_and_map

GATEWAY = "192.168.1.1"


@pytest.mark.parametrize(
    ("url", "belongs"),
    [
        ("http://192.168.1.1:5000/rootDesc.xml", True),
        ("http://192.168.1.1/", True),
        ("https://192.168.1.1/", False),
        ("http://192.168.1.2/rootDesc.xml", False),
        ("http://192.168.1.1@192.168.1.2/", False),
        ("http://192.168.1.1.example.net/", False),
        ("http://127.0.0.1/", False),
        ("file:///etc/passwd", False),
        ("http://[192.168.1.1/", False),
        ("", False),
    ],
)
def test_only_urls_of_the_gateway_itself_are_fetched(url: str, belongs: bool) -> None:
    assert upnp._belongs_to(url, GATEWAY) is belongs


def test_description_that_points_elsewhere_is_refused() -> None:
    const = pytest.importorskip("async_upnp_client.const")
    request = const.HttpRequest("GET", "http://192.168.1.2/x", {}, None)
    with pytest.raises(UpnpFailed, match="elsewhere"):
        asyncio.run(BoundedRequester(GATEWAY).async_http_request(request))


async def _flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + bytes(2 * upnp.MAX_BODY))
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await writer.wait_closed()


def test_endless_answer_is_refused() -> None:
    const = pytest.importorskip("async_upnp_client.const")

    async def main() -> None:
        server = await asyncio.start_server(_flood, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        request = const.HttpRequest("GET", f"http://127.0.0.1:{port}/", {}, None)
        async with server:
            await BoundedRequester("127.0.0.1").async_http_request(request)

    with pytest.raises(UpnpFailed, match=str(upnp.MAX_BODY)):
        asyncio.run(main())


def test_without_the_package_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("async_upnp_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "async_upnp_client", None)
    outside, said = asyncio.run(find_and_map(UpnpMapping(GATEWAY, "192.168.1.7", 4400)))
    assert outside is None
    assert said.startswith("not installed")


def test_what_nobody_foresaw_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = UpnpMapping(GATEWAY, "192.168.1.7", 4400)

    async def renew() -> None:
        raise KeyError("strange")

    monkeypatch.setattr(mapping, "renew", renew)
    assert asyncio.run(find_and_map(mapping)) == (None, "failed: KeyError")

"""The client's carrier against the relay's WebSocket service: TLS, proxies, ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus, ProxyError
from websockets.frames import Close

from shadowmesh.io import carrier as carrier_module
from shadowmesh.testing.web import write_certificate
from shadowmesh.units import Address
from tests.unit.websocket_lab import GREETING, plain, refused, running, secure


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "relay.test")


async def test_datagrams_cross_both_ways_over_tls(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        carrier = lab.dial()
        address, problem = await lab.change()
        assert address is not None
        assert problem == ""
        lab.engine.sendto(GREETING, (address.host, address.port))
        data, source = await lab.at_relay()
        assert data == GREETING
        assert lab.origins(source).host == "127.0.0.1"
        assert lab.origins(source) != source
        lab.relay.sendto(b"and back" * 3, (source.host, source.port))
        assert await lab.at_engine() == b"and back" * 3
        assert carrier.remote == Address("127.0.0.1", lab.port)
        assert carrier.secured is not None
        assert carrier.secured.version == "TLSv1.3"
        assert "OpenSSL" in carrier.secured.key_exchange


async def test_many_datagrams_share_messages(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        carrier = lab.dial()
        address, _ = await lab.change()
        assert address is not None
        datagrams = [number.to_bytes(2, "big") * 600 for number in range(200)]
        for datagram in datagrams:
            lab.engine.sendto(datagram, (address.host, address.port))
        found = [(await lab.at_relay())[0] for _ in datagrams]
        assert found == datagrams
        assert carrier.tunnel is not None
        assert carrier.tunnel.sent < len(datagrams) / 4


async def test_the_end_is_told_once_with_its_reason(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        lab.dial()
        assert (await lab.change())[0] is not None
        await lab.service.stop()
        address, problem = await lab.change()
        assert address is None
        assert problem
        assert lab.changes.empty()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosedError(Close(1008, "go \x1b[2Jaway\n" + "." * 100), None),
        ProxyError("go \x1b[2Jaway\n" + "." * 200),
        EOFError("go \x1b[2Jaway\n" + "." * 200),
    ],
    ids=["relay", "proxy", "any"],
)
def test_what_the_other_end_says_is_printable_and_short(error: Exception) -> None:
    words = carrier_module._words(error)
    assert "go ?[2Jaway?." in words
    assert words.isprintable()
    assert len(words.removeprefix("the proxy refused: ")) == 100


async def test_close_says_nothing(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        carrier = lab.dial()
        await lab.change()
        await carrier.close()
        await lab.until(lambda: lab.service.connected == 0)
        assert lab.changes.empty()


async def test_tls_is_what_the_configuration_asks(certificate: tuple[Path, Path]) -> None:
    key = x509.load_pem_x509_certificate(certificate[0].read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    pin = f"sha256//{base64.b64encode(digest).decode()}"
    async with running(secure(certificate)) as lab:
        lab.dial(tls=pin)
        assert (await lab.change())[0] is not None
        lab.dial(tls=f"sha256//{base64.b64encode(bytes(32)).decode()}")
        address, problem = await lab.change()
        assert address is None
        assert pin in problem
        lab.dial(tls="verify")
        address, problem = await lab.change()
        assert address is None
        assert "certificate" in problem


async def test_tls_1_2_is_refused(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(secure(certificate)) as lab:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", lab.port, ssl=context)
        await refused(lab, "websocket_broken")


async def test_another_path_is_404_and_no_redirect_is_followed() -> None:
    async with running(plain()) as lab:
        for path in ("", "/", "/other", "/shadowmesh/", "/shadowmeshes"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"ws://127.0.0.1:{lab.port}{path}", proxy=None)
            assert caught.value.response.status_code == 404
        assert lab.service.dropped()["websocket_refused"] == 5


async def test_a_web_server_that_is_no_relay_is_named(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    monkeypatch.setattr(carrier_module, "PATH", "/elsewhere")
    async with running(secure(certificate)) as lab:
        lab.dial()
        assert await lab.change() == (
            None,
            "the web server there answered 404: it does not lead to a relay",
        )


@contextlib.asynccontextmanager
async def connect_proxy(wanted: str = "") -> AsyncIterator[tuple[str, list[str]]]:
    """The smallest HTTP proxy: ADDRESS:PORT and the CONNECTs it was asked for.

    :param wanted: credentials, USER:PASSWORD.
    """
    asked: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.split()[1])
        if wanted and f"Basic {base64.b64encode(wanted.encode()).decode()}" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = asked[-1].rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for one in (copy(reader, there[1]), copy(there[0], writer)):
            tasks.add(asyncio.create_task(one))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("by", ["key", "environment"])
async def test_through_a_proxy(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    async with connect_proxy("alice:secret") as (address, asked), running(secure(certificate)) as lab:
        url = f"http://alice:secret@{address}"
        if by == "environment":
            monkeypatch.setenv("https_proxy", url)
            monkeypatch.setenv("no_proxy", "")
            lab.dial()
        else:
            lab.dial(proxy=url)
        address_here, problem = await lab.change()
        assert problem == ""
        assert address_here is not None
        assert asked == [f"127.0.0.1:{lab.port}"]
        lab.engine.sendto(b"through it" * 3, (address_here.host, address_here.port))
        assert (await lab.at_relay())[0] == b"through it" * 3
        await lab.carriers[0].close()


async def test_the_environment_does_not_matter_with_proxy_off(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    async with running(secure(certificate)) as lab:
        lab.dial(proxy="off")
        assert (await lab.change())[0] is not None


async def test_a_proxy_that_refuses_is_told_without_its_password(certificate: tuple[Path, Path]) -> None:
    async with connect_proxy("alice:secret") as (address, _), running(secure(certificate)) as lab:
        lab.dial(proxy=f"http://alice:falsehood@{address}")
        where, problem = await lab.change()
        assert where is None
        assert "the proxy refused" in problem
        assert "407" in problem
        assert "falsehood" not in problem


async def test_nothing_that_listens(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        lab.service.close()
        await lab.service.stop()
        lab.dial()
        where, problem = await lab.change()
        assert where is None
        assert "refused" in problem.lower()

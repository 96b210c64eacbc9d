"""The relay's WebSocket service against the client's carrier, and against those who mean no good."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus, ProxyError
from websockets.frames import Close

import shadowmesh_relay.websocket as service_module
from shadowmesh._ext.bundle import MAX_BUNDLE
from shadowmesh.io import carrier as carrier_module
from shadowmesh.testing.web import write_certificate
from shadowmesh.units import Address

from .websocket_lab import GREETING, HELLO, plain, refused, running, secure, websocket


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "relay.test")


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(service_module, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(service_module, "SWEEP", 0.1)


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


async def test_plain_get_without_upgrade_is_no_websocket() -> None:
    async with running(plain()) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"GET /shadowmesh HTTP/1.1\r\nHost: relay\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5.0)
        assert answer.startswith(b"HTTP/1.1 426 ")
        writer.close()
        await refused(lab, "websocket_refused")


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    "sent", [b"", b"GET /shadowmesh HTTP/1.1\r\nHost:"], ids=["nothing", "half a request"]
)
async def test_who_sends_no_request_is_not_waited_for(sent: bytes) -> None:
    async with running(plain()) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()
        await refused(lab, "websocket_timeout")


@pytest.mark.usefixtures("small_limits")
async def test_who_does_no_tls_is_not_waited_for(certificate: tuple[Path, Path]) -> None:
    async with running(secure(certificate)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()
        await refused(lab, "websocket_timeout")


async def test_what_is_no_http_gets_no_answer() -> None:
    async with running(plain()) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"\x16\x03\x01 this is no request\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()
        await refused(lab, "websocket_refused")


@pytest.mark.usefixtures("small_limits")
async def test_a_silent_websocket_is_closed() -> None:
    async with running(plain()) as lab, websocket(lab, ping_interval=None) as made:
        await made.send(HELLO)
        lab.in_use.add((await lab.at_relay())[1])
        await refused(lab, "websocket_timeout")


@pytest.mark.usefixtures("small_limits")
async def test_a_tunnel_that_no_client_uses_is_closed() -> None:
    async with running(plain()) as lab, websocket(lab, ping_interval=0.05) as made:
        await made.send(HELLO)
        await lab.at_relay()
        await refused(lab, "websocket_unused")


@pytest.mark.usefixtures("small_limits")
async def test_a_tunnel_in_use_stays() -> None:
    async with running(plain()) as lab, websocket(lab, ping_interval=0.05) as made:
        await made.send(HELLO)
        lab.in_use.add((await lab.at_relay())[1])
        await asyncio.sleep(0.5)
        await made.send(HELLO)
        assert (await lab.at_relay())[0] == GREETING


@pytest.mark.parametrize(
    "message",
    ["text", b"", b"\x00\x19short", HELLO + b"\x00", b"\x00\x14" + bytes(20)],
    ids=["text", "nothing", "short", "rest", "smaller than any packet"],
)
async def test_what_is_no_bundle_ends_the_connection(message: bytes | str) -> None:
    async with running(plain()) as lab:
        async with websocket(lab) as made:
            await made.send(message)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(made.recv(), 5.0)
        await refused(lab, "websocket_malformed")


async def test_a_message_beyond_the_largest_bundle_ends_the_connection() -> None:
    async with running(plain()) as lab:
        async with websocket(lab) as made:
            with contextlib.suppress(ConnectionClosed):
                await made.send(bytes(MAX_BUNDLE + 1))
                await asyncio.wait_for(made.recv(), 5.0)
            assert made.close_code == 1009
        await lab.until(lambda: lab.service.connected == 0)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("over_tls", [True, False])
async def test_a_closed_connection_counts_until_its_descriptor_is_free(
    certificate: tuple[Path, Path], over_tls: bool
) -> None:
    """Over TLS the other end owes a goodbye, else it would have to read what we have for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with running(secure(certificate) if over_tls else plain()) as lab:
        with socket.create_connection(("127.0.0.1", lab.port)) as raw:
            before = descriptors()  # ours counts in it
            client: socket.socket = raw
            if over_tls:
                wrap = asyncio.to_thread(context.wrap_socket, raw, server_hostname="relay.test")
                client = await asyncio.wait_for(wrap, 5.0)
            else:
                await lab.until(lambda: lab.service.connected == 1)
                (connection,) = lab.service._connections
                await lab.until(lambda: connection._writer is not None)
                assert connection._writer is not None
                connection._writer.write(bytes(32 << 20))
            await refused(lab, "websocket_timeout")
            await asyncio.sleep(0.05)
            assert descriptors() <= before
            client.close()


async def test_a_write_after_the_end_is_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Cannot call write() after write_eof()")

    async with running(plain()) as lab, websocket(lab) as made:
        monkeypatch.setattr(service_module.Connection, "_take", broken)
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await made.send(HELLO)
        await refused(lab, "websocket_broken")
        assert failures == []


async def test_a_stranger_has_a_budget_and_a_client_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "TRIAL", 1000)
    monkeypatch.setattr(service_module, "TRIAL_READ_SIZE", 100)
    async with running(plain()) as lab:
        async with websocket(lab) as client:
            await client.send(HELLO)
            lab.in_use.add((await lab.at_relay())[1])
            for _ in range(100):
                await client.send(HELLO)
                await lab.at_relay()
        lab.in_use.clear()
        async with websocket(lab) as stranger:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(100):
                    await stranger.send(HELLO)
            await refused(lab, "websocket_not_admitted")


async def test_a_message_may_come_in_pieces() -> None:
    """Whoever is in between may cut it (RFC 6455, 5.4)."""
    async with running(plain()) as lab, websocket(lab) as made:

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(len(HELLO)):
                yield HELLO[at : at + 1]

        await made.send(pieces())
        await made.send(HELLO)
        assert [(await lab.at_relay())[0] for _ in range(2)] == [GREETING, GREETING]


async def test_what_nobody_expected_is_told_once_and_ends_the_try(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(carrier_module, "key_exchange_of", broken)
    monkeypatch.setattr(carrier_module, "_faults", set())
    async with running(secure(certificate)) as lab:
        for _ in range(3):
            lab.dial()
            assert await lab.change() == (None, "an error of the program, see its log: KeyError")
        assert [record.exc_info is not None for record in caplog.records if "failed" in record.message] == [
            True
        ]
        monkeypatch.undo()
        lab.dial()
        address, _ = await lab.change()
        assert address is not None


async def test_everything_is_given_back() -> None:
    async with running(plain()) as lab:
        async with websocket(lab) as made:
            await made.send(HELLO)
            _, source = await lab.at_relay()
        await lab.until(lambda: lab.service.connected == 0)
        assert lab.origins(source) == source


async def test_a_client_that_reads_nothing_costs_a_bounded_queue() -> None:
    async with running(plain()) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1024)
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            f"GET /shadowmesh HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        mask = bytes(4)
        writer.write(bytes((0x82, 0x80 | len(HELLO))) + mask + HELLO)
        _, source = await lab.at_relay()
        for number in range(40_000):
            with contextlib.suppress(BlockingIOError):
                lab.relay.sendto(bytes(1400), (source.host, source.port))
            if number % 200 == 0:
                await asyncio.sleep(0)
        assert lab.service.dropped()["websocket_queue_full"] > 1000
        writer.close()

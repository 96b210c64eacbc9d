"""The relay's WebSocket service against those who mean no good, or too much of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import shadowmesh_relay.websocket as service_module
from shadowmesh._ext.bundle import MAX_BUNDLE
from shadowmesh.testing.web import write_certificate
from tests.unit.websocket_lab import GREETING, HELLO, plain, refused, running, secure, websocket


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "relay.test")


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(service_module, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(service_module, "SWEEP", 0.1)


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


async def test_connections_of_one_address_are_limited() -> None:
    async with running(plain(max_per_address=2)) as lab:
        async with websocket(lab), websocket(lab):
            with pytest.raises((OSError, EOFError, Exception)):
                await connect(lab.url, proxy=None, open_timeout=2)
            assert lab.service.dropped()["websocket_too_many_of_address"] == 1
        await lab.until(lambda: lab.service.connected == 0)
        async with websocket(lab):
            pass


async def test_connections_at_all_are_limited_before_they_cost_anything(
    certificate: tuple[Path, Path],
) -> None:
    async with running(secure(certificate, max_connections=2)) as lab:
        pairs = [await asyncio.open_connection("127.0.0.1", lab.port) for _ in range(3)]
        assert await asyncio.wait_for(pairs[2][0].read(), 5.0) == b""
        assert lab.service.dropped()["websocket_too_many"] == 1
        for _, writer in pairs:
            writer.close()


PROXY = (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    ("trusted", "header", "origin"),
    [
        (PROXY, "203.0.113.7", "203.0.113.7"),
        (PROXY, "::ffff:203.0.113.7", "203.0.113.7"),
        (PROXY, "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (PROXY, "203.0.113.7, 127.0.0.9", "203.0.113.7"),
        (PROXY, "2001:db8::7", "2001:db8::7"),
        (PROXY, "203.0.113.7, unknown", "127.0.0.1"),
        (PROXY, "", "127.0.0.1"),
        ((), "203.0.113.7", "127.0.0.1"),
    ],
    ids=["one hop", "mapped", "forged before", "two of ours", "IPv6", "nonsense", "none", "not trusted"],
)
async def test_who_a_proxy_says_it_is(trusted: tuple[object, ...], header: str, origin: str) -> None:
    headers = {"X-Forwarded-For": header} if header else {}
    options = plain(trusted_proxies=trusted)
    async with running(options) as lab, websocket(lab, additional_headers=headers) as made:
        await made.send(HELLO)
        _, source = await lab.at_relay()
        assert lab.origins(source).host == origin


async def test_limits_behind_a_proxy_count_whom_it_forwards_for() -> None:
    async with running(plain(trusted_proxies=PROXY, max_per_address=1)) as lab:
        one, other = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in (1, 2))
        async with websocket(lab, additional_headers=one), websocket(lab, additional_headers=other):
            async with websocket(lab, additional_headers=one) as third:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(third.recv(), 5.0)
            assert lab.service.dropped()["websocket_too_many_of_address"] == 1


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

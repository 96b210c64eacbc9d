"""Who gets a place at a relay's WebSocket service, whom it is counted for, and who has to go."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import shadowmesh_relay.websocket as service_module
from shadowmesh.testing.web import write_certificate
from shadowmesh.units import Address

from .websocket_lab import GREETING, HELLO, PROXY, plain, running, secure, websocket


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "relay.test")


async def test_connections_of_one_address_are_limited() -> None:
    async with running(plain(max_per_address=2)) as lab:
        async with websocket(lab), websocket(lab):
            with pytest.raises((OSError, EOFError, Exception)):
                await connect(lab.url, proxy=None, open_timeout=2)
            assert lab.service.dropped()["websocket_too_many_of_address"] == 1
        await lab.until(lambda: lab.service.connected == 0)
        async with websocket(lab):
            pass


async def test_when_all_places_are_taken_the_oldest_stranger_goes(certificate: tuple[Path, Path]) -> None:
    """Before it costs anything: it has not even done TLS."""
    async with running(secure(certificate, max_connections=2)) as lab:
        pairs = [await asyncio.open_connection("127.0.0.1", lab.port) for _ in range(2)]
        await lab.until(lambda: lab.service.connected == 2)
        pairs.append(await asyncio.open_connection("127.0.0.1", lab.port))
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(pairs[0][0].read(), 5.0) == b""
        await lab.until(lambda: lab.service.connected == 2)
        assert lab.service.dropped()["websocket_displaced"] == 1
        assert lab.service.dropped()["websocket_too_many"] == 0
        for _, writer in pairs:
            writer.close()


async def test_a_client_keeps_its_place() -> None:
    async with running(plain(max_connections=2)) as lab, websocket(lab) as one, websocket(lab) as other:
        for made in (one, other):
            await made.send(HELLO)
            lab.in_use.add((await lab.at_relay())[1])
        with pytest.raises((OSError, EOFError, Exception)):
            await connect(lab.url, proxy=None, open_timeout=2)
        assert lab.service.dropped()["websocket_too_many"] == 1
        lab.in_use.pop()  # one of them is no client any more
        async with websocket(lab) as late:
            await late.send(HELLO)
            assert (await lab.at_relay())[0] == GREETING
        assert lab.service.dropped()["websocket_displaced"] == 1


async def test_a_network_gets_a_share_of_the_places() -> None:
    """Whoever has a whole /24 or /48 can't have all; another one finds a place."""
    options = plain(trusted_proxies=PROXY, max_connections=8, max_per_address=1)
    async with running(options) as lab:
        async with contextlib.AsyncExitStack() as stack:
            for number in (1, 2):
                headers = {"X-Forwarded-For": f"203.0.113.{number}"}
                await stack.enter_async_context(websocket(lab, additional_headers=headers))
            third = {"X-Forwarded-For": "203.0.113.3"}
            async with websocket(lab, additional_headers=third) as one:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(one.recv(), 5.0)
            assert lab.service.dropped()["websocket_too_many_of_network"] == 1
            elsewhere = {"X-Forwarded-For": "198.51.100.3"}
            async with websocket(lab, additional_headers=elsewhere) as made:
                await made.send(HELLO)
                assert (await lab.at_relay())[0] == GREETING
        await lab.until(lambda: lab.service.connected == 0)
        async with websocket(lab, additional_headers=third) as made:
            await made.send(HELLO)
            await lab.at_relay()


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


class Taken(set[Address]):
    """The first addresses that are asked for are taken."""

    def __init__(self, most: int) -> None:
        self.asked: list[Address] = []
        self._most = most

    def __contains__(self, address: object) -> bool:
        assert isinstance(address, Address)
        self.asked.append(address)
        return len(self.asked) <= self._most


async def test_a_tunnel_gets_no_address_where_somebody_still_is() -> None:
    async with running(plain()) as lab:
        taken = Taken(2)
        lab.service._taken = lambda: taken
        async with websocket(lab) as one:
            await one.send(HELLO)
            assert (await lab.at_relay())[1] == taken.asked[2]
            assert len(set(taken.asked)) == 3
        taken = Taken(1000)
        async with websocket(lab) as none:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(none.recv(), 5.0)
        assert len(taken.asked) == service_module.TUNNEL_TRIES
        await lab.until(lambda: lab.service.dropped()["websocket_broken"] == 1)

"""The network monitor in a namespace: addresses, links and routes come and go, events are lost."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable

import pytest

from shadowmesh.io import network
from shadowmesh.io.network import NetworkMonitor
from shadowmesh.testing.lab import Host, Lab
from shadowmesh.units import Address

pytestmark = pytest.mark.root

PORT = 4400
ENOBUFS = 105


@pytest.fixture
def host(lab: Lab) -> Host:
    """With a link-local address that needs no duplicate detection, so that nothing changes by itself."""
    host = lab.host("a")
    host.run(["ip", "link", "set", "under0", "addrgenmode", "none"])
    host.run(["ip", "addr", "flush", "dev", "under0", "scope", "link"])
    host.run(["ip", "addr", "add", "fe80::a/64", "dev", "under0", "nodad"])
    return host


Steps = Callable[[NetworkMonitor, asyncio.Queue[list[Address]]], Awaitable[None]]


def follow(host: Host, steps: Steps, bound: str = "::", asleep: Callable[[], float] = lambda: 0.0) -> None:
    """Run `steps` in the namespace of `host` with a monitor whose changes come through a queue."""

    async def main() -> None:
        told: asyncio.Queue[list[Address]] = asyncio.Queue()
        monitor = NetworkMonitor(told.put_nowait, Address(bound, PORT), "smesh0", ["10.77.0.1/24"], asleep)
        monitor.start()
        try:
            await steps(monitor, told)
        finally:
            await monitor.stop()

    host.inside(lambda: asyncio.run(main()))


def ways(monitor: NetworkMonitor) -> list[tuple[str, str]]:
    return [(gateway.host, gateway.source) for gateway in monitor.snapshot.gateways]


def events_were_lost(netlink: socket.socket) -> bool:
    """Read what there is; whether the kernel says that it had to drop some."""
    try:
        while True:
            netlink.recv(65536)
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno == ENOBUFS


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


async def next_change(told: asyncio.Queue[list[Address]]) -> list[str]:
    addresses = await asyncio.wait_for(told.get(), 5)
    assert {address.port for address in addresses} <= {PORT}
    return [address.host for address in addresses if "%" not in address.host]


def test_addresses_come_and_go(host: Host) -> None:
    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        assert await next_change(told) == [host.ipv4, host.ipv6]
        assert any(address.host.startswith("fe80::") for address in monitor.addresses)
        ip("addr", "add", "203.0.113.7/24", "dev", "under0")
        ip("addr", "add", "10.77.0.1/24", "dev", "under0")
        assert await next_change(told) == [host.ipv4, "203.0.113.7", host.ipv6]
        ip("addr", "del", "203.0.113.7/24", "dev", "under0")
        assert await next_change(told) == [host.ipv4, host.ipv6]
        assert monitor.changes == 3, "the overlay's address changed nothing"

    follow(host, steps)


def test_own_interface_does_not_count(host: Host) -> None:
    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        before = await next_change(told)
        ip("link", "add", "smesh0", "type", "veth", "peer", "name", "other0")
        ip("addr", "add", "203.0.113.7/24", "dev", "smesh0")
        ip("link", "set", "smesh0", "up")
        ip("link", "set", "other0", "up")
        ip("addr", "add", "203.0.113.8/24", "dev", "other0")
        while "203.0.113.8" not in (now := await next_change(told)):
            assert now == before
        assert "203.0.113.7" not in now

    follow(host, steps)


def test_route_and_gateway_are_followed(host: Host) -> None:
    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        await next_change(told)
        assert ways(monitor) == []
        ip("route", "add", "default", "via", "10.99.0.250")
        await next_change(told)
        assert ways(monitor) == [("10.99.0.250", host.ipv4)]

    follow(host, steps)


def test_a_flap_within_the_pause_is_noticed(host: Host) -> None:
    """The addresses are the same before and after; NAT mappings and neighbours need not be."""

    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        before = [name for name in await next_change(told) if ":" not in name]
        ip("link", "set", "under0", "down")
        ip("link", "set", "under0", "up")
        after = await next_change(told)
        assert [name for name in after if ":" not in name] == before

    follow(host, steps)


def test_a_link_that_stays_down_takes_its_addresses_along(host: Host) -> None:
    async def steps(_monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        await next_change(told)
        ip("link", "set", "under0", "down")
        assert await next_change(told) == []

    follow(host, steps)


def test_more_events_than_the_socket_holds(host: Host) -> None:
    """The kernel drops events (ENOBUFS); what is true in the end is known all the same."""

    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        await next_change(told)
        assert monitor._socket is not None
        monitor._socket.setsockopt(1, 8, 2048)  # SO_RCVBUF: room for a handful of events
        lines = [f"addr {verb} 203.0.113.{n}/32 dev under0" for n in range(1, 200) for verb in ("add", "del")]
        text = "\n".join([*lines, "addr add 203.0.113.250/32 dev under0"])
        await asyncio.to_thread(subprocess.run, ["ip", "-batch", "-"], input=text, text=True, check=True)
        assert events_were_lost(monitor._socket)
        ip("addr", "add", "203.0.113.251/32", "dev", "under0")
        while not {"203.0.113.250", "203.0.113.251"} <= set(await next_change(told)):
            pass
        assert monitor.changes < 10, "one reading for many events"

    follow(host, steps)


def test_socket_that_is_bound_to_one_address_or_family(host: Host) -> None:
    found = []

    async def steps(_: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        found.append(await next_change(told))

    for bound in ("0.0.0.0", "fd99::1", "192.0.2.99"):
        follow(host, steps, bound)
    assert found == [[host.ipv4], ["fd99::1"], []]


def test_sleep_is_a_change(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SLEEP_CHECK", 0.05)
    asleep = [100.0]

    async def steps(monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        before = await next_change(told)
        asleep[0] += network.SLEEP_JUMP / 2
        await asyncio.sleep(0.3)
        assert told.empty(), "clocks drift by less than that"
        asleep[0] += 60.0
        assert await next_change(told) == before
        await asyncio.sleep(0.4)
        assert told.empty()

    follow(host, steps, asleep=lambda: asleep[0])


def test_failed_reading_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RETRY", 0.05)
    real, failures = network.read, [2]

    def sometimes(*arguments: object) -> network.Snapshot:
        failures[0] -= 1
        if failures[0] >= 0:
            raise OSError(12, "no memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "read", sometimes)

    async def steps(_monitor: NetworkMonitor, told: asyncio.Queue[list[Address]]) -> None:
        assert await next_change(told) == [host.ipv4, host.ipv6]

    follow(host, steps)

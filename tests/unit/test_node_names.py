"""The resolver of a client: in which order things happen, and what a person is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.message
import pytest
from msgspec import structs

from shadowmesh.config import ClientConfig, NamesSection
from shadowmesh.errors import DeviceError
from shadowmesh.io import resolvconf, resolved
from shadowmesh.node import names as module
from shadowmesh.node.names import Names
from tests.unit.test_config import MINIMAL, load

BEFORE = "nameserver 192.0.2.53\n"


class World:
    """A machine: what it does to resolvers is written down."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.hosts: dict[str, tuple[str, ...]] = {"bob": ("10.77.0.2",)}
        self.asked = 0
        self.port = 0
        self.told: list[str] = []
        self.stamp: tuple[int, int] | None = (1, 1)
        self.refusal = ""
        core = SimpleNamespace(hosts=self.look, members=SimpleNamespace(membership=None))
        self.make: Callable[..., Names] = lambda **names: Names(
            structs.replace(self.config, names=NamesSection(**names)),
            core,  # type: ignore[arg-type]
        )

    def look(self) -> dict[str, tuple[str, ...]]:
        self.asked += 1
        return self.hosts

    async def split(self, interface: str, servers: Any, domains: Any) -> None:
        if self.refusal:
            raise DeviceError(self.refusal)
        self.told.append(f"{interface} {' '.join(servers)}: {' '.join(domains)}")

    async def revert(self, interface: str) -> None:
        self.told.append(f"revert {interface}")

    def change(self, **interface: Any) -> None:
        self.config = structs.replace(
            self.config, interface=structs.replace(self.config.interface, **interface)
        )


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A machine with systemd-resolved, whose files are in this folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    monkeypatch.setattr("shadowmesh.io.names.PORT", port)
    config = load(tmp_path, MINIMAL)
    made = World(structs.replace(config, node=structs.replace(config.node, state_dir=tmp_path)))
    made.port = port
    made.change(addresses=("127.77.0.1/24",))
    (tmp_path / "resolv.conf.test").write_text(BEFORE)
    monkeypatch.setattr(resolvconf, "RESOLV_CONF", tmp_path / "resolv.conf.test")
    monkeypatch.setattr(resolved, "stamp", lambda: made.stamp)
    monkeypatch.setattr(resolved, "split", made.split)
    monkeypatch.setattr(resolved, "revert", made.revert)
    monkeypatch.setattr(resolved, "unasked", lambda: "")
    monkeypatch.setattr(module, "LOOK", 0.01)
    return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return prepared(tmp_path, monkeypatch)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def question(names: Names, name: str, kind: str = "A") -> list[str]:
    data = names._answer(dns.message.make_query(name, kind).to_wire(), False)
    assert data is not None
    return [one.to_text() for record in dns.message.from_wire(data).answer for one in record]


def shown(names: Names) -> Any:
    status = names.status()
    assert status is not None
    return status


async def test_systemd_resolved_is_told_and_told_again(world: World) -> None:
    names = world.make()
    await names.start()
    split = "smesh0 127.77.0.1: mesh 0.77.127.in-addr.arpa"
    await until(lambda: world.told == [split])
    assert (shown(names).host, shown(names).advice, shown(names).listen) == ("resolved", None, ["127.77.0.1"])
    world.stamp = (1, 2)
    await until(lambda: world.told == [split] * 2)
    world.stamp = None
    await until(lambda: shown(names).host == "none")
    assert shown(names).advice.startswith("systemd-resolved does not run here; ask by hand: dig @127.77.0.1 ")
    world.stamp = (1, 2)
    await until(lambda: world.told == [split] * 3)
    await names.stop()
    assert world.told[-1] == "revert smesh0"
    assert shown(names).listen == []


async def test_a_refusal_is_told_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    world.refusal = "resolvectl dns: link is busy"
    names = world.make()
    await names.start()
    await until(lambda: "does not take our domain: resolvectl dns: link is busy" in shown(names).advice)
    world.refusal = ""
    await until(lambda: shown(names).host == "resolved")
    await names.stop()


async def test_a_bridge_is_somebody_elses(world: World) -> None:
    world.change(bridge="br0")
    names = world.make()
    await names.start()
    await until(lambda: "the addresses are the bridge's" in shown(names).advice)
    await names.stop()
    assert world.told == []


@pytest.mark.parametrize("host", ["none", "resolv.conf"])
async def test_what_nobody_asked_for_is_not_touched(world: World, host: str) -> None:
    names = world.make(host=host)
    await names.start()
    await asyncio.sleep(0.05)
    ours = host == "resolv.conf"
    assert (resolvconf.RESOLV_CONF.read_text() != BEFORE) == ours
    assert shown(names).host == host
    await names.stop()
    assert resolvconf.RESOLV_CONF.read_text() == BEFORE
    assert world.told == []


async def test_without_a_resolver_nobody_is_sent_to_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.77.0.1", world.port))
        other.bind(("127.77.0.1", 0))
        monkeypatch.setattr("shadowmesh.io.names.OTHER_PORT", other.getsockname()[1])
        for one in (taken, other):
            one.listen()
        for host in ("auto", "resolv.conf"):
            names = world.make(host=host)
            await names.start()
            await asyncio.sleep(0.05)
            assert shown(names).problem.endswith("another program listens there [names.not-served]")
            assert (shown(names).host, shown(names).advice) == ("none", None)
            await names.stop()
    assert world.told == []
    assert resolvconf.RESOLV_CONF.read_text() == BEFORE


async def test_another_port_is_told_to_whoever_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.77.0.1", world.port))
        taken.listen()
        free.bind(("127.77.0.1", 0))
        other = free.getsockname()[1]
        free.close()
        monkeypatch.setattr("shadowmesh.io.names.OTHER_PORT", other)
        names = world.make()
        await names.start()
        where = f"127.77.0.1:{other}"
        await until(lambda: world.told == [f"smesh0 {where}: mesh 0.77.127.in-addr.arpa"])
        assert shown(names).listen == [where]
        world.stamp = None
        await until(lambda: shown(names).host == "none")
        assert f"dig @127.77.0.1 -p {other} " in shown(names).advice
        await names.stop()


async def test_no_address_and_off(world: World) -> None:
    world.change(addresses=("fe80::1/64",))
    names = world.make()
    await names.start()
    assert shown(names).problem == "this machine has no address on the overlay [names.not-served]"
    await names.stop()
    names = world.make(serve="off")
    await names.start()
    assert names.status() is None
    await names.stop()


def test_the_table_is_that_of_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("shadowmesh.node.names.time.monotonic", lambda: now[0])
    names = world.make()
    assert question(names, "bob.mesh") == ["10.77.0.2"]
    assert question(names, "alice.mesh") == ["127.77.0.1"]
    world.hosts = {"alice": ("10.77.0.9",)}
    assert question(names, "bob.mesh") == ["10.77.0.2"]
    assert world.asked == 1
    now[0] += module.FRESH
    assert question(names, "bob.mesh") == []
    assert question(names, "alice.mesh") == ["127.77.0.1"], "our own name is ours"
    assert question(names, "www.example.net") == []
    names._answer(b"", False)
    told = shown(names)
    assert (told.queries, told.answered, told.refused, told.malformed) == (7, 5, 1, 1)

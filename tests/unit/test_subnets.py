"""Routes of a running client: what is in the kernel, and what is remembered of it."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shadowmesh.node import subnets
from shadowmesh.node.subnets import Subnets
from shadowmesh.overlay.routes import Key, Routes

LAN, RACK = Key("192.168.5.0/24", 1024), Key("192.168.6.0/24", 1024)
BOB, CAROL = "10.77.0.2", "10.77.0.3"


class Kernel:
    """The routing table, as `io.routes.apply` changes it."""

    def __init__(self) -> None:
        self.table: dict[Key, str] = {}
        self.refused: set[Key] = set()
        self.error: OSError | None = None
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def apply(self, interface: str, before: Mapping[Key, str], wanted: Mapping[Key, str]) -> dict[Key, str]:
        assert interface == "br0"
        assert dict(before) == self.table, "what is remembered is what is there"
        self.begun.set()
        assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        for key in before.keys() - wanted.keys():
            del self.table[key]
        self.table.update({key: via for key, via in wanted.items() if key not in self.refused})
        return {key: "no" for key in wanted.keys() & self.refused if before.get(key) != wanted[key]}

    def restore(self, interface: str, routes: Mapping[Key, str]) -> None:
        assert interface == "br0"
        self.begun.set()
        assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        self.table.update(routes)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(subnets, "kernel", made)
    return made


def opened(*keep: Callable[[Mapping[Key, str]], None]) -> Subnets:
    config = SimpleNamespace(
        interface=SimpleNamespace(bridge="br0", name="smesh0", addresses=()), peers=(), routes=()
    )
    members = SimpleNamespace(membership=None)
    core = SimpleNamespace(
        members=members, handle_routed=lambda prefixes, now: None, relays=(), local=(), peers={}
    )
    return Subnets(cast(Any, config), cast(Any, core), lambda: None, *keep)


def test_routes_on_a_bridge_are_taken_out_at_the_end(kernel: Kernel) -> None:
    kept: list[Mapping[Key, str]] = []

    async def run() -> None:
        made = opened(kept.append)
        await made._install(Routes([]), {LAN: BOB})
        assert kernel.table == {LAN: BOB}
        await made.stop()

    asyncio.run(run())
    assert kernel.table == {}
    assert kept == [{LAN: BOB}], "the end is the file's own matter"


def test_routes_that_a_thread_is_about_to_install_are_taken_out_too(kernel: Kernel) -> None:
    kernel.go_on.clear()

    async def run() -> None:
        made = opened()
        made._task = asyncio.create_task(made._install(Routes([]), {LAN: BOB}))
        assert await asyncio.to_thread(kernel.begun.wait, 10)
        stopping = asyncio.create_task(made.stop())
        await asyncio.sleep(0)
        kernel.go_on.set()
        await stopping

    asyncio.run(run())
    assert kernel.table == {}


def test_the_end_survives_a_device_that_is_gone(kernel: Kernel) -> None:
    async def run() -> None:
        made = opened()
        await made._install(Routes([]), {LAN: BOB})
        kernel.error = OSError(errno.ENODEV, "No such device")
        await made.stop()

    asyncio.run(run())


def test_what_the_system_refuses_to_change_is_remembered_and_tried_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(subnets, "time", SimpleNamespace(monotonic=lambda: now))

    async def run() -> None:
        nonlocal now
        made = opened()
        wanted: dict[Key, str] = {LAN: BOB, RACK: BOB}
        table = SimpleNamespace(update=lambda *_: dict(wanted), refuse=lambda *_: None, entries=())
        made._routes = cast(Any, table)
        await made._look()
        kernel.refused, wanted = {LAN}, {LAN: CAROL, RACK: CAROL}
        for _ in range(2):
            await made._look()
            assert kernel.table == {LAN: BOB, RACK: CAROL}, "not the default route"
        kernel.error, wanted = OSError(errno.EPERM, "Operation not permitted"), {}
        now += subnets.RETRY
        await made._look()
        kernel.error = None
        await made._look()
        assert made._installed == kernel.table == {LAN: BOB, RACK: CAROL}
        now += subnets.RETRY
        await made._look()
        assert made._installed == kernel.table == {}

    asyncio.run(run())


def test_routes_that_a_thread_is_about_to_put_back_are_taken_out_too(kernel: Kernel) -> None:
    async def run() -> None:
        made = opened()
        await made._install(Routes([]), {LAN: BOB})
        kernel.table.clear()
        kernel.begun.clear()
        kernel.go_on.clear()
        made.handle_network()
        made._task = asyncio.create_task(made._look())
        assert await asyncio.to_thread(kernel.begun.wait, 10)
        stopping = asyncio.create_task(made.stop())
        await asyncio.sleep(0.05)
        kernel.go_on.set()
        await stopping

    asyncio.run(run())
    assert kernel.table == {}


def test_what_could_not_be_put_back_is_tried_again_but_not_at_each_look(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subnets, "LOOK", 0.001)
    monkeypatch.setattr(subnets, "RETRY", 0.2)

    async def run() -> None:
        made = opened()
        await made._install(Routes([]), {LAN: BOB})
        table = SimpleNamespace(update=lambda *_: {LAN: BOB}, refuse=lambda *_: None, entries=())
        made._routes = cast(Any, table)
        kernel.table.clear()
        kernel.error = OSError(errno.ENOMEM, "Cannot allocate memory")
        made.handle_network()
        made.start()
        await asyncio.sleep(0.3)
        assert kernel.table == {}
        kernel.error = None
        kernel.begun.clear()
        assert await asyncio.to_thread(kernel.begun.wait, 10)
        await made.stop()
        assert kernel.table == {}

    asyncio.run(run())
    assert 1 <= len([one for one in caplog.records if "trying again" in one.message]) <= 3

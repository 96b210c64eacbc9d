"""The watchdog: when it speaks, and when it must not. Processes that hang: tests/e2e/test_watchdog.py."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shadowmesh.io.watchdog import Pulse, watched
from tests.unit.ext_harness import Node, connect, frame, wait_until


@pytest.fixture
def reader() -> Iterator[int]:
    """A descriptor with something to read."""
    inside, outside = socket.socketpair()
    with inside, outside:
        outside.send(b"x")
        yield inside.fileno()


@pytest.fixture
def idle() -> Iterator[int]:
    inside, outside = socket.socketpair()
    with inside, outside:
        yield inside.fileno()


class Threads:
    """As many threads as there are numbers; `turns` is what they have counted."""

    def __init__(self, *turns: int) -> None:
        self.turns: Sequence[int] = turns

    def __call__(self) -> Sequence[int]:
        return self.turns


def test_a_thread_with_nothing_to_do_may_rest(idle: int) -> None:
    pulse = Pulse(Threads(4), [idle])
    assert [pulse.stuck() for _ in range(3)] == [[], [], []]


def test_a_thread_that_leaves_what_there_is_is_stuck_from_the_second_look_on(reader: int) -> None:
    threads = Threads(4)
    pulse = Pulse(threads, [reader])
    assert [pulse.stuck() for _ in range(3)] == [[], [0], [0]]
    threads.turns = (6,)
    assert [pulse.stuck() for _ in range(2)] == [[], [0]]


def test_what_came_since_the_last_look_is_no_reproach() -> None:
    inside, outside = socket.socketpair()
    with inside, outside:
        pulse = Pulse(Threads(4), [inside.fileno()])
        assert pulse.stuck() == []
        outside.send(b"x")
        assert [pulse.stuck() for _ in range(2)] == [[], [0]]


def test_a_thread_that_stays_in_one_batch_is_stuck(idle: int, reader: int) -> None:
    threads = Threads(8, 5)
    pulse = Pulse(threads, [idle, idle])
    assert [pulse.stuck() for _ in range(2)] == [[], [1]]
    threads.turns = (8, 7)
    assert pulse.stuck() == [], "another batch"


def test_engine_and_forwarder_count_their_turns() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 5)
        pulse = Pulse(one.engine.turns, (one.tap_inside.fileno(), one.udp.fileno()))
        before = one.engine.turns()
        assert len(before) == 2
        one.tap.send(frame(two.mac, one.mac, b"there"))
        two.receive()
        two.tap.send(frame(one.mac, two.mac, b"back"))
        one.receive()
        wait_until(lambda: not any(turns & 1 for turns in one.engine.turns()))
        assert all(now > then for now, then in zip(one.engine.turns(), before, strict=True))
        assert [pulse.stuck() for _ in range(2)] == [[], []]


def test_an_engine_that_was_not_started_serves_nothing() -> None:
    with Node(1, start=False) as one:
        pulse = Pulse(one.engine.turns, (one.tap_inside.fileno(), one.udp.fileno()))
        assert pulse.stuck() == []
        one.tap.send(frame(one.mac, one.mac))
        assert [pulse.stuck() for _ in range(2)] == [[], [0]]


class Looks:
    """A pulse that says when it was looked at."""

    def __init__(self, stuck: list[int]) -> None:
        self.found = stuck
        self.count = 0
        self.third = asyncio.Event()

    def stuck(self) -> list[int]:
        self.count += 1
        if self.count == 3:
            self.third.set()
        return self.found


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield receiver


async def test_the_manager_is_told_while_all_is_well(manager: socket.socket) -> None:
    looks = Looks([])
    with watched(looks):  # type: ignore[arg-type]
        await looks.third.wait()
        assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"WATCHDOG=1"


async def test_the_manager_hears_nothing_while_a_thread_hangs(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    looks = Looks([1])
    with watched(looks):  # type: ignore[arg-type]
        await looks.third.wait()
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    assert "the data plane hangs (part 1)" in caplog.text


async def test_without_a_limit_nobody_looks(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    before = len(os.listdir("/proc/self/fd"))
    with watched(Looks([])):  # type: ignore[arg-type]
        assert len(os.listdir("/proc/self/fd")) == before

"""The load that a relay states: of its busiest thread, told to few clients at a time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from shadowmesh_relay import load
from shadowmesh_relay.load import MOST, STEP, WINDOW, CpuLoad, LoadNews


def test_the_busiest_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used = [100.0], {"1": 50, "2": 1000}
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(load, "_TICKS", 100)
    monkeypatch.setattr(CpuLoad, "_read", lambda _: dict(used))
    busy = CpuLoad()
    now[0] += WINDOW - 0.1
    used["2"] += 10_000
    assert busy() == 0, "too soon to tell"
    used.update({"1": 150, "2": 1300, "3": 8})
    now[0] += 0.1 + WINDOW
    assert busy() == round(300 / (2 * WINDOW))
    used.clear()  # all threads but one have ended
    used["4"] = 10_000
    now[0] += WINDOW
    assert busy() == 100


def test_every_thread_is_read() -> None:
    gate = threading.Event()
    other = threading.Thread(target=gate.wait)
    other.start()
    try:
        used = CpuLoad()._read()
        assert str(threading.get_native_id()) in used
        assert str(other.native_id) in used
        assert all(ticks >= 0 for ticks in used.values())
    finally:
        gate.set()
        other.join()


def test_clients_are_told_of_what_is_news_and_few_at_a_time() -> None:
    news = LoadNews()
    clients: list[Any] = [SimpleNamespace(handle=number) for number in range(MOST + 10)]
    for client in clients[:-1]:
        news.first(client, 50)
    assert list(news.due(clients, 50 + STEP - 1)) == []
    assert list(news.due(clients, 50 + STEP)) == clients[:MOST]
    assert list(news.due(clients, 50 + STEP)) == clients[MOST:-1], "a guest was never told"
    news.forget(clients[0])
    assert list(news.due(clients[:2], 0)) == clients[1:2]


def test_without_a_free_descriptor_the_last_load_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for in the relay's sweep, which must go on."""
    now, used = [100.0], {"1": 0}
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(load, "_TICKS", 100)
    monkeypatch.setattr(CpuLoad, "_read", lambda _: dict(used))
    busy = CpuLoad()

    def none_free(_: CpuLoad) -> dict[str, int]:
        raise OSError(24, "Too many open files")

    now[0] += WINDOW
    used["1"] = int(50 * WINDOW)
    assert busy() == 50
    with monkeypatch.context() as patch:
        patch.setattr(CpuLoad, "_read", none_free)
        now[0] += WINDOW
        assert busy() == 50
    now[0] += WINDOW
    assert busy() == 0, "over both windows"

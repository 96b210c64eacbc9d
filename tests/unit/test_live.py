"""Samples, events and the log over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shadowmesh.api import events
from shadowmesh.api.client import ApiClient, ApiFailed
from shadowmesh.api.events import Streams, TooManyStreams
from shadowmesh.api.live import LOG_LINES, LogLine, LogQuery, Sample
from shadowmesh.api.schema import Status
from shadowmesh.api.server import serve_api
from shadowmesh.node import live as live_module
from shadowmesh.node.recent import MAX_TEXT, RecentLog, remember
from shadowmesh.node.samples import Reading
from shadowmesh.observing import LogSection
from shadowmesh.web import server
from tests.unit.test_api import FakeControl, make_status

FAST = 0.02
"""Seconds, in place of one."""
GET = "GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n"


@contextlib.asynccontextmanager
async def running(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeControl]:
    monkeypatch.setattr(live_module, "INTERVAL", FAST)
    control = FakeControl()
    control.live.start()
    async with serve_api(path, control):
        yield control
    control.live.stop()


class Reader:
    """One stream of events, read by asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path, query: str = "", more: str = "") -> Reader:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(GET.format(f"/v1/events{query}", more).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"text/event-stream" in head
        return cls(reader, writer)

    async def next(self, kind: str = "") -> tuple[str, dict[str, object], str]:
        """The next event (of that kind): kind, data, id."""
        name = number = ""
        async with asyncio.timeout(15.0):
            while True:
                line = (await self._reader.readline()).decode()
                assert line, "the stream ended"
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name, number = value, ""
                elif field == "id":
                    number = value
                elif field == "data" and kind in ("", name):
                    return name, json.loads(value), number

    async def text(self, wanted: bytes) -> None:
        async with asyncio.timeout(15.0):
            await self._reader.readuntil(wanted)

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(15.0):
                while await self._reader.read(1 << 16):
                    pass
        return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def until(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(15.0):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert holds(), what


def line(control: FakeControl, text: str, level: int = logging.INFO) -> None:
    control.recent.handle(logging.LogRecord("shadowmesh", level, "", 0, text, (), None))


async def test_nothing_is_sampled_until_somebody_asks_and_some_minutes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    reads: list[int] = []
    async with running(path, monkeypatch) as control:

        def read() -> Reading:
            reads.append(1)
            return control.totals()

        control.live._read = read
        client = ApiClient(path)
        await asyncio.to_thread(client.status_json)
        await asyncio.to_thread(client.log_json)
        assert control.live._timer is None
        first = await asyncio.to_thread(client.samples)
        assert first.at == []
        await until(lambda: len(reads) > 2, "sampling goes on")
        assert len((await asyncio.to_thread(client.samples, 2)).at) == 2
        control.sent = 4096
        await until(lambda: 4096 in control.live._history.show(300).tx_bytes, "the bytes are seen")
        shown = await asyncio.to_thread(client.samples)
        assert [peer.name for peer in shown.peers] == ["bob", "carol"]
        assert sum(filter(None, shown.peers[0].tx_bytes)) == sum(shown.tx_bytes) == 4096
        assert shown.peers[0].rtt_ms[-1] == 1.94
        with pytest.raises(ApiFailed, match="seconds"):
            await asyncio.to_thread(client.samples, 301)
        monkeypatch.setattr(live_module, "LINGER", -1.0)
        await until(lambda: control.live._timer is None, "sampling ends")
        assert control.live._history.show(300).at == []


async def test_events_of_every_kind_come_as_they_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        reader = await Reader.open(path)
        kind, body, _ = await reader.next()
        assert (kind, body["schema"]) == ("status", "shadowmesh.status/1")
        _, body, _ = await reader.next("sample")
        assert (body["schema"], body["tx_bytes"]) == ("shadowmesh.sample/1", 0)
        line(control, "bob: connected", logging.WARNING)
        _, body, number = await reader.next("log")
        assert (body["number"], number, body["level"], body["text"]) == (1, "1", "warning", "bob: connected")
        control.sent = 5000  # which the fake's outline shows
        await reader.next("status")
        await reader.close()
        await until(lambda: not control.live.streams.wanted("log"), "the stream is gone")
        control.live._asked_at = -1e9
        await until(lambda: control.live._timer is None, "nobody wants samples")


async def test_a_status_comes_when_something_changed_or_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    made = []
    async with running(path, monkeypatch) as control:

        def make() -> Status:
            made.append(1)
            return make_status()

        control.live._status = make
        reader = await Reader.open(path, "?kinds=status,sample")
        for _ in range(5):
            await reader.next("sample")
        assert len(made) == 1
        monkeypatch.setattr(live_module, "REFRESH", 0.0)
        await reader.next("status")
        await reader.next("status")
        await reader.close()


async def test_a_reader_of_the_log_alone_starts_no_sampling_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        for number in range(1, 6):
            line(control, f"line {number}")
        reader = await Reader.open(path, "?kinds=log", "Last-Event-ID: 3\r\n")
        assert [(await reader.next())[1]["text"] for _ in range(2)] == ["line 4", "line 5"]
        line(control, "line 6")
        assert (await reader.next())[2] == "6"
        assert control.live._timer is None
        await reader.close()
        of_earlier_run = await Reader.open(path, "?kinds=log", "Last-Event-ID: 700\r\n")
        assert (await of_earlier_run.next())[1]["text"] == "line 1"
        await of_earlier_run.close()
        for no_number in ("9" * 5000, "-3", "x"):
            newcomer = await Reader.open(path, "?kinds=log", f"Last-Event-ID: {no_number}\r\n")
            line(control, f"after {no_number:.9}")
            assert (await newcomer.next())[1]["text"] == f"after {no_number:.9}"
            await newcomer.close()


async def test_a_quiet_stream_lives_longer_than_a_request_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", FAST)
    monkeypatch.setattr(events, "HEARTBEAT", 3 * FAST)
    async with running(path, monkeypatch) as control:
        reader = await Reader.open(path, "?kinds=log")
        for _ in range(4):
            await reader.text(events.COMMENT)
        line(control, "still there")
        assert (await reader.next())[1]["text"] == "still there"
        await reader.close()


async def test_who_reads_late_and_not_too_late_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the server looked meanwhile after answers that are not read."""
    path = tmp_path / "api.sock"
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", FAST)
    async with running(path, monkeypatch) as control:
        with socket.socket(socket.AF_UNIX) as late:
            late.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(late, str(path))
            await loop.sock_sendall(late, GET.format("/v1/events?kinds=log", "").encode())
            await until(lambda: control.live.streams.wanted("log"), "it reads")
            for number in range(1, 201):  # 800 kB: more than the system takes for it
                line(control, f"{number}!" + "x" * MAX_TEXT)
            await asyncio.sleep(5 * FAST)
            came = b""
            async with asyncio.timeout(15.0):
                while b'"200!' not in came:
                    data = await loop.sock_recv(late, 1 << 20)
                    assert data, "it was cut off"
                    came += data
        assert control.live.streams.cut == 0


async def test_who_does_not_read_is_cut_off_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what waits for it, long before its time is over."""
    path = tmp_path / "api.sock"
    monkeypatch.setattr(events, "PATIENCE", 1000.0)
    async with running(path, monkeypatch) as control:
        with socket.socket(socket.AF_UNIX) as lazy:
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, str(path))
            await loop.sock_sendall(lazy, GET.format("/v1/events?kinds=log", "").encode())
            await until(lambda: control.live.streams.wanted("log"), "it reads")
            other = await Reader.open(path, "?kinds=log")

            async def shout() -> None:
                while not control.live.streams.cut:
                    line(control, "x" * MAX_TEXT)
                    await asyncio.sleep(0)

            reading = asyncio.create_task(other.ended())
            async with asyncio.timeout(20.0):
                await shout()
            assert control.live.drops["event_reader_slow"] == 1
            assert control.live.streams.wanted("log"), "the other one lives"
            assert not reading.done()
            await other.close()
            await reading


async def test_who_reads_too_late_is_cut_off_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though little waits for it."""
    path = tmp_path / "api.sock"
    monkeypatch.setattr(events, "PATIENCE", 0.2)
    async with running(path, monkeypatch) as control:
        with socket.socket(socket.AF_UNIX) as lazy:
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, str(path))
            await loop.sock_sendall(lazy, GET.format("/v1/events?kinds=log", "").encode())
            await until(lambda: control.live.streams.wanted("log"), "it reads")
            for _ in range(150):  # 600 kB: more than the system takes for it
                line(control, "x" * MAX_TEXT)
            await asyncio.sleep(0.05)
            line(control, "one more")
            await until(lambda: control.live.streams.cut == 1, "it is cut off")


async def test_a_stream_that_could_not_begin_holds_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        monkeypatch.setattr(control.live, "_status", lambda: 1 / 0)
        for _ in range(events.MAX_STREAMS + 1):
            with pytest.raises(ApiFailed, match="failed to answer"):
                await asyncio.to_thread(lambda: next(ApiClient(path).events("status")))
        assert not control.live.streams.wanted("status")


async def test_streams_end_when_the_client_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        seen = asyncio.create_task(asyncio.to_thread(lambda: list(ApiClient(path).events("status"))))
        await until(lambda: control.live.streams.wanted("status"), "it reads")
        reader = await Reader.open(path, "?kinds=sample")
        await reader.next("sample")
    assert await reader.ended()
    assert await seen == [make_status()]
    assert not caplog.records
    await reader.close()


async def test_what_waits_when_the_client_stops_is_waited_for_by_nobody() -> None:
    """A reader that takes nothing would keep the client from ending."""
    streams, ended = Streams(), []
    hanging = streams.open(frozenset(["log"]), lambda: ended.append("hanging"), False)
    waiting = streams.open(frozenset(["log"]), lambda: ended.append("waiting"), False)
    hanging.sending = True
    streams.publish("log", {"text": "a line"})
    streams.close_all()
    assert ended == ["hanging"]
    assert await waiting.take() == b""


async def test_there_are_so_many_streams_and_readers_of_the_group_leave_room_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    monkeypatch.setattr(events, "MAX_STREAMS", 2)
    async with running(path, monkeypatch):
        held = [await Reader.open(path) for _ in range(2)]
        with pytest.raises(ApiFailed, match="2 programs read events already"):
            await asyncio.to_thread(lambda: next(ApiClient(path).events()))
        for one in held:
            await one.close()
    monkeypatch.undo()
    streams = Streams()
    guests = [streams.open(frozenset(["log"]), lambda: None, True) for _ in range(events.MAX_GUEST_STREAMS)]
    with pytest.raises(TooManyStreams):
        streams.open(frozenset(["log"]), lambda: None, True)
    streams.open(frozenset(["log"]), lambda: None, False)
    streams.close(guests[0])
    streams.open(frozenset(["log"]), lambda: None, True)


@pytest.mark.parametrize("query", ["?kinds=", "?kinds=log,", "?kinds=secrets", "?kind=log", "?after=1"])
async def test_events_refuse_what_they_do_not_know(
    query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(GET.format(f"/v1/events{query}", "Connection: close\r\n").encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        assert not control.live.streams.wanted("log", "sample", "status")


async def test_head_of_events_is_answered_and_opens_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"HEAD /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"text/event-stream" in await reader.read()
        writer.close()
        assert not control.live.streams.wanted("log")


async def test_the_example_in_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = (Path(__file__).parents[2] / "docs/api.md").read_text()
    example = docs.partition("```python\n")[2].partition("```")[0]
    path = tmp_path / "api.sock"
    assert "/run/shadowmesh/shadowmesh.sock" in example
    example = example.replace("/run/shadowmesh/shadowmesh.sock", str(path))
    printed = ""
    async with running(path, monkeypatch) as control:
        line(control, "of before", logging.WARNING)
        running_example = asyncio.create_task(asyncio.to_thread(exec, example, {}))
        await until(lambda: control.live.streams.wanted("log"), "it reads events")
        line(control, "as it happens")

        def complete() -> bool:
            nonlocal printed
            printed += capsys.readouterr().out
            return "as it happens" in printed and "bytes in this second: 0 0" in printed

        await until(complete, "every kind of event was printed")
    await running_example
    for text in (
        "alice ['bob: relay 192.0.2.1:4433'",
        "in the last minute: 0",
        "warning of before",
        "relays: [",
    ):
        assert text in printed, text
    await asyncio.to_thread(exec, example, {})
    assert "start the client first: no client runs here" in capsys.readouterr().out


async def test_the_python_client_gives_structs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api.sock"
    async with running(path, monkeypatch) as control:
        client = ApiClient(path)
        line(control, "earlier")
        line(control, "earlier too", logging.ERROR)
        assert await asyncio.to_thread(client.status) == make_status()
        assert [one.text for one in (await asyncio.to_thread(client.log)).lines] == ["earlier", "earlier too"]

        def read() -> list[object]:
            found: list[object] = []
            for event in client.events("status", "sample", "log", after=1):
                found.append(event)
                if {type(one) for one in found} == {Status, Sample, LogLine}:
                    return found
            return found

        found = await asyncio.to_thread(read)
        assert found[0] == LogLine(number=2, at=found[0].at, level="error", text="earlier too")  # type: ignore[attr-defined]


def test_the_log_is_bounded_in_lines_and_in_each_line() -> None:
    recent = RecentLog()
    assert recent.show(LogQuery()).last == 0
    for number in range(LOG_LINES + 10):
        recent.handle(logging.LogRecord("x", logging.DEBUG, "", 0, "%s", (f"{number} " + "y" * 9000,), None))
    shown = recent.show(LogQuery())
    assert (len(shown.lines), shown.lines[0].number, shown.last) == (LOG_LINES, 11, LOG_LINES + 10)
    assert all(len(one.text) == MAX_TEXT + 1 for one in shown.lines)
    assert recent.show(LogQuery(level="info")).lines == []
    assert len(recent.show(LogQuery(lines=3)).lines) == 3
    assert recent.show(LogQuery(lines=0)).lines == []


@pytest.mark.parametrize("addresses", [True, False])
def test_the_log_keeps_what_the_log_says_and_no_more(addresses: bool) -> None:
    logger = logging.getLogger("shadowmesh.test_live")
    logger.setLevel(logging.INFO)
    with remember(LogSection(addresses=addresses)) as recent:
        logger.info("from %s", "192.0.2.1:4433")
        logger.debug("not logged")
        try:
            raise ValueError("its text")
        except ValueError:
            logger.exception("failed")
    logger.info("later")
    first, second = recent.show(LogQuery()).lines
    assert first.text == ("from 192.0.2.1:4433" if addresses else "from [address]")
    assert second.level == "error"
    assert second.text.startswith("failed\nTraceback")

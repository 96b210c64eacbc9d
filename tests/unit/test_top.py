"""`top` with a client that is posed, driven by textual's own pilot: what is seen, keys, narrow terminals."""

from __future__ import annotations

import asyncio
import queue
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from rich.console import Console
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from shadowmesh.api.client import ApiClient, Event, NotRunning
from shadowmesh.api.live import EventKind, LogLine, PeerSample, Sample, Samples
from shadowmesh.api.schema import Status
from shadowmesh.cli import top, top_app
from shadowmesh.cli.main import main as client
from shadowmesh.cli.top_app import TopApp
from shadowmesh.command import ExitCode
from tests.unit.test_api import make_status

END = object()


class Posed:
    """A client that says what the test puts into `says`, until END; then it is gone."""

    def __init__(self) -> None:
        self.says: queue.Queue[Event | object] = queue.Queue()
        self.after: list[int | None] = []
        self.gone = False

    def samples(self) -> Samples:
        if self.gone:
            raise NotRunning("no client runs here: there is no socket")
        return Samples(at=[], tx_bytes=[], rx_bytes=[], drops=[])

    def events(self, *kinds: EventKind, after: int | None = None) -> Iterator[Event]:
        self.after.append(after)
        while (event := self.says.get(timeout=30)) is not END:
            yield event  # type: ignore[misc]


def many(count: int) -> Status:
    """bob and carol, and others."""
    status = make_status()
    bob = status.peers[0]
    more = [
        msgspec.structs.replace(
            bob, name=f"peer{number}", node_id=f"{number:a>52}", path="direct 192.0.2.7:5000"
        )
        for number in range(count)
    ]
    return msgspec.structs.replace(status, peers=[*status.peers, *more])


def sample(**peers: int) -> Sample:
    told = [
        PeerSample(node_id=name[0] * 52, name=name, tx_bytes=sent, rx_bytes=0, rtt_ms=3.25)
        for name, sent in peers.items()
    ]
    return Sample(at=1.0, tx_bytes=sum(peers.values()), rx_bytes=0, drops=0, peers=told)


@asynccontextmanager
async def showing(
    monkeypatch: pytest.MonkeyPatch, width: int = 140, height: int = 40
) -> AsyncIterator[tuple[Pilot[None], Posed]]:
    monkeypatch.setattr(top_app, "RETRY", 0.01)
    posed = Posed()
    app = TopApp(posed)
    async with app.run_test(size=(width, height)) as pilot:
        try:
            yield pilot, posed
        finally:
            app._reader.stop()
            posed.says.put(END)
            await asyncio.to_thread(app._reader.join, 10.0)
            assert not app._reader.is_alive()


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15.0):
        while not holds():
            await pilot.pause(0.01)


def screen(pilot: Pilot[None]) -> str:
    """The terminal's text."""
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in lines)


async def shows(pilot: Pilot[None], *texts: str) -> None:
    """Waits until all of them stand on the terminal."""
    try:
        await until(pilot, lambda: all(text in screen(pilot) for text in texts))
    except TimeoutError:
        assert [text for text in texts if text not in screen(pilot)] == []


def cells(pilot: Pilot[None], column: str) -> list[str]:
    table = pilot.app.query_one(DataTable)
    return [str(table.get_cell(row, column)) for row in table.rows]


async def test_everything_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with showing(monkeypatch, 170) as (pilot, posed):
        posed.says.put(make_status())
        posed.says.put(sample(bob=1_562_500))
        posed.says.put(LogLine(number=9, at=0.0, level="error", text="something\x1b[2J failed\nTraceback"))
        await shows(
            pilot,
            "something",
            "alice  10.77.0.1/24",
            "1 of 2 peers, 1 of 2 relays, up 1 h 2 min",
            "sent 12.5 Mbit/s",
            "relay 192.0.2.1:4433",
            "3.2 ms",
            "it is the first that works",
            "X25519+ML-KEM-1024, ChaCha20-Poly1305",
            "direct 198.51.100.7:5000",
            "connected  loss 3%, load 12%",
            "no name",
            "replayed",
            "q quit",
        )
        seen = screen(pilot)
        assert "\x1b" not in seen
        assert "Traceback" not in seen
        await pilot.press("q")
        assert posed.after == [0]


async def test_keys_sort_and_the_cursor_stays_with_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with showing(monkeypatch) as (pilot, posed):
        posed.says.put(make_status())
        posed.says.put(sample(bob=10))
        await until(pilot, lambda: cells(pilot, "PEER") == ["bob", "carol"])
        await pilot.press("down")
        await until(pilot, lambda: str(pilot.app.query_one("#peer", Static).border_title) == "carol")
        posed.says.put(sample(carol=5000))
        await until(pilot, lambda: cells(pilot, "PEER") == ["carol", "bob"])
        assert pilot.app.query_one(DataTable).cursor_row == 0
        assert str(pilot.app.query_one("#peer", Static).border_title) == "carol"
        for keys, names in (
            (["n"], ["bob", "carol"]),
            (["i"], ["carol", "bob"]),
            (["i", "p"], ["bob", "carol"]),
        ):
            await pilot.press(*keys)
            assert cells(pilot, "PEER") == names, keys
        await shows(pilot, "STATE ▼")
        await pilot.press("l", "s", "r", "t")
        assert cells(pilot, "PEER") == ["carol", "bob"]
        dark = pilot.app.theme
        await pilot.press("d")
        assert pilot.app.theme != dark


@pytest.mark.parametrize(
    ("width", "height", "there", "missing"),
    [
        (200, 50, ["PATH", "TRAFFIC", "EPOCH", "Relays", "Log"], []),
        (100, 36, ["PATH", "EPOCH", "Relays", "Log"], []),
        (80, 24, ["RTT", "TRAFFIC", "Dropped"], ["PATH", "Relays", "Log"]),
        (44, 12, ["PEER", "SENT"], ["RTT", "PATH", "Dropped"]),
        (20, 6, ["PEER"], ["SENT"]),
    ],
)
async def test_what_does_not_fit_is_left_out(
    width: int, height: int, there: list[str], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with showing(monkeypatch, width, height) as (pilot, posed):
        posed.says.put(many(40))
        await shows(pilot, *there)
        seen = screen(pilot)
        assert [text for text in missing if text in seen] == []
        assert max(map(len, seen.splitlines())) == width
        await pilot.resize_terminal(200, 50)
        await shows(pilot, "Relays")


async def test_a_client_that_goes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with showing(monkeypatch) as (pilot, posed):
        posed.says.put(make_status())
        posed.says.put(LogLine(number=4, at=0.0, level="info", text="first"))
        posed.says.put(END)  # too slow, or a client that ends
        await until(pilot, lambda: posed.after == [0, 4])
        posed.gone = True
        posed.says.put(END)
        await shows(pilot, "no client runs here: there is no socket [client.not-running]; tried again")
        assert cells(pilot, "PEER") == ["bob", "carol"], "what was known stays"
        posed.gone = False
        posed.says.put(make_status())
        await until(pilot, lambda: "no client runs here" not in screen(pilot))
        assert posed.after == [0, 4, 0], "another run of the client counts its lines anew"


async def test_no_color_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with showing(monkeypatch) as (pilot, posed):
        posed.says.put(make_status())
        await until(pilot, lambda: cells(pilot, "PEER") == ["bob", "carol"])
        table = pilot.app.query_one(DataTable)
        styles = [table.get_cell(row, column).style for row in table.rows for column in table.columns]
        assert {str(style) for style in styles} <= {"", "bold", "dim"}
        console = Console(width=100, force_terminal=True, color_system="truecolor")
        with console.capture() as capture:
            for part in ("head", "peer", "relays", "drops"):
                console.print(pilot.app.query_one(f"#{part}", Static).content)
        codes = {
            code for sequence in re.findall(r"\x1b\[([\d;]*)m", capture.get()) for code in sequence.split(";")
        }
        assert codes <= {"", "0", "1", "2"}, "bold and dim"


def test_without_a_terminal_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(["top"]) == ExitCode.FAILED
    assert "top needs a terminal; for programs there are status --json" in capsys.readouterr().err


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "at_terminal", lambda: True)
    monkeypatch.setattr(ApiClient, "status_json", lambda _: b"{}")


def test_without_textual_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_a_terminal(monkeypatch)
    for name in [name for name in sys.modules if name.startswith("textual")] + ["shadowmesh.cli.top_app"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert client(["top"]) == ExitCode.FAILED
    assert "see Extras in docs/install.md" in capsys.readouterr().err


def test_it_begins_with_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    at_a_terminal(monkeypatch)
    begun = []
    monkeypatch.setattr(top_app, "run", lambda path, order: begun.append((str(path), order)))
    assert client(["top", "--sort", "rtt", "--socket", "/x"]) == ExitCode.OK
    assert begun == [("/x", "rtt")]
    assert client(["top", "--sort", "size"]) == ExitCode.USAGE


def test_a_long_name_and_path_are_cut() -> None:
    from shadowmesh.cli.board import Pulse, Row
    from shadowmesh.cli.top_parts import Painter

    peer = msgspec.structs.replace(
        make_status().peers[0], name="x" * 60, path="direct [2001:db8::1]:5000" + "0" * 60
    )
    row = Row(peer, Pulse(), None)
    for width in range(1, 250):
        shown = Painter().columns([row], width)
        assert shown
        used = sum(
            2 + max(len(column.head("name", False).plain), len(column.cell(row).plain)) for column in shown
        )
        assert used <= width or len(shown) == 1, width
    assert all(isinstance(column.cell(row), Text) for column in shown)

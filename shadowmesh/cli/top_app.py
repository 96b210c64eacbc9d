"""The terminal application of `top`: its layout, its keys, and the thread that reads. Needs textual.

The thread posts each event of the local API to the application, which alone touches the board. What is
shown is computed in `board` and drawn in `top_parts`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import DataTable, Footer, Static

from shadowmesh.api.client import ApiClient, ApiFailed, Event, NotRunning
from shadowmesh.api.live import EventKind, LogLine, Samples
from shadowmesh.cli.board import Board, Order, Row
from shadowmesh.cli.top_parts import Painter
from shadowmesh.values import printable

RETRY = 2.0
"""Seconds between attempts to reach a client that has stopped."""
SCROLLBAR = 1
"""Characters that the table keeps for it."""
_ORDERS: dict[str, Order] = {
    "t": "traffic",
    "s": "sent",
    "r": "received",
    "l": "rtt",
    "n": "name",
    "p": "state",
}
"""By key."""


class Source(Protocol):
    """What is asked; an ApiClient."""

    def samples(self) -> Samples:
        """The samples of before."""

    def events(self, *kinds: EventKind, after: int | None = None) -> Iterator[Event]:
        """What happens."""


class Told(Message):
    """The client told something: an event, the history, or that it is gone (a text that says why)."""

    def __init__(self, what: Event | Samples | str) -> None:
        super().__init__()
        self.what = what


class Reader(threading.Thread):
    """Reads events until it is stopped, and tries again where the client has gone."""

    def __init__(self, source: Source, app: TopApp) -> None:
        super().__init__(name="events for top", daemon=True)
        self._source = source
        self._app = app
        self._stopped = threading.Event()
        self._last = 0

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped.is_set():
            try:
                self._read()
            except (NotRunning, ApiFailed) as error:
                self._last = 0
                self._post(error.told)
            self._stopped.wait(RETRY)

    def _read(self) -> None:
        self._post(self._source.samples())
        for event in self._source.events(after=self._last):
            if self._stopped.is_set():
                return
            if isinstance(event, LogLine):
                self._last = event.number
            self._post(event)
        self._post("the client has stopped")

    def stop(self) -> None:
        """Post nothing more; the thread ends with the next event."""
        self._stopped.set()

    def _post(self, what: Event | Samples | str) -> None:
        if not self._stopped.is_set():
            self._app.post_message(Told(what))


class TopApp(App[None]):
    """`top`, of the client behind `source`."""

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = [  # noqa: RUF012
        (0, "-tiny"),
        (17, "-low"),
        (30, "-high"),
    ]
    CSS = """
    #head { height: 2; padding: 0 1; background: $primary 15%; }
    #gone { height: 1; padding: 0 1; background: $error 60%; display: none; }
    DataTable { height: auto; max-height: 50%; overflow-x: hidden; scrollbar-size: 1 1; }
    DataTable, DataTable > .datatable--header { background: $background; }
    #below { height: 9; }
    #below Static, #log { border: round $primary 50%; border-title-color: $primary; padding: 0 1; }
    #below Static { height: 100%; }
    #peer, #relays { width: 1fr; }
    #drops { width: 36; }
    #log { height: 1fr; }
    .-narrow #below { layout: grid; grid-size: 2 2; grid-columns: 1fr 36; grid-rows: 8 6; height: 14; }
    .-narrow #relays { column-span: 2; }
    .-low #below, .-low.-narrow #below { layout: horizontal; height: 7; }
    .-low.-narrow #relays { display: none; }
    .-low DataTable, .-tiny DataTable { height: 1fr; max-height: 100%; }
    .-low #log, .-tiny #log, .-tiny #below { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        *(Binding(key, f"order('{key}')", order) for key, order in _ORDERS.items()),
        Binding("i", "invert", "invert"),
        Binding("d", "dark", "dark/light", show=False),
    ]

    def __init__(self, source: Source, order: Order = "traffic") -> None:
        super().__init__()
        self.board = Board()
        self._painter = Painter(coloured=not self.no_color)
        self.order: Order = order
        self.inverted = False
        self._reader = Reader(source, self)
        self._heads: list[Text] = []
        self._rows: list[Row] = []
        self._chosen: str | None = None

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        yield Static(id="head")
        yield Static(id="gone")
        yield DataTable[Text](id="peers", cursor_type="row")
        with Horizontal(id="below"):
            yield _titled("peer", "Peer")
            yield _titled("drops", "Dropped")
            yield _titled("relays", "Relays")
        yield _titled("log", "Log")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self._reader.start()

    def on_unmount(self) -> None:
        """Read no more."""
        self._reader.stop()

    def on_resize(self) -> None:
        """Other columns may fit."""
        self.call_after_refresh(self.draw)

    def on_told(self, message: Told) -> None:
        """What the thread has read."""
        what = message.what
        gone = self.query_one("#gone", Static)
        gone.display = isinstance(what, str)
        if isinstance(what, str):
            gone.update(Text(f"{printable(what)}; tried again every {RETRY:g} s", no_wrap=True))
        elif isinstance(what, Samples):
            self.board.begin(what)
        else:
            self.board.take(what)
        self.draw()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another peer was chosen."""
        self._chosen = event.row_key.value
        self._draw_peer()

    def action_order(self, key: str) -> None:
        """Sort otherwise."""
        self.order = _ORDERS[key]
        self.draw()

    def action_invert(self) -> None:
        """The other way round."""
        self.inverted = not self.inverted
        self.draw()

    def action_dark(self) -> None:
        """Between dark and light."""
        self.theme = "textual-light" if self.theme == "textual-dark" else "textual-dark"

    def draw(self) -> None:
        """Everything anew."""
        status = self.board.status
        if status is None:
            return
        self.query_one("#head", Static).update(self._painter.head(self.board, status, self.size.width - 2))
        self._draw_peers()
        self._draw_peer()
        self.query_one("#relays", Static).update(self._painter.relays(self.board.relays()))
        self.query_one("#drops", Static).update(self._painter.drops(self.board.drops()))
        log = self.query_one("#log", Static)
        log.update(self._painter.log(list(self.board.log)[-max(1, log.content_size.height) :]))

    def _draw_peers(self) -> None:
        table = self.query_one("#peers", DataTable)
        self._rows = self.board.rows(self.order, self.inverted)
        columns = self._painter.columns(self._rows, self.size.width - SCROLLBAR)
        heads = [column.head(self.order, self.inverted) for column in columns]
        wanted = [row.peer.node_id for row in self._rows]
        if self._chosen not in wanted:
            self._chosen = wanted[0] if wanted else None
        if heads == self._heads and wanted == [key.value for key in table.rows]:
            for row in self._rows:
                for column in columns:
                    table.update_cell(row.peer.node_id, column.title, column.cell(row), update_width=True)
            return
        self._heads = heads
        with table.prevent(DataTable.RowHighlighted):  # the cursor goes with the peer that was chosen
            table.clear(columns=True)
            for column, title in zip(columns, heads, strict=True):
                table.add_column(title, key=column.title)
            for row in self._rows:
                table.add_row(*(column.cell(row) for column in columns), key=row.peer.node_id)
            if self._chosen is not None:
                table.move_cursor(row=wanted.index(self._chosen))

    def _draw_peer(self) -> None:
        part = self.query_one("#peer", Static)
        row = next((one for one in self._rows if one.peer.node_id == self._chosen), None)
        part.border_title = printable(row.peer.name) if row is not None else "Peer"
        part.update(self._painter.peer(row) if row is not None else Text("no peers", style="dim"))


def _titled(name: str, title: str) -> Static:
    part = Static(id=name)
    part.border_title = title
    return part


def run(path: Path, order: Order) -> None:
    """Show the client on `path` until the person quits."""
    if not os.environ.get("NO_COLOR"):
        os.environ.pop("NO_COLOR", None)  # textual takes an empty one as set
    TopApp(ApiClient(path), order).run()

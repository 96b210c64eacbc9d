"""The parts of `top` as text with styles: what stands where, in which colour, and what fits. Needs rich.

Knows no terminal and no keys. What others named goes through `printable` here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowmesh.api.live import LogLine
from shadowmesh.api.schema import PathStatus, PeerStatus, RelayStatus, Status
from shadowmesh.cli.board import SPAN, Board, Drop, Order, Row, bit_rate, sparkline
from shadowmesh.cli.output import duration, milliseconds, percent, short_cipher
from shadowmesh.values import printable

SENT, RECEIVED, DIM = "cyan", "magenta", "dim"
STATES = {"connected": "green", "idle": DIM, "absent": "red"}
PATHS = {"usable": "", "checking": "yellow", "trying": "yellow", "failed": DIM}
LEVELS = {"warning": "yellow", "error": "red", "critical": "bold red"}

LONGEST_NAME = 24
LONGEST_PATH = 40
"""Characters of a name and of a path in the table; the part below has all of them."""
FEWEST_BARS = 9
"""Of a sparkline in the table, as wide as its title; with less it is left out."""
NEEDED = 4
"""Up to this rank, columns matter more than the sparkline."""
GAP = 2
"""Characters between two columns."""


class Column(NamedTuple):
    """One column of the peers. `rank` says which are left out first where not all fit: the highest."""

    title: str
    order: Order | None
    rank: int
    width: int
    cell: Callable[[Row], Text]
    right: bool = False

    def head(self, chosen: Order, inverted: bool) -> Text:
        """Its title, with a mark where the rows are sorted by it."""
        mark = f" {'▲' if inverted else '▼'}" if self.order == chosen else ""
        return Text(self.title + mark, justify="right" if self.right else "left")

    def needs(self, rows: Sequence[Row]) -> int:
        """Characters with the gap; not less than the usual, so that columns don't come and go."""
        return GAP + max([self.width, *(len(self.cell(row).plain) for row in rows)])


def _short(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


class Painter:
    """Makes the parts.

    :param coloured: False leaves only bold and dim.
    """

    def __init__(self, coloured: bool = True) -> None:
        self._coloured = coloured
        self._columns = (
            Column("PEER", "name", 0, 6, lambda row: Text(_short(row.peer.name, LONGEST_NAME), style="bold")),
            Column("STATE", "state", 3, 10, lambda row: self._text(row.peer.state, _state(row.peer.state))),
            Column("PATH", None, 5, 10, self._path),
            Column("RTT", "rtt", 4, 8, self._round_trip, right=True),
            Column("SENT", "sent", 1, 11, lambda row: self._rate(row.pulse.tx_rate, SENT), right=True),
            Column(
                "RECEIVED", "received", 2, 11, lambda row: self._rate(row.pulse.rx_rate, RECEIVED), right=True
            ),
            Column("EPOCH", None, 6, 5, self._epoch, right=True),
        )

    def columns(self, rows: Sequence[Row], width: int) -> list[Column]:
        """Those that fit so many characters; what is left goes to a sparkline."""
        fitting: list[Column] = []
        for column in sorted(self._columns, key=lambda column: column.rank):
            needed = column.needs(rows)
            kept = FEWEST_BARS + GAP if column.rank > NEEDED else 0
            if needed + kept <= width or not fitting:
                fitting.append(column)
                width -= needed
        shown = [column for column in self._columns if column in fitting]
        bars = min(SPAN, width - GAP)
        return [*shown, self._bars(bars)] if bars >= FEWEST_BARS else shown

    def head(self, board: Board, status: Status, width: int) -> RenderableType:
        """Two lines: who this is and for how long, and what passes."""
        node = status.node
        who = Text(printable(node.name), style="bold", no_wrap=True, overflow="ellipsis")
        if node.network is not None:
            who.append(f" in {printable(node.network.name)}", style="not bold")
        who.append(f"  {', '.join(node.addresses) or node.interface}", style="not bold dim")
        peers = sum(peer.state == "connected" for peer in status.peers)
        relays = sum(relay.state == "connected" for relay in status.relays)
        right = Text(
            f"{peers} of {len(status.peers)} peers, {relays} of {len(status.relays)} relays, "
            f"up {duration(node.uptime)}",
            no_wrap=True,
        )
        line = Table.grid(expand=True, padding=(0, GAP, 0, 0), pad_edge=False)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        line.add_row(who, right)
        return Group(line, self._traffic(board, width))

    def peer(self, row: Row) -> RenderableType:
        """Every path to the chosen peer, why it has the one it has, and how it is protected."""
        peer = row.peer
        paths = [self._path_cells(path) for path in sorted(peer.paths, key=_liveliest)]
        lines = [Text(printable(peer.last_error), style=self._colour("yellow"))] if peer.last_error else []
        if peer.path is not None:
            lines.append(Text(printable(peer.path_reason or "")))
            lines.append(Text(_protection(peer), style=DIM))
        lines.append(Text(", ".join(peer.addresses), style=DIM))
        return Group(*_aligned(paths), *map(_one_line, lines))

    def relays(self, found: Sequence[RelayStatus]) -> RenderableType:
        """One line each; a dot marks the home relay."""
        return Group(*_aligned([self._relay_cells(relay) for relay in found]))

    def drops(self, found: Sequence[Drop]) -> RenderableType:
        """One line for each reason."""
        if not found:
            return Text("nothing", style=DIM)
        rows = [
            [
                Text(str(drop.count), justify="right"),
                self._text(f"+{drop.rate:.1f}/s" if drop.rate else "", "red", right=True),
                Text(drop.reason, style="" if drop.rate else DIM),
            ]
            for drop in found
        ]
        return Group(*_aligned(rows))

    def log(self, lines: Sequence[LogLine]) -> RenderableType:
        """One terminal line each, in local time."""
        shown = []
        for line in lines:
            text = Text()
            text.append(f"{dt.datetime.fromtimestamp(line.at):%H:%M:%S} ", style=DIM)
            first = printable((line.text.splitlines() or [""])[0])
            text.append(first, style=self._colour(LEVELS.get(line.level, "")))
            shown.append(_one_line(text))
        return Group(*shown)

    def _colour(self, style: str) -> str:
        kept = ("bold", "dim", "not")
        return style if self._coloured else " ".join(word for word in style.split() if word in kept)

    def _text(self, text: str, style: str, right: bool = False) -> Text:
        return Text(text, style=self._colour(style), justify="right" if right else "left")

    def _bars(self, bars: int) -> Column:
        def cell(row: Row) -> Text:
            return self._text(sparkline(row.pulse.both, bars), SENT if any(row.pulse.both) else DIM)

        return Column("TRAFFIC", "traffic", 7, bars, cell)

    def _rate(self, value: float, style: str) -> Text:
        return self._text(bit_rate(value), style if value else DIM, right=True)

    def _path(self, row: Row) -> Text:
        if row.peer.path is None:
            return Text("-", style=DIM)
        direct = row.peer.path.startswith("direct")
        return self._text(_short(row.peer.path, LONGEST_PATH), "green" if direct else "yellow")

    def _round_trip(self, row: Row) -> Text:
        return self._text(milliseconds(row.rtt_ms), DIM if row.rtt_ms is None else "", right=True)

    def _epoch(self, row: Row) -> Text:
        return Text("-" if row.peer.epoch is None else str(row.peer.epoch), justify="right")

    def _traffic(self, board: Board, width: int) -> Text:
        """What remains beside words and numbers is shared by the two sparklines."""
        bars = min(SPAN, (width - 64) // 2)
        node, line = board.node, Text()
        for name, values, rate, style in (
            ("sent", node.tx, node.tx_rate, SENT),
            ("received", node.rx, node.rx_rate, RECEIVED),
        ):
            line.append(f"{name} ")
            line.append(f"{bit_rate(rate):>11}  ", style=self._colour(f"bold {style}"))
            if bars >= FEWEST_BARS:
                line.append(f"{sparkline(values, bars)}  ", style=self._colour(style))
        dropped = board.drops_per_second[-1] if board.drops_per_second else 0
        line.append("dropped ")
        line.append(f"{dropped}/s", style=self._colour("bold red" if dropped else "bold"))
        return _one_line(line)

    def _path_cells(self, path: PathStatus) -> list[Text]:
        style = "bold green" if path.in_use else PATHS[path.state]
        state = "in use" if path.in_use else path.state
        return [
            self._text("●" if path.in_use else " ", style),
            self._text(milliseconds(path.rtt_ms), style, right=True),
            self._text(printable(path.path), style),
            self._text(printable(f"{state}, {path.detail}" if path.detail else state), style),
            self._text(f"loss {path.loss:.0%}" if path.loss else "", "yellow"),
        ]

    def _relay_cells(self, relay: RelayStatus) -> list[Text]:
        told = [relay.last_error or "" if relay.state != "connected" else ""]
        told += [f"loss {percent(relay.loss)}" if relay.loss is not None else ""]
        told += [f"load {relay.load}%" if relay.load is not None else ""]
        return [
            self._text("●" if relay.home else " ", _state(relay.state)),
            Text(milliseconds(relay.rtt_ms), justify="right"),
            Text(printable(relay.address)),
            self._text(f"{relay.state}{' TCP' if relay.transport == 'tcp' else ''}", _state(relay.state)),
            Text(printable(", ".join(filter(None, told))), style=DIM),
        ]


def _state(state: str) -> str:
    return STATES.get(state, "yellow")


def _protection(peer: PeerStatus) -> str:
    epoch = "" if peer.epoch_age is None else f", epoch {peer.epoch} for {duration(peer.epoch_age)}"
    return f"{peer.key_exchange}, {short_cipher(peer.cipher)}{epoch}"


def _liveliest(path: PathStatus) -> tuple[bool, int]:
    return not path.in_use, ("usable", "checking", "trying", "failed").index(path.state)


def _one_line(text: Text) -> Text:
    """Cut at the edge, wherever that is."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _aligned(rows: Sequence[Sequence[Text]]) -> list[Text]:
    """Lines with their cells below each other, a gap between them; the edge cuts what does not fit."""
    widths = [max(len(cell.plain) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            space = " " * (width - len(cell.plain))
            if cell.justify == "right":
                line.append(space)
            line.append_text(cell)
            line.append(" " * GAP if cell.justify == "right" else space + " " * GAP)
        line.rstrip()
        lines.append(_one_line(line))
    return lines

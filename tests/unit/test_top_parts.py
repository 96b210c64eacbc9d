"""What the parts of `top` say, without a terminal: order, marks, colours, and words of others."""

from __future__ import annotations

import msgspec
import pytest
from rich.console import Console, RenderableType

from shadowmesh.api.live import Level, LogLine, Sample
from shadowmesh.cli.board import Board, Drop, Pulse, Row
from shadowmesh.cli.top_parts import LONGEST_NAME, Painter
from tests.unit.test_api import make_status

EVIL = "a\x1b[2J\nb"
"""What others could call themselves or say, if nobody looked at it before."""


def text(part: RenderableType, width: int = 200, colour: bool = False) -> str:
    """As a terminal gets it."""
    console = Console(width=width, force_terminal=colour, color_system="standard" if colour else None)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def row(**changes: object) -> Row:
    """bob's, changed."""
    return Row(msgspec.structs.replace(make_status().peers[0], **changes), Pulse(), None)


def cell(name: str, of: Row) -> str:
    return {column.title: column for column in Painter().columns([of], 200)}[name].cell(of).plain


def test_words_of_others_move_no_cursor() -> None:
    painter, status = Painter(), make_status()
    evil = msgspec.structs.replace(status, node=msgspec.structs.replace(status.node, name=EVIL))
    relay = msgspec.structs.replace(status.relays[1], last_error=EVIL)
    for shown in (
        text(painter.head(Board(), evil, 200)),
        text(painter.peer(row(name=EVIL, last_error=EVIL, path_reason=EVIL))),
        text(painter.relays([relay])),
        text(painter.log([LogLine(number=1, at=0.0, level="info", text=EVIL)])),
        cell("PEER", row(name=EVIL)),
        cell("PATH", row(path=EVIL)),
    ):
        assert "\x1b" not in shown
        assert "a" in shown
        assert "\nb" not in shown


def test_what_is_too_long_ends_in_a_mark() -> None:
    shown = cell("PEER", row(name="x" * 99))
    assert shown == "x" * (LONGEST_NAME - 1) + "…"
    assert text(Painter().log([LogLine(number=1, at=0.0, level="info", text="y" * 99)]), 40).count("\n") == 1


def test_the_path_in_use_stands_first_and_has_the_mark() -> None:
    bob = make_status().peers[0]
    paths = sorted(bob.paths, key=lambda path: path.in_use)  # the one in use comes last
    lines = text(Painter().peer(row(paths=paths, last_error="it stumbled"))).splitlines()
    assert [line.startswith("●") for line in lines[: len(paths)]] == [True] + [False] * (len(paths) - 1)
    assert "in use" in lines[0]
    assert "it stumbled" in lines[len(paths)]
    assert "it stumbled" not in text(Painter().peer(row()))


def test_a_relay_says_its_error_only_while_it_is_away() -> None:
    home, away = make_status().relays
    home = msgspec.structs.replace(home, last_error="of before", transport="tcp", rtt_ms=12.5)
    first, second = text(Painter().relays([home, away])).splitlines()
    assert first.startswith("●")
    assert not second.startswith("●")
    assert "connected TCP" in first
    assert "of before" not in first
    assert "no name" in second
    assert "TCP" not in second
    assert first.index("12.5") + len("12.5 ms") == second.index("-") + 1, "figures end below each other"


@pytest.mark.parametrize(("level", "code"), [("info", ""), ("warning", "33"), ("error", "31")])
def test_the_log_shows_how_bad_it_is(level: Level, code: str) -> None:
    lines = [LogLine(number=1, at=0.0, level=level, text="it rains")]
    assert (f"\x1b[{code}mit rains" in text(Painter().log(lines), colour=True)) == bool(code)
    assert f"\x1b[{code or 33}m" not in text(Painter(coloured=False).log(lines), colour=True)


def test_colours_tell_direct_from_relayed_and_drops_from_none() -> None:
    columns = {column.title: column for column in Painter().columns([row()], 200)}
    assert columns["PATH"].cell(row(path="direct 192.0.2.7:1")).style == "green"
    assert columns["PATH"].cell(row(path="relay 192.0.2.7:1")).style == "yellow"
    drops = text(Painter().drops([Drop("replayed", 9, 2.5), Drop("authentication", 10, None)]), colour=True)
    assert "\x1b[31m+2.5/s" in drops
    board = Board()
    board.take(make_status())
    for number in (0, 3):
        board.take(Sample(at=1.0, tx_bytes=0, rx_bytes=0, drops=number, peers=[]))
        head = text(Painter().head(board, make_status(), 200), width=400, colour=True)
        assert ("\x1b[1;31m3/s" in head) == bool(number)

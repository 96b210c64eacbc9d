"""How the verbs of both programs print: aligned tables, sizes, durations."""

from __future__ import annotations

from collections.abc import Sequence

from shadowmesh.values import printable


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()
) -> list[str]:
    """Lines of a table, columns two spaces apart; the columns named in `right` are set flush right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(head, cells, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line([title.upper() for title in head]), *map(line, rows)]


def percent(share: float | None) -> str:
    """A share from 0 to 1: 12%."""
    return "-" if share is None else f"{share:.0%}"


def size(count: int) -> str:
    """Bytes with a binary prefix and three digits: 1.50 KiB."""
    if count < 1000:
        return f"{count} B"
    power = 1
    while count / 1024**power >= 999.5:
        power += 1
    value = count / 1024**power
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {'KMGTPE'[power - 1]}iB"


def duration(seconds: float) -> str:
    """The two largest units: 45 s, 1 min 15 s, 1 h 2 min, 3 d 4 h."""
    whole = max(0, int(seconds))
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (value, _) in enumerate(units) if value), len(units) - 1)
    return " ".join(f"{value} {unit}" for value, unit in units[first : first + 2])

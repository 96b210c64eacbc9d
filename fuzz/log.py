"""fuzz/LOG.md: for how long each target ran in all, what that covered and found; no target itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from fuzz import places

PATH = places.ROOT / "fuzz" / "LOG.md"
HEAD = """# Fuzzing so far

Written by `make fuzz` and `make fuzz-long`; times, of CPU, and executions add up over runs. Edges and
features are libFuzzer's, of the extensions and of the Python modules together, in the last run; lines are
those of the modules that the target names (`COVERS`), by a replay of the committed corpus
(`make fuzz-coverage`); a dash: the target is about compiled code.
Findings are inputs that failed: open ones, and mended ones, which are `crash-*` in the target's corpus.

| target | CPU minutes | executions | edges | features | lines | open | mended |
|---|---:|---:|---:|---:|---:|---:|---:|
"""


@dataclass
class Row:
    """One target."""

    target: str
    minutes: float = 0.0
    executions: int = 0
    edges: int = 0
    features: int = 0
    lines: str = "—"
    open: int = 0
    mended: int = 0

    def text(self) -> str:
        values = (getattr(self, field.name) for field in fields(self))
        return (
            "| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in values) + " |"
        )


def read(path: Path = PATH) -> dict[str, Row]:
    """All rows; empty without a file."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(fields(Row)) and cells[0] != "target" and not cells[0].startswith("--"):
            target, minutes, executions, edges, features, covered, unmended, mended = cells
            row = Row(target, float(minutes), int(executions), int(edges), int(features), covered)
            row.open, row.mended = int(unmended), int(mended)
            rows[target] = row
    return rows


def write(rows: dict[str, Row], path: Path = PATH) -> None:
    """Rows of targets that are no more are left out."""
    known = [rows.get(name, Row(name)) for name in places.names()]
    path.write_text(HEAD + "".join(row.text() + "\n" for row in known))


def count_findings(row: Row) -> None:
    """As the files are now."""
    row.open = len(places.inputs(places.findings(row.target)))
    row.mended = sum(path.name.startswith("crash-") for path in places.inputs(places.committed(row.target)))

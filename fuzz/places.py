"""Where targets, corpora and findings are; no target itself."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "fuzz"
"""A copy of the sources with instrumented extensions; .ci/instrument makes it."""

WORKING = ROOT / "build" / "fuzz-corpus"
"""What was found between runs; not committed."""

LARGEST_INPUT = 16384
"""Bytes of an input, unless the target's module says otherwise by a constant of this name."""

MOST_FILES, MOST_BYTES = 60, 100_000
"""Of a committed corpus, without its regressions."""


def names() -> list[str]:
    """All targets."""
    return sorted(path.stem for path in (ROOT / "fuzz" / "targets").glob("[a-z]*.py"))


def committed(name: str) -> Path:
    """The seed corpus that `make test` replays; crash-* are regressions."""
    return ROOT / "fuzz" / "corpus" / name


def working(name: str) -> Path:
    """The corpus that grows."""
    return WORKING / name


def findings(name: str) -> Path:
    """Inputs that failed and were not mended yet."""
    return WORKING / f"{name}.findings"


def inputs(folder: Path) -> list[Path]:
    """The files of a corpus, in an order that does not change."""
    return sorted(path for path in folder.glob("*") if path.is_file())

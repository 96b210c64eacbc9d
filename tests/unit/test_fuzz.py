"""Every fuzz target takes its whole corpus and some hundred blind mutations; `make fuzz` is the real
thing.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz import log, places
from fuzz.mutation import fuzz


@pytest.mark.parametrize("name", places.names())
def test_target(name: str) -> None:
    module = importlib.import_module(f"fuzz.targets.{name}")
    corpus = places.inputs(places.committed(name))
    assert corpus, "python -m fuzz.seeds writes the first one"
    assert len(corpus) <= places.MOST_FILES + 20
    assert sum(path.stat().st_size for path in corpus) <= 2 * places.MOST_BYTES
    assert module.__doc__
    assert all(name.startswith("shadowmesh") for name in module.COVERS)
    runs = getattr(module, "BLIND_RUNS", 300)
    try:
        for path in corpus:
            module.target(path.read_bytes())
        assert fuzz(module.target, module.SEEDS, runs=runs, seconds=60, seed=1) == runs
    finally:
        getattr(module, "close", lambda: None)()


def test_a_finding_is_a_failure() -> None:
    def broken(data: bytes) -> None:
        assert len(data) % 7

    with pytest.raises(AssertionError):
        fuzz(broken, [b"seed" * 10], runs=1000, seconds=60, seed=1)


def test_the_log_has_no_open_finding_and_keeps_what_it_says(tmp_path: Path) -> None:
    rows = log.read()
    assert not [row.target for row in rows.values() if row.open]
    log.write(rows, tmp_path / "LOG.md")
    wanted = {name: rows.get(name, log.Row(name)) for name in places.names()}
    assert log.read(tmp_path / "LOG.md") == wanted

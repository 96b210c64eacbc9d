"""bench/startup.py runs, and asks each verb what it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/startup.py"), "--smoke", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["verbs"]
    assert {"python -c pass", "--help", "status", "ping bob --count", "get"} <= {row["verb"] for row in rows}
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in rows)

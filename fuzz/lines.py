"""What the committed corpora reach of the modules that their targets name, in lines; no target itself.

`python -m fuzz.lines [TARGET ...]`: a replay of each corpus in a process of its own under coverage.py, a
table, and the column of fuzz/LOG.md.  A target names its modules in `COVERS`; one of compiled code has none.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

from fuzz import log, places
from fuzz.mutation import Module


def replay(name: str) -> str:
    """In this process: per cent of the lines, as text."""
    import coverage

    recorder = coverage.Coverage(data_file=None, source=["shadowmesh", "shadowmesh_relay"], messages=False)
    recorder.start()
    module: Module = importlib.import_module(f"fuzz.targets.{name}")
    for path in places.inputs(places.committed(name)):
        module.target(path.read_bytes())
    recorder.stop()
    covered = lines = 0
    for wanted in module.COVERS:
        _, statements, _, missing, _ = recorder.analysis2(sys.modules[wanted])
        covered, lines = covered + len(statements) - len(missing), lines + len(statements)
    return f"{100 * covered / lines:.0f} %" if lines else "—"


def main() -> None:
    if sys.argv[1:2] == ["--replay"]:
        print("lines:", replay(sys.argv[2]), flush=True)
        return
    for name in sys.argv[1:] or places.names():
        command = [sys.executable, "-m", "fuzz.lines", "--replay", name]
        said = subprocess.run(command, cwd=places.ROOT, check=True, capture_output=True, text=True).stdout
        rows = log.read()
        row = rows.setdefault(name, log.Row(name))
        row.lines = said.rpartition("lines: ")[2].strip()
        log.write(rows)
        print(f"{name:12} {row.lines:>6} {row.edges:7} edges {row.features:7} features", flush=True)


if __name__ == "__main__":
    main()

"""Writes the seeds of every target into its committed corpus where there are none yet; no target itself.

`python -m fuzz.seeds [TARGET ...]`. Seeds are real traffic: each target's module makes them in memory when
it is imported (`SEEDS`). With a target named, its seeds are written beside what is there.
"""

from __future__ import annotations

import hashlib
import importlib
import sys

from fuzz import places
from fuzz.mutation import Module


def write(name: str) -> int:
    """How many files there are then."""
    module: Module = importlib.import_module(f"fuzz.targets.{name}")
    folder = places.committed(name)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in module.SEEDS[:: len(module.SEEDS) // places.MOST_FILES + 1]:
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    return len(places.inputs(folder))


def main() -> None:
    chosen = sys.argv[1:]
    for name in chosen or places.names():
        if chosen or not places.inputs(places.committed(name)):
            print(f"{name}: {write(name)} files")


if __name__ == "__main__":
    main()

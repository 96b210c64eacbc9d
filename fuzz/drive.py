"""Runs one target under libFuzzer, in a tree with instrumented extensions; `run` starts it there.

The arguments are libFuzzer's.  It starts this program again with the same ones, so the target's name comes in
the environment.  Without atheris nothing here works; the targets themselves do.
"""

from __future__ import annotations

import importlib
import os
import sys

import atheris


def main() -> None:
    """Does not return."""
    with atheris.instrument_imports(include=["fuzz", "shadowmesh", "shadowmesh_relay"]):
        module = importlib.import_module(f"fuzz.targets.{os.environ['SHADOWMESH_FUZZ_TARGET']}")
        engine = importlib.import_module("shadowmesh._ext.engine")
    assert "/build/" in str(engine.__file__), "these are not the instrumented extensions"
    # The command by which libFuzzer starts this program again when it merges.
    atheris.Setup([f"{sys.executable} -m fuzz.drive", *sys.argv[1:]], module.target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""What the commands of bench/ have in common: their options, and their end when the lab fails."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shadowmesh.testing.process import LabError

T = TypeVar("T")


def bench_parser(description: str | None, smoke: str) -> argparse.ArgumentParser:
    """With --json and --smoke, which all have.

    :param smoke: what that measures.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help=f"{smoke}: does it run at all?")
    return parser


def measured(measure: Callable[[], T]) -> T:
    """What it found. A failure of the lab is told in one line, and ends the program with 1."""
    try:
        return measure()
    except LabError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(1)

"""How long do ten tasks of a new user take, done from the manual alone?

Each is done as the manual says, by its own commands, on fresh machines in network namespaces; its pages
mark what is run (shadowmesh/testing/manual.py).  The time is that of the machines; reading and typing are
left out.  `install` needs a network; `--quick` takes what is installed here.  `--write` puts the table into
docs/performance.md.  Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.command import measured
from shadowmesh.testing.lab import Lab
from shadowmesh.testing.manual import ROOT, Reader

DOCS = ROOT / "docs"
PAGE = DOCS / "howto" / "tasks.md"
TASKS = {
    "install": DOCS / "install.md",
    "first network": DOCS / "tutorial.md",
    "invite": DOCS / "tutorial.md",
    "join": DOCS / "tutorial.md",
    "why is it slow": PAGE,
    "restrict a port": PAGE,
    "move a relay": PAGE,
    "read a metric": PAGE,
    "report a bug": PAGE,
    "revoke": PAGE,
}
"""The page of each, in the order in which they are done."""
RELAY_NAME = "relay.example.net"
RESULT = DOCS / "performance.md"
_TABLE = re.compile(r"(?<=<!-- times -->\n).*?(?=<!-- /times -->)", re.DOTALL)


def prepared(lab: Lab, slow: bool = False) -> Reader:
    """Somebody with machines that know the name of the relay."""
    reader = Reader(lab, slow)
    reader.name(RELAY_NAME, "relay")
    return reader


def run(slow: bool) -> dict[str, float]:
    """Seconds of each task."""
    with Lab() as lab:
        reader = prepared(lab, slow)
        try:
            for task, page in TASKS.items():
                reader.follow(page, task)
        finally:
            reader.close()
    lab.check_leaks()
    return reader.seconds


def table(seconds: dict[str, float]) -> str:
    """As Markdown."""
    rows = [f"| {task} | {time:.1f} |" for task, time in seconds.items()]
    return "\n".join(["| task | seconds |", "|---|--:|", *rows, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="take the program that is installed here")
    parser.add_argument("--write", action="store_true", help="put the table into the manual")
    arguments = parser.parse_args()
    seconds = measured(lambda: run(slow=not arguments.quick))
    if arguments.json:
        print(json.dumps({"schema": "shadowmesh.bench.tasks/1", "seconds": seconds}, indent=2))
    else:
        print(table(seconds), end="")
    if arguments.write:
        load = f"load average {os.getloadavg()[2]:.1f} in the 15 minutes up to its end"
        text = f"\n{table(seconds)}\n{os.cpu_count()} cores, {load}.\n"
        if arguments.quick:
            text += "`install` found the program compiled already (`--quick`).\n"
        RESULT.write_text(_TABLE.sub(lambda _found: text, RESULT.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

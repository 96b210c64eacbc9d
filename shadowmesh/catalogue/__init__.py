"""Every error that a person meets, by its id: why it comes, and what to do. Text only.

`ShadowMeshError.error_id` names an entry where it ends a command, `Failure.error_id` where the program goes
on; docs/errors.md is made from this table (`python -m shadowmesh.catalogue`), and
tests/unit/test_catalogue.py provokes each.
"""

from __future__ import annotations

from shadowmesh.catalogue.entry import Entry
from shadowmesh.catalogue.machine import MACHINE
from shadowmesh.catalogue.networks import NETWORKS
from shadowmesh.catalogue.running import RUNNING

ENTRIES: dict[str, Entry] = {**MACHINE, **RUNNING, **NETWORKS}


def page() -> str:
    """docs/errors.md."""
    rows = [f"| `{name}` | {entry.cause} | {entry.remedy} |" for name, entry in ENTRIES.items()]
    return HEAD + "\n".join(rows) + "\n"


HEAD = """# Errors

Made from shadowmesh/catalogue by `python -m shadowmesh.catalogue > docs/errors.md`.

The text of an error ends in the id of its kind in brackets, also in JSON. What ends a command is told on
standard error, one line for each mistake:

```text
shadowmesh-client: client.yaml:7: node.name: is missing; for example: name: alice [config.missing]
```

The exit code tells its kind too ([cli.md](cli.md#exit-codes)). What goes wrong while a client runs is told by
`status`, `peers`, `why`, `netcheck`, `top`, the dashboard, the [local API](api.md) and the checks for
supervisors, and by every warning and error of the log:

```text
  relay.example.net:4433: nothing answered [link.no-answer]
```

What stands before the id may be the words of another machine, which choose no id: the last bracket counts.
Why packets are dropped has a [table of its own](cli.md#why-packets-are-dropped).

| id | why it comes | what to do |
|---|---|---|
"""

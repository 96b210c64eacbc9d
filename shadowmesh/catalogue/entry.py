"""What the catalogue says of one kind of error."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """For people, in Markdown."""

    cause: str
    remedy: str

"""Traces of set-ups, if the configuration wants them: the way from the stages of protocol code to `spans.py`.

What makes spans is imported only then: its libraries take 10 MB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shadowmesh.stages import Stages


class Tracing:
    """Wants no stages."""

    def __init__(self, stages: Stages | None = None) -> None:
        self.stages = stages or Stages()
        """Where protocol code begins them."""

    @property
    def lost(self) -> int:
        """Spans that the collector did not get."""
        return 0

    def flush(self) -> None:
        """Make spans of the stages that have ended since the last call; after every touch of the core."""


@contextlib.contextmanager
def trace_to(url: str | None, service: str, names: bool) -> Iterator[Tracing]:
    """Send traces to the collector at `url`, if there is one, until the end of the block.

    :param service: the program.
    :param names: whether spans may name addresses, nodes and NodeIDs.
    """
    if url is None:
        yield Tracing()
        return
    from shadowmesh.io.spans import Spans, exporter_to

    spans = Spans(exporter_to(url), service, names)
    try:
        yield spans
    finally:
        spans.close()

"""What the local control API says of the time that passes: samples, lines of the log, events. Data only.

As `schema` does for what is now; docs/api.md is the reference for people.
`at` is in seconds since 1970 by this machine's clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

SAMPLES_SCHEMA = "shadowmesh.samples/1"
SAMPLE_SCHEMA = "shadowmesh.sample/1"
LOG_SCHEMA = "shadowmesh.log/1"

WINDOW = 300
"""Samples that are kept, one a second: what fits a screen, and what people remember when they ask why."""
LOG_LINES = 1000
"""Lines of the log that are kept: days of a quiet client, minutes of one in trouble."""

Level = Literal["debug", "info", "warning", "error", "critical"]
EventKind = Literal["status", "sample", "log"]


class PeerSample(msgspec.Struct, frozen=True, kw_only=True):
    """One peer in one second. Bytes are those of frames, `rtt_ms` that of the path in use."""

    node_id: str
    name: str
    tx_bytes: int
    rx_bytes: int
    rtt_ms: float | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Event `sample`: what passed since the one before. `drops` is of this node, whatever the reason."""

    schema: str = SAMPLE_SCHEMA
    at: float
    tx_bytes: int
    rx_bytes: int
    drops: int
    peers: list[PeerSample] = []


class PeerSamples(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's columns, as long as `at` of `Samples`; null where it was not sampled."""

    node_id: str
    name: str
    tx_bytes: list[int | None]
    rx_bytes: list[int | None]
    rtt_ms: list[float | None]


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/samples: columns, oldest first, of what passed between one moment and the one before.

    The node's bytes are the sum of all peers', also of those that `peers` has no room for.
    """

    schema: str = SAMPLES_SCHEMA
    at: list[float]
    tx_bytes: list[int]
    rx_bytes: list[int]
    drops: list[int]
    peers: list[PeerSamples] = []


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the log, and event `log`. `number` counts from 1 since `up`; `text` may have several."""

    number: int
    at: float
    level: Level
    text: str


class LogReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/log, oldest first. `last` is the number of the newest of all lines, 0 without any."""

    schema: str = LOG_SCHEMA
    lines: list[LogLine]
    last: int


class SamplesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/samples. `seconds`: how far back."""

    seconds: Annotated[int, msgspec.Meta(ge=1, le=WINDOW)] = WINDOW


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/log. `lines`: so many at most; `level`: of this level and above."""

    lines: Annotated[int, msgspec.Meta(ge=0, le=LOG_LINES)] = LOG_LINES
    level: Level = "debug"


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/events. `kinds`: those wanted, with commas between."""

    kinds: Annotated[
        str, msgspec.Meta(pattern="^(status|sample|log)(,(status|sample|log))*$", max_length=100)
    ] = "status,sample,log"

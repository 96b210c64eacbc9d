# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Events that a worker thread hands to asyncio."""

from enum import IntEnum
from typing import NamedTuple

class EventKind(IntEnum):
    """Kinds of `Event`."""

    EVENT_LONG_HEADER = 1
    EVENT_CONTROL = 2
    EVENT_LANE_MESSAGE = 3
    EVENT_ENDPOINT = 4
    EVENT_SOURCE = 5
    EVENT_WANTED = 6
    EVENT_PROBE = 7

class Event(NamedTuple):
    """One thing that Python has to deal with.

    handle: session (lane message, source), client (endpoint) or peer (probe), else 0.  via: channel id (8
    bytes) that it came through, or b"".  source: raw sockaddr of the datagram.  data: the datagram, without a
    channel header; of a lane message the opened payload, kind byte included; of a loop probe the Ethernet
    frame; of an endpoint or source change b"".
    """

    kind: int
    handle: int
    via: bytes
    source: bytes
    data: bytes

# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Payload kinds and sizes of docs/protocol.md, as the data plane was compiled with them."""

from enum import IntEnum

class PayloadKind(IntEnum):
    """First byte of a frame packet's payload."""

    KIND_PADDING = 0x00
    KIND_FRAME = 0x01
    KIND_FRAGMENT = 0x02
    KIND_EMPTY = 0x03
    KIND_PROBE_REQUEST = 0x04
    KIND_PROBE_REPLY = 0x05
    KIND_SEGMENT = 0x06
    KIND_PATH_REQUEST = 0x07
    KIND_PATH_RESPONSE = 0x08
    KIND_PATH_COMPLETE = 0x09
    KIND_BIND = 0x10
    KIND_BOUND = 0x11
    KIND_OBSERVE = 0x12
    KIND_OBSERVED = 0x13

class WireSize(IntEnum):
    """Sizes in bytes; BIND and BOUND payloads have the same."""

    CHANNEL_HEADER_SIZE = 9
    ETHERNET_HEADER_SIZE = 14
    BIND_SIZE = 35

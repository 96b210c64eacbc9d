"""Payload kinds, and sizes of what surrounds or fills a frame packet (docs/protocol.md)."""


cpdef enum PayloadKind:
    KIND_PADDING = 0x00        # ignored
    KIND_FRAME = 0x01          # the Ethernet frame follows
    KIND_FRAGMENT = 0x02       # fragment.pyx
    KIND_EMPTY = 0x03
    KIND_PROBE_REQUEST = 0x04  # nonce (8)
    KIND_PROBE_REPLY = 0x05    # nonce (8)
    KIND_SEGMENT = 0x06        # segment.pyx
    KIND_PATH_REQUEST = 0x07   # these three, and OBSERVED, are asyncio's (shadowmesh/wire/payload.py)
    KIND_PATH_RESPONSE = 0x08
    KIND_PATH_COMPLETE = 0x09
    KIND_BIND = 0x10           # number (8) nonce (8) challenge (8) padding (10)
    KIND_BOUND = 0x11          # nonce (8) challenge (8) address (16) port (2)
    KIND_OBSERVE = 0x12        # to a relay's second port, which is asyncio's
    KIND_OBSERVED = 0x13       # nonce (8) address (16) port (2)

cpdef enum WireSize:
    CHANNEL_HEADER_SIZE = 9    # first byte, channel id
    ETHERNET_HEADER_SIZE = 14  # two MACs, type
    BIND_SIZE = 35             # kind included; both the same, so that a reply never amplifies

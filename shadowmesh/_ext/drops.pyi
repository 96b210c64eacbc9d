# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Reasons of discarded packets and names of the other counters.

`Engine.drops()` and `Forwarder.drops()` use the lower-case names of `DropReason` as keys, and
`counters()` those of `Statistic`.
"""

from enum import IntEnum

class DropReason(IntEnum):
    """Why something was discarded; every discarded packet has exactly one of these."""

    NOT_QUIC = 0
    SHORT = 1
    TRUNCATED = 2
    UNKNOWN_ID = 3
    UNEXPECTED_LONG_HEADER = 4
    NESTED_CHANNEL = 5
    AUTHENTICATION = 6
    RESERVED = 7
    DUPLICATE = 8
    TOO_OLD = 9
    UNKNOWN_KIND = 10
    FRAME_SIZE = 11
    SPOOFED_SOURCE = 12
    NOT_FOR_US = 13
    TAP_FULL = 14
    TAP_FAILED = 15
    CONTROL_RATE = 16
    MESSAGE_RATE = 17
    LONG_RING_FULL = 18
    CONTROL_RING_FULL = 19
    NO_MEMORY = 20
    FOREIGN_SOURCE = 21
    UNKNOWN_DESTINATION = 22
    NO_ROUTE = 23
    TOO_BIG = 24
    SEND_BUFFER_FULL = 25
    SEND_FAILED = 26
    LANE_EXHAUSTED = 27
    UNEXPECTED_KIND = 28
    STALE_BIND = 29
    MALFORMED_SEGMENT = 30
    UNSPLITTABLE = 31
    MALFORMED_FRAGMENT = 32
    REPEATED_FRAGMENT = 33
    INCOMPLETE_FRAME = 34
    EXPIRED_KEYS = 35
    FIREWALL_IN = 36
    FIREWALL_OUT = 37
    FIREWALL_MALFORMED = 38
    SPOOFED_ADDRESS = 39
    DHCP_GUARD = 40
    RA_GUARD = 41
    MALFORMED_PACKET = 42
    BROADCAST_BUDGET = 43
    UNHEARD_PEER = 44
    LOOPED = 45
    CLAIMED_STATION = 46
    BRIDGE_BLOCKED = 47
    LINK_LOCAL_GROUP = 48
    VLAN_NOT_CARRIED = 49
    OWN_DATAGRAM = 50
    CLIENT_PACKETS = 51
    CLIENT_BYTES = 52
    CLIENT_SHARE = 53
    OTHER_THREAD_BUSY = 54

class Statistic(IntEnum):
    """What is counted besides drops, over all threads of one engine or forwarder."""

    UDP_RX_DATAGRAMS = 0
    UDP_RX_BYTES = 1
    UDP_TX_DATAGRAMS = 2
    UDP_TX_BYTES = 3
    TAP_RX_FRAMES = 4
    TAP_TX_FRAMES = 5
    EVENTS = 6
    EMPTY_PACKETS = 7
    SPLIT_FRAMES = 8
    COALESCED_FRAMES = 9
    UDP_GSO_SENDS = 10
    UDP_GRO_RECEIVES = 11
    UDP_GSO_REFUSED = 12
    COALESCE_REFUSED = 13
    FRAGMENTED_FRAMES = 14
    REASSEMBLED_FRAMES = 15
    ANSWERED_REQUESTS = 16

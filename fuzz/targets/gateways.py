"""Whatever a gateway answers to PCP or NAT-PMP, the mapping survives it and believes nothing absurd."""

from __future__ import annotations

import contextlib
import struct

from shadowmesh.errors import BadPacket
from shadowmesh.path.portmap import PortMapping, problem_of_outside

COVERS = ("shadowmesh.path.portmap", "shadowmesh.wire.portmap")
NONCE, PORT, HOST = bytes(12), 4400, "192.168.1.7"
OUTSIDE = bytes(10) + b"\xff\xff\x08\x08\x04\x04"

PCP = (
    struct.pack(">BBBBII12x", 2, 0x81, 0, 0, 1200, 7)
    + struct.pack(">12sB3xHH", NONCE, 17, PORT, 4000)
    + OUTSIDE
)
ONLY_PMP = b"\0\x81\0\1" + bytes(4)
PMP_ADDRESS = struct.pack(">BBHI", 0, 0x80, 0, 7) + b"\x08\x08\x04\x04"
PMP_PORT = struct.pack(">BBHIHHI", 0, 0x81, 0, 7, PORT, 4000, 1200)

SEEDS = [
    len(first).to_bytes(1, "big") + len(second).to_bytes(1, "big") + first + second + third
    for first, second, third in (
        (PCP, PCP, PCP),
        (ONLY_PMP, PMP_ADDRESS, PMP_PORT),
        (PCP[:3] + b"\2" + PCP[4:], PMP_ADDRESS, PMP_PORT),
    )
]


def target(data: bytes) -> None:
    """Three answers in a row, each to the question that is due then."""
    first, second = data[:1], data[1:2]
    cut = 2 + int.from_bytes(first, "big")
    answers = (
        data[2:cut],
        data[cut : cut + int.from_bytes(second, "big")],
        data[cut + int.from_bytes(second, "big") :],
    )
    mapping = PortMapping(lambda size: NONCE[:size], HOST, PORT, 0.0)
    now = 0.0
    for answer in answers:
        mapping.poll(now)
        with contextlib.suppress(BadPacket):
            mapping.handle_reply_untrusted(answer, now)
        assert mapping.deadline is not None
        assert mapping.deadline >= now
        if mapping.external is not None:
            assert not problem_of_outside(mapping.external.host)
            assert 0 < mapping.external.port < 65536
        now = mapping.deadline

"""Of all byte strings, only a sealed packet opens, and what comes out is what went in."""

from __future__ import annotations

import random

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.errors import BadPacket

COVERS: tuple[str, ...] = ()
LANE, RECEIVER = 3, b"receiver"
_generator = random.Random(1)
KEYS = PacketKeys(_generator.randbytes(76))
PAYLOADS = {
    number: b"\x01" + _generator.randbytes(size) for number, size in enumerate((0, 1, 14, 60, 1394, 9000))
}
SEEDS = [KEYS.seal(LANE, RECEIVER, number, payload) for number, payload in PAYLOADS.items()]


def target(data: bytes) -> None:
    """Open it, as asyncio's lane would."""
    try:
        number, payload = KEYS.open(LANE, data)
    except BadPacket:
        return
    assert payload == PAYLOADS[number]
    assert data[9:] == SEEDS[number][9:], "a packet opened that was never sealed"

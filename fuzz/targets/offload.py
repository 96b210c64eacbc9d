"""Of all authentic frames and segments, exactly the valid ones reach the TAP, once and in order: no byte of
a frame changes but checksums and the IPv4 id of a join, and no virtio_net_hdr lies.

An input is a batch of payloads, each with its length before it; they go through a real engine, whose TAP is a
socketpair.  Three engines take turns: one that joins, one that may not, and one whose TAP has no such header.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace

from tests.reference.offload import (
    ACK,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    PSH,
    TCP,
    UDP,
    VNET,
    Packet,
    fold,
    split,
)
from tests.unit.ext_harness import Node, Peer, frame, mac, wait_until
from tests.unit.test_ext_offload import ALL, packet, send_together

COVERS: tuple[str, ...] = ()
FRAME, SEGMENT = 1, 6
BATCH = 8
"""Payloads of one input: the queue of a datagram socketpair holds ten by default."""

LARGEST = 7900
"""Bytes of a payload: BATCH of them, sealed, fit one UDP_SEGMENT send."""

FEATURES = (ALL, ("vnet_hdr",), ())
FIN_PSH = 0x09


def _record(payload: bytes) -> bytes:
    return len(payload).to_bytes(2, "big") + payload


def _seeds() -> Iterator[bytes]:
    """Segments of one super-frame, then two flows mixed, single frames, a checksum of neither protocol."""
    runs = []
    for protocol in (TCP, UDP):
        for family in (4, 16):
            for vlan in (False, True):
                content = random.Random(family).randbytes(750)
                whole = packet(mac(1), mac(77), protocol, content, family=family, vlan=vlan)
                whole = replace(whole, flags=ACK | PSH, sequence=0xFFFFFF00, options=bytes(4))
                runs.append([_record(part.segment()) for part in split(_plain(whole), 150)])
    yield from (b"".join(run) for run in runs)
    yield b"".join(record for pair in zip(runs[0], runs[4], strict=True) for record in pair)
    plain = frame(mac(1), mac(77), b"content" * 10)
    yield _record(b"\x01" + plain) + _record(b"\x06\x01\x14\x0e\x04" + plain) + runs[0][0]


def _plain(whole: Packet) -> Packet:
    """UDP has neither sequence nor options."""
    return whole if whole.protocol == TCP else replace(whole, sequence=0, options=b"", flags=ACK)


SEEDS = list(_seeds())
_open: list[tuple[Node, Peer]] = []
_count = 0


def payloads(data: bytes) -> list[bytes]:
    """The payloads of an input; every byte string is one."""
    made: list[bytes] = []
    while data and len(made) < BATCH:
        size = int.from_bytes(data[:2], "big") % LARGEST
        content, data = data[2 : 2 + size], data[2 + size :]
        if content:
            made.append((content[:1] if content[0] == FRAME else b"\x06") + content[1:])
    return made


# ---- what must come out ----------------------------------------------------------------------


def headers_of(data: bytes) -> tuple[int, int, int, int] | None:
    """Where network and transport header begin, the size of all headers, and the protocol; None: neither."""
    network = 18 if data[12:14] == b"\x81\x00" else 14
    kind, ip = data[network - 2 : network], data[network:]
    if kind == b"\x86\xdd" and len(ip) >= 40 and ip[0] >> 4 == 6:
        transport, protocol, length = network + 40, ip[6], 40 + int.from_bytes(ip[4:6], "big")
    elif kind == b"\x08\x00" and len(ip) >= 20 and ip[0] >> 4 == 4 and ip[0] & 15 >= 5:
        transport, protocol, length = network + (ip[0] & 15) * 4, ip[9], int.from_bytes(ip[2:4], "big")
        if int.from_bytes(ip[6:8], "big") & 0x3FFF:
            return None
    else:
        return None
    body = data[transport:]
    size = {TCP: (body[12] >> 4) * 4 if len(body) >= 20 else 0, UDP: 8}.get(protocol, 0)
    if length != len(ip) or size < (20 if protocol == TCP else 8) or size > len(body):
        return None
    if protocol == UDP and int.from_bytes(body[4:6], "big") != len(body):
        return None
    return network, transport, transport + size, protocol


def valid(payload: bytes) -> bool:
    """The slow twin of what inbound.pyx and segment.pyx let through."""
    data = payload[5:] if payload[0] == SEGMENT else payload[1:]
    if payload[0] == SEGMENT and not _valid_segment(payload, data):
        return False
    mine = bool(data[:1]) and (bool(data[0] & 1) or data[:6] == mac(1))
    return len(data) >= 14 and data[6:12] == mac(77) and mine


def _valid_segment(payload: bytes, data: bytes) -> bool:
    if len(data) < 14:
        return False
    _, flags, size, start, offset = payload[:5]
    if size > len(data) or start < 14 or start + offset + 2 > size:
        return False
    if flags == 1:
        return True
    found = headers_of(data)
    if found is None or flags != {TCP: 3, UDP: 5}[found[3]]:
        return False
    return (start, size, offset) == (found[1], found[2], 16 if found[3] == TCP else 6)


def written(payload: bytes) -> bytes:
    """A valid payload as one write to a TAP with a virtio_net_hdr."""
    if payload[0] == FRAME:
        return bytes(10) + payload[1:]
    if payload[1] == 0x01:  # nobody has proved where its checksum is: it is finished before it is judged
        return bytes(10) + finished(payload)
    return VNET.pack(1, GSO_NONE, payload[2], 0, payload[3], payload[4]) + payload[5:]


def finished(payload: bytes) -> bytes:
    """A valid payload as one write to a TAP without: the checksum is complete."""
    if payload[0] == FRAME:
        return payload[1:]
    data, start = bytearray(payload[5:]), payload[3]
    total = (~fold(bytes(data[start:])) & 0xFFFF) or 0xFFFF
    data[start + payload[4] : start + payload[4] + 2] = total.to_bytes(2, "big")
    return bytes(data)


# ---- what came out ---------------------------------------------------------------------------


def apart(write: bytes) -> list[bytes]:
    """The segments of a joined write, as single writes with what a join may change set to zero."""
    flags, kind, size, step, start, offset = VNET.unpack(write[:10])
    data = write[10:]
    found = headers_of(data)
    assert found is not None
    network, transport, headers, protocol = found
    wide = data[network] >> 4 == 6
    assert kind == (GSO_UDP_L4 if protocol == UDP else GSO_TCPV6 if wide else GSO_TCPV4)
    assert (flags, size, start) == (1, headers, transport)
    assert offset == (6 if protocol == UDP else 16)
    assert 0 < step < len(data) - headers
    made = []
    for at in range(headers, len(data), step):
        head = bytearray(data[:headers])
        piece = data[at : at + step]
        length = headers - transport + len(piece)
        place, value = (network + 4, length) if wide else (network + 2, transport - network + length)
        head[place : place + 2] = value.to_bytes(2, "big")
        if protocol == UDP:
            head[transport + 4 : transport + 6] = length.to_bytes(2, "big")
        else:
            sequence = int.from_bytes(head[transport + 4 : transport + 8], "big") + at - headers
            head[transport + 4 : transport + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
            if at + step < len(data):
                head[transport + 13] &= ~FIN_PSH
        made.append(masked(VNET.pack(1, GSO_NONE, size, 0, start, offset) + bytes(head) + piece))
    return made


def masked(write: bytes) -> bytes:
    """Without checksums of IPv4, TCP and UDP and the id of IPv4: what a join calculates anew."""
    found = headers_of(write[10:])
    if found is None:
        return write
    data = bytearray(write)
    network, transport, _, protocol = (10 + value for value in found)
    if data[network] >> 4 == 4:
        data[network + 4 : network + 6] = data[network + 10 : network + 12] = bytes(2)
    checksum = transport + (6 if protocol == 10 + UDP else 16)
    data[checksum : checksum + 2] = bytes(2)
    return bytes(data)


def compare(writes: list[bytes], expected: list[bytes]) -> None:
    """Each single write is one payload, byte for byte; each joined one as many as it holds."""
    left = list(expected)
    for write in writes:
        if struct.unpack("=H", write[4:6])[0] == 0:
            assert write == written(left.pop(0))
            continue
        parts = apart(write)
        assert len(parts) > 1
        assert parts == [masked(written(payload)) for payload in left[: len(parts)]]
        del left[: len(parts)]
    assert not left


# ---- the engine ------------------------------------------------------------------------------


def close() -> None:
    """Stop the engines; the next input starts new ones."""
    while _open:
        node, peer = _open.pop()
        node.__exit__(None, None, None)
        peer.udp.close()


def _engine() -> tuple[tuple[str, ...], Node, Peer]:
    global _count
    _count += 1
    if not _open:
        for features in FEATURES:
            node = Node(1, features=features)
            _open.append((node, Peer(node)))
    at = _count % len(FEATURES)
    return FEATURES[at], *_open[at]


def target(data: bytes) -> None:
    """Seal, send together, and read the TAP until a marker comes."""
    features, node, peer = _engine()
    batch = payloads(data)
    before = sum(node.drops().values())
    marker = frame(mac(1), mac(77), b"marker %d" % _count)
    if batch:
        send_together(peer, [peer.packet(payload) for payload in batch])
    peer.send(peer.packet(b"\x01" + marker))
    writes = []
    while not (write := node.receive()).endswith(marker):
        writes.append(write)
    expected = [payload for payload in batch if valid(payload)]
    if features:
        compare(writes, expected)
    else:
        assert writes == [finished(payload) for payload in expected]
    wait_until(lambda: sum(node.drops().values()) == before + len(batch) - len(expected))

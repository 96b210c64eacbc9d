"""ext/aead.pyx against RFC 8439 and against the slow twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh import units
from shadowmesh._ext.aead import NumberLimit, PacketKeys, PacketLayout, plain_seal
from shadowmesh.errors import BadPacket
from tests.reference import frame_packet

MATERIAL = bytes(range(100, 176))
ID = b"receiver"

materials = st.binary(min_size=76, max_size=76)
lanes = st.integers(0, 2**32 - 1)
numbers = st.integers(0, 2**31 - 1)
payloads = st.binary(min_size=1, max_size=400)


def test_rfc_8439_section_2_8_2() -> None:
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = plain_seal(
        bytes(range(0x80, 0xA0)),
        bytes.fromhex("070000004041424344454647"),
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
        plaintext,
    )
    assert sealed == bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )


@given(materials, lanes, st.binary(min_size=8, max_size=8), numbers, payloads)
def test_seals_what_the_twin_opens(
    material: bytes, lane: int, receiver_id: bytes, number: int, payload: bytes
) -> None:
    packet = PacketKeys(material).seal(lane, receiver_id, number, payload)
    assert packet == frame_packet.seal(material, lane, receiver_id, number, payload)
    assert packet[1:9] == receiver_id
    assert frame_packet.open_packet(material, lane, packet) == (number, payload)


@given(materials, lanes, numbers, payloads)
def test_opens_what_the_twin_seals(material: bytes, lane: int, number: int, payload: bytes) -> None:
    packet = frame_packet.seal(material, lane, ID, number, payload)
    assert PacketKeys(material).open(lane, packet) == (number, payload)


@given(payloads, st.integers(0), st.integers(1, 255))
def test_refuses_changed_bytes_as_the_twin_does(payload: bytes, place: int, change: int) -> None:
    packet = bytearray(frame_packet.seal(MATERIAL, 1, ID, 5, payload))
    # Bytes 1..8 are left out: the receiver id selects the keys, they do not authenticate it.
    places = [0, *range(9, len(packet))]
    packet[places[place % len(places)]] ^= change
    with pytest.raises(frame_packet.Refused) as twin:
        frame_packet.open_packet(MATERIAL, 1, bytes(packet))
    with pytest.raises(BadPacket) as refused:
        PacketKeys(MATERIAL).open(1, packet)
    assert refused.value.reason == str(twin.value) == "authentication"


@given(st.binary(max_size=100))
def test_random_bytes_are_refused_by_reason(packet: bytes) -> None:
    with pytest.raises(BadPacket) as refused:
        PacketKeys(MATERIAL).open(0, packet)
    assert refused.value.reason == ("short" if len(packet) < 30 else "authentication")


@pytest.mark.parametrize(
    "size", [1, 15, 16, 63, 64, 65, 191, 192, 193, 1500, 9217, PacketLayout.LARGEST_PAYLOAD]
)
def test_sizes_around_every_change_of_algorithm(size: int) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(size))
    packet = PacketKeys(MATERIAL).seal(3, ID, 9, payload)
    assert packet == frame_packet.seal(MATERIAL, 3, ID, 9, payload)
    assert PacketKeys(MATERIAL).open(3, packet) == (9, payload)


def test_lane_and_number_are_authenticated() -> None:
    packet = PacketKeys(MATERIAL).seal(3, ID, 9, b"\x01payload")
    with pytest.raises(BadPacket, match="authentication"):
        PacketKeys(MATERIAL).open(4, packet)


@pytest.mark.parametrize("first", [0x40, 0x42, 0x53, 0x5F, 0x63])
def test_authentic_packet_with_another_first_byte_is_reserved(first: int) -> None:
    packet = frame_packet.seal(MATERIAL, 0, ID, 1, b"\x03", first)
    with pytest.raises(BadPacket, match="reserved"):
        PacketKeys(MATERIAL).open(0, packet)


def test_too_large_is_not_a_packet() -> None:
    with pytest.raises(BadPacket, match="short"):
        PacketKeys(MATERIAL).open(0, bytes(65508))


def test_wiped_keys_do_nothing_more() -> None:
    keys = PacketKeys(MATERIAL)
    packet = keys.seal(0, ID, 0, b"\x03")
    keys.wipe()
    keys.wipe()
    with pytest.raises(ValueError, match="wiped"):
        keys.seal(0, ID, 1, b"\x03")
    with pytest.raises(ValueError, match="wiped"):
        keys.open(0, packet)


@pytest.mark.parametrize("material", [b"", bytes(75), bytes(77)])
def test_material_of_another_size(material: bytes) -> None:
    with pytest.raises(ValueError, match="76 bytes"):
        PacketKeys(material)


@pytest.mark.parametrize(
    ("lane", "receiver_id", "number", "payload"),
    [
        (-1, ID, 0, b"x"),
        (2**32, ID, 0, b"x"),
        (0, b"", 0, b"x"),
        (0, ID + b"x", 0, b"x"),
        (0, ID, -1, b"x"),
        (0, ID, 2**31, b"x"),
        (0, ID, 0, b""),
        (0, ID, 0, bytes(PacketLayout.LARGEST_PAYLOAD + 1)),
    ],
)
def test_seal_refuses_wrong_values(lane: int, receiver_id: bytes, number: int, payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"must|has"):
        PacketKeys(MATERIAL).seal(lane, receiver_id, number, payload)


def test_wrong_types_are_type_errors() -> None:
    keys = PacketKeys(MATERIAL)
    calls: list[Callable[[], object]] = [
        lambda: PacketKeys(None),  # type: ignore[arg-type]
        lambda: keys.seal(0, None, 0, b"x"),  # type: ignore[arg-type]
        lambda: keys.seal(0, ID, "0", b"x"),  # type: ignore[arg-type]
        lambda: keys.seal(True, ID, 0, b"x"),
        lambda: keys.seal(0, ID, 0, "x"),  # type: ignore[arg-type]
        lambda: keys.open(0, None),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_constants_are_those_of_units() -> None:
    assert PacketLayout.OVERHEAD == units.FRAME_PACKET_OVERHEAD
    assert NumberLimit.NUMBER_LIMIT == units.NUMBER_LIMIT
    assert PacketLayout.HEADER_SIZE + PacketLayout.TAG_SIZE == units.FRAME_PACKET_OVERHEAD

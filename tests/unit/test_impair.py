"""Impairments of a link, and the box in a cable that applies them to Ethernet frames."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter

import pytest

from shadowmesh.testing.impair import Delayed, Impairment, Stage, flip
from shadowmesh.testing.middlebox import DOWN, UP, Box, adjust, parse

COUNT = 20_000
NEAR4, FAR4, OTHER4 = "192.0.2.1", "192.0.2.2", "192.0.2.3"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"


def stage(**impairment: float | bool) -> Stage:
    return Stage(Impairment(**impairment), random.Random(7), Counter())  # type: ignore[arg-type]


def lost(judge: Stage, count: int = COUNT) -> list[bool]:
    return [not judge.judge(100, float(number)) for number in range(count)]


# The stage.


def test_plain_link_delivers_once_at_once_and_unchanged() -> None:
    assert stage().judge(1500, 0.0) == [(0.0, None)]


@pytest.mark.parametrize(("burst", "run"), [(0.0, 1 / 0.9), (5.0, 5.5)])
def test_loss_is_the_share_that_was_asked_for(burst: float, run: float) -> None:
    """One packet a second: a period that a packet has met goes on for `burst`, half a second of it before."""
    judge = stage(loss=0.1, burst=burst)
    found = lost(judge)
    assert sum(found) == pytest.approx(0.1 * COUNT, rel=0.15)
    assert judge.drops == {"loss": sum(found)}
    runs = [len(one) for one in "".join("x" if one else " " for one in found).split()]
    assert sum(runs) / len(runs) == pytest.approx(run, rel=0.15)


def test_periods_of_loss_last_as_long_however_many_packets_they_meet() -> None:
    judge = stage(loss=0.2, burst=0.1)
    found = [not judge.judge(100, number / 1000) for number in range(COUNT)]
    runs = [len(one) / 1000 for one in "".join("x" if one else " " for one in found).split()]
    assert sum(runs) / len(runs) == pytest.approx(0.1, rel=0.3)


def test_delay_jitter_and_reordering() -> None:
    judge = stage(delay=0.1, jitter=0.05, reorder=0.2, hold=1.0)
    late = [judge.judge(100, 0.0)[0].late for _ in range(COUNT)]
    in_time = [one for one in late if one < 1.0]
    assert min(in_time) >= 0.1
    assert 0.149 < max(in_time) <= 0.15
    assert len(late) - len(in_time) == pytest.approx(0.2 * COUNT, rel=0.1)
    judge = stage(delay=0.1, reorder=1.0, hold=1.0, rate=1000.0)
    assert judge.judge(100, 0.0)[0].late == pytest.approx(1.2), "each of them comes on top"


def test_duplicates_and_damage() -> None:
    judge = stage(duplicate=0.1, corrupt=0.05, jitter=0.01)
    fates = [judge.judge(100, 0.0) for _ in range(COUNT)]
    assert sum(len(fate) == 2 for fate in fates) == pytest.approx(0.1 * COUNT, rel=0.1)
    assert all(one.late != two.late for one, two in (fate for fate in fates if len(fate) == 2))
    damaged = sum(one.damage is not None for fate in fates for one in fate)
    assert damaged == pytest.approx(0.055 * COUNT, rel=0.15)


def test_rate_makes_packets_wait_and_drops_what_would_wait_too_long() -> None:
    judge = stage(rate=1000.0, queue=0.25)
    assert [judge.judge(100, 0.0) for _ in range(3)] == [[(0.1, None)], [(0.2, None)], []]
    assert judge.drops == {"queue": 1}
    assert judge.judge(100, 0.15)[0].late == pytest.approx(0.15)
    assert judge.judge(100, 5.0)[0].late == pytest.approx(0.1)
    assert judge.judge(80, 9.0, fragments=3)[0].late == pytest.approx(0.24)


def test_a_packet_of_fragments_is_lost_with_any_of_them() -> None:
    judge = stage(loss=0.1)
    found = sum(not judge.judge(100, 0.0, fragments=3) for _ in range(COUNT))
    assert found == pytest.approx((1 - 0.9**3) * COUNT, rel=0.1)


def test_mtu_fragments_and_cut() -> None:
    judge = stage(mtu=1280, fragments=False)
    assert judge.judge(1280, 0.0)
    assert not judge.judge(1281, 0.0)
    assert not judge.judge(1280, 0.0, fragments=2)
    judge.change(cut=True)
    assert not judge.judge(100, 0.0)
    judge.change(fragments=True)
    assert not judge.judge(100, 0.0, fragments=2)
    assert judge.drops == {"mtu": 1, "fragment": 1, "cut": 2}


def test_what_is_under_way_arrives_in_the_order_of_its_time() -> None:
    way: Delayed[str] = Delayed()
    assert way.poll(9.0) == []
    for item, when in (("late", 2.0), ("one", 1.0), ("two", 1.0)):
        way.put(item, when)
    assert way.deadline == 1.0
    assert way.poll(1.5) == ["one", "two"]
    assert way.poll(2.0) == ["late"]


def test_one_bit_is_flipped() -> None:
    for damage in (0, 17, 2**32 - 1):
        changed = flip(b"\x55" * 9, damage)
        assert sum((a ^ b).bit_count() for a, b in zip(changed, b"\x55" * 9, strict=True)) == 1
    assert len({flip(bytes(9), damage) for damage in range(72)}) == 72, "any of them"


# The box.


def sum16(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def valid(frame: bytes) -> bool:
    """Whether the UDP checksum of an unfragmented packet holds."""
    source, target, udp = taken_apart(frame)
    return sum16(source + target + struct.pack("!HH", 17, len(udp)) + udp) == 0xFFFF


def taken_apart(frame: bytes) -> tuple[bytes, bytes, bytes]:
    if frame[12:14] == b"\x08\x00":
        return frame[26:30], frame[30:34], frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
    return frame[22:38], frame[38:54], frame[54 : 54 + int.from_bytes(frame[18:20], "big")]


def frame(
    source: str,
    target: str,
    payload: bytes = b"payload",
    ports: tuple[int, int] = (5000, 7),
    padding: int = 0,
) -> bytes:
    """An Ethernet frame with one UDP datagram."""
    pseudo = packed(source) + packed(target)
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    checksum = sum16(pseudo + struct.pack("!HH", 17, len(udp)) + udp) ^ 0xFFFF
    udp = udp[:6] + checksum.to_bytes(2, "big") + udp[8:]
    if ":" in source:
        ip = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + pseudo
        return b"\x02" * 12 + b"\x86\xdd" + ip + udp + bytes(padding)
    ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + pseudo
    return b"\x02" * 12 + b"\x08\x00" + ip + udp + bytes(padding)


@pytest.fixture
def box() -> Box:
    return Box(random.Random(3))


def through(box: Box, one: bytes, direction: str = UP) -> list[bytes]:
    box.put(one, direction, 0.0)
    found = box.poll(0.0)
    assert {way for way, _ in found} <= {direction}
    return [out for _, out in found]


FAMILIES = pytest.mark.parametrize(("near", "far"), [(NEAR4, FAR4), (NEAR6, FAR6)])


@FAMILIES
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_damage_is_one_bit_of_the_payload_and_the_checksum_holds(
    box: Box, near: str, far: str, size: int
) -> None:
    box.impair(UP, Impairment(corrupt=1.0), [])
    for seed in range(50):
        sent = frame(near, far, random.Random(seed).randbytes(size), padding=seed % 3)
        (changed,) = through(box, sent)
        assert valid(sent)
        assert valid(changed)
        before, after = taken_apart(sent)[2], taken_apart(changed)[2]
        assert before[:6] == after[:6]
        assert sum((a ^ b).bit_count() for a, b in zip(before[8:], after[8:], strict=True)) == 1
    assert box.passed[UP]["damaged"] == 50


@FAMILIES
def test_each_life_of_the_nat_gives_another_port(box: Box, near: str, far: str) -> None:
    out, back = frame(near, far), frame(far, near, ports=(7, 5000))
    assert through(box, out) == [out]
    ports = set()
    for _ in range(3):
        box.rebind()
        assert through(box, back, DOWN) == []
        (seen,) = through(box, out)
        port = int.from_bytes(taken_apart(seen)[2][:2], "big")
        assert valid(seen)
        assert through(box, frame(far, near, ports=(7, port)), DOWN) == [back]
        assert through(box, frame(far, near, ports=(8, port)), DOWN) == [], "it filters by port"
        assert through(box, out) == [seen]
        ports.add(port)
    assert len(ports | {5000}) == 4
    assert box.drops[DOWN] == {"nat": 6}
    box.clear()
    assert through(box, back, DOWN) == [back]


def test_a_checksum_that_was_not_made_is_not_and_none_becomes_that() -> None:
    """0 says that there is none: RFC 768."""
    assert adjust(0, 1, 2) == 0
    assert adjust(0xFFFF, 0xFFFF, 0xFFFF) == 0xFFFF
    assert adjust(0x1234, 1, 2) == 0x1233


def test_each_copy_is_damaged_and_counted_by_itself(box: Box) -> None:
    box.impair(UP, Impairment(duplicate=0.5, corrupt=0.5), [])
    sent = frame(NEAR4, FAR4)
    found = [through(box, sent) for _ in range(200)]
    assert box.passed[UP]["damaged"] == sum(one != sent for copies in found for one in copies)
    assert box.passed[UP]["doubled"] == sum(len(copies) == 2 for copies in found)
    assert {len({*copies} - {sent}) for copies in found if len(copies) == 2} == {0, 1, 2}


def test_directions_and_remotes_are_impaired_by_themselves(box: Box) -> None:
    box.impair(UP, Impairment(cut=True), [FAR4])
    away, elsewhere, back = frame(NEAR4, FAR4), frame(NEAR4, OTHER4), frame(FAR4, NEAR4)
    assert through(box, away) == []
    assert through(box, elsewhere) == [elsewhere]
    assert through(box, back, DOWN) == [back]
    box.impair(UP, Impairment(), [FAR4])
    assert through(box, away) == [away]
    box.impair(DOWN, Impairment(delay=1.0), [])
    assert through(box, back, DOWN) == []
    assert box.deadline == 1.0
    box.clear()
    assert through(box, back, DOWN) == [back]
    assert box.poll(1.0) == [(DOWN, back)]
    assert box.passed == {
        UP: Counter(packets=2, doubled=0, damaged=0),
        DOWN: Counter(packets=3, doubled=0, damaged=0),
    }
    box.impair(UP, Impairment(cut=True), [])
    assert through(box, away) == [], "it is one of all others again"
    box.impair(DOWN, Impairment(cut=True), [FAR4])
    assert through(box, back, DOWN) == []
    assert len(through(box, frame(OTHER4, NEAR4), DOWN)) == 1


def test_mtu_counts_the_ip_packet_and_not_the_padding(box: Box) -> None:
    box.impair(UP, Impairment(mtu=1280), [])
    assert len(through(box, frame(NEAR4, FAR4, bytes(1252), padding=9))) == 1
    assert through(box, frame(NEAR4, FAR4, bytes(1253))) == []


@pytest.mark.parametrize(
    "other",
    [
        b"\x02" * 12 + b"\x08\x06" + bytes(28),
        b"\x02" * 12 + b"\x08\x00" + bytes(10),
        frame(NEAR4, FAR4)[:-1],
        frame(NEAR4, FAR4).replace(b"\x40\x11", b"\x40\x01", 1),
        b"",
    ],
    ids=["ARP", "short", "truncated", "ICMP", "empty"],
)
def test_what_is_no_udp_or_tcp_passes(box: Box, other: bytes) -> None:
    box.impair(UP, Impairment(loss=1.0), [])
    assert through(box, other) == [other]
    assert through(box, frame(NEAR4, FAR4)) == []


def test_fragments_pass_without_translation_or_not_at_all(box: Box) -> None:
    whole, whole6 = frame(NEAR4, FAR4, bytes(100)), frame(NEAR6, FAR6, bytes(100))
    second = whole[:20] + b"\x00\x01" + whole[22:]
    second6 = whole6[:20] + b"\x2c" + whole6[21:54] + b"\x11\x00\x00\x08" + whole6[58:]
    box.rebind()
    found, found6 = parse(second), parse(second6)
    assert found is not None
    assert found6 is not None
    assert (found.payload, found6.payload) == (34, 62), "no UDP header is in front of it"
    assert through(box, second6) == [second6]
    assert through(box, second6[:54]) == [second6[:54]], "too short to say"
    box.impair(UP, Impairment(corrupt=1.0), [])
    assert through(box, second) != [second]
    assert through(box, second6) != [second6]
    box.impair(UP, Impairment(), [])
    assert through(box, second) == [second]
    box.impair(UP, Impairment(fragments=False), [])
    assert through(box, second) == through(box, second6) == []
    assert len(through(box, whole)) == 1

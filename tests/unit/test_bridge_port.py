"""The port to a bridge: when it carries frames, who blocks in a loop, and when it is tried again."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from shadowmesh.overlay.bridge import (
    CALM,
    FIRST_HOLD,
    LARGEST_HOLD,
    LISTEN,
    MIN_FRAME,
    NONCE_LIFE,
    PATIENCE,
    PROBE_GROUP,
    BridgePort,
    PortState,
)

LOW, MIDDLE, HIGH = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x05", b"\x02\0\0\0\0\x09"


def nonces() -> Callable[[int], bytes]:
    counter = itertools.count(1)
    return lambda size: next(counter).to_bytes(size, "big")


class Lan:
    """Ports of several members on one network behind their bridges; `cut` ones are elsewhere."""

    def __init__(self, *macs: bytes) -> None:
        self.now = 1000.0
        self.ports = {mac: BridgePort(mac, (), nonces(), self.now) for mac in macs}
        self.cut: set[bytes] = set()
        self.reflects = False

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := min(port.deadline for port in self.ports.values())) <= end:
            self.now = max(self.now, due)
            for mac, port in self.ports.items():
                if port.deadline <= self.now:
                    port.handle_timer(self.now)
                for frame in port.poll_transmit():
                    self._carry(mac, frame)
        self.now = end

    def _carry(self, origin: bytes, frame: bytes) -> None:
        if self.reflects:
            self.ports[origin].handle_reflected(self.now)
        for mac, port in self.ports.items():
            if mac != origin and port.state is not PortState.BLOCKED and not {mac, origin} & self.cut:
                self.ports[origin].handle_probe(mac, mac.hex(), frame, self.now)

    def states(self) -> list[str]:
        return [port.state.value for port in self.ports.values()]


def test_a_port_listens_first_and_then_carries() -> None:
    lan = Lan(LOW)
    lan.run(LISTEN - 0.01)
    assert lan.states() == ["listening"]
    lan.run(0.02)
    assert lan.states() == ["forwarding"]
    assert lan.ports[LOW].ends is None


def test_two_that_start_together_leave_the_lower_mac_to_carry() -> None:
    lan = Lan(HIGH, LOW)
    lan.run(LISTEN + 0.5)
    assert lan.states() == ["blocked", "forwarding"]
    assert LOW.hex() in lan.ports[HIGH].reason
    lan.run(1000.0)
    assert lan.states() == ["blocked", "forwarding"]
    assert [port.blocks for port in lan.ports.values()] == [1, 0]


def test_of_three_one_carries() -> None:
    lan = Lan(HIGH, LOW, MIDDLE)
    lan.run(5.0)
    assert lan.states() == ["blocked", "forwarding", "blocked"]


def test_a_loop_that_is_made_later_is_found_within_a_probe_and_mended_after_the_hold() -> None:
    lan = Lan(HIGH, LOW)
    lan.cut = {HIGH}
    lan.run(100.3)
    assert lan.states() == ["forwarding", "forwarding"]
    lan.cut = set()
    lan.run(1.1)
    assert lan.states() == ["blocked", "forwarding"]
    lan.cut = {HIGH}
    lan.run(FIRST_HOLD - 2)
    assert lan.states() == ["blocked", "forwarding"]
    while lan.states()[0] == "blocked":
        lan.run(0.01)
    assert lan.states() == ["listening", "forwarding"], "carries nothing before it has listened"
    lan.cut = set()
    lan.run(0.3)
    assert lan.states() == ["blocked", "forwarding"], "it probes often while it listens"
    lan.cut = {HIGH}
    lan.run(2 * FIRST_HOLD - 2)
    assert lan.states() == ["blocked", "forwarding"]
    lan.run(LISTEN + 3)
    assert lan.states() == ["forwarding", "forwarding"]


def test_the_other_takes_over_when_the_one_that_carried_goes() -> None:
    lan = Lan(HIGH, LOW)
    lan.run(10.0)
    del lan.ports[LOW]
    lan.run(FIRST_HOLD + LISTEN + 2)
    assert lan.states() == ["forwarding"]


def test_the_higher_one_that_does_not_yield_is_given_way() -> None:
    """It may not see our loop: its probes may be filtered, or we are not allowed to bridge there."""
    port = BridgePort(LOW, (), nonces(), 0.0)
    now = 0.0
    while now < PATIENCE - 0.3:
        port.handle_timer(now)
        for frame in port.poll_transmit():
            port.handle_probe(HIGH, "high", frame, now)
        now += 0.25
    assert port.state.value == "listening"
    for _ in range(3):
        port.handle_timer(now)
        for frame in port.poll_transmit():
            port.handle_probe(HIGH, "high", frame, now)
        now += 0.25
    assert port.state.value == "blocked"


def test_each_block_holds_twice_as_long_until_it_was_calm() -> None:
    lan = Lan(HIGH, LOW)
    holds = []
    for _ in range(7):
        lan.cut = set()
        lan.run(5.0)
        port = lan.ports[HIGH]
        assert port.state.value == "blocked"
        lan.cut = {HIGH}
        lan.run(2.0)
        assert port.ends is not None
        begun = lan.now
        while lan.states()[0] == "blocked":
            lan.run(0.5)
        holds.append(round(lan.now - begun + 2.0))
        lan.run(LISTEN + 0.6)
    assert holds == sorted(holds)
    assert holds[0] <= FIRST_HOLD + 1
    assert abs(holds[1] - 2 * FIRST_HOLD) <= 2
    assert abs(holds[-1] - LARGEST_HOLD) <= 2
    lan.run(CALM)
    lan.cut = set()
    lan.run(2.0)
    lan.cut = {HIGH}
    lan.run(FIRST_HOLD + LISTEN + 2)
    assert lan.states() == ["forwarding", "forwarding"]


def test_a_loop_in_the_network_itself_blocks_at_once() -> None:
    lan = Lan(LOW)
    lan.run(10.0)
    lan.reflects = True
    lan.run(1.1)
    assert lan.states() == ["blocked"]
    assert "has a loop in itself" in lan.ports[LOW].reason
    lan.run(60.0)
    assert lan.states() == ["blocked"]
    lan.reflects = False
    lan.run(FIRST_HOLD + LISTEN + 1)
    assert lan.states() == ["forwarding"]


@pytest.mark.parametrize("what", ["another nonce", "late", "short", "empty"])
def test_only_our_own_fresh_probes_count(what: str) -> None:
    """A member that has never been in our network can't make one up, and an old one is worth nothing."""
    port = BridgePort(HIGH, (), nonces(), 0.0)
    port.handle_timer(0.0)
    (frame,) = port.poll_transmit()
    now = NONCE_LIFE + 0.1 if what == "late" else 0.1
    forged = {"another nonce": frame[:20] + b"\xff" * 16, "short": frame[:25], "empty": b""}.get(what, frame)
    port.handle_probe(LOW, "low", forged, now)
    assert port.state.value == "listening"
    port.handle_probe(LOW, "low", frame, 0.1)
    assert port.state.value == "blocked"


def test_a_probe_is_an_ethernet_frame_for_each_vlan() -> None:
    port = BridgePort(LOW, (10, 20), nonces(), 0.0)
    port.handle_timer(0.0)
    frames = port.poll_transmit()
    assert [len(frame) for frame in frames] == [MIN_FRAME, MIN_FRAME + 4, MIN_FRAME + 4]
    assert {frame[:6] for frame in frames} == {PROBE_GROUP}
    assert {frame[6:12] for frame in frames} == {b"\x06" + LOW[1:]}, "not our MAC, and no group"
    heads = [b"\x88\xb5" + LOW, b"\x81\x00\x00\x0a\x88\xb5" + LOW, b"\x81\x00\x00\x14\x88\xb5" + LOW]
    assert [frame[12 : 12 + len(head)] for frame, head in zip(frames, heads, strict=True)] == heads
    for index in range(3):
        one = BridgePort(HIGH, (10, 20), nonces(), 0.0)
        one.handle_timer(0.0)
        one.handle_probe(LOW, "low", one.poll_transmit()[index], 0.1)
        assert one.state.value == "blocked"

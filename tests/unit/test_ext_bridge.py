"""What passes between members, stations behind them, and our own bridge; what does not, and why."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from shadowmesh._ext.bridge import PortState
from shadowmesh._ext.engine import EVENT_PROBE
from shadowmesh.overlay.bridge import PROBE_GROUP, BridgePort
from tests.unit.ext_harness import (
    BROADCAST,
    Node,
    Peer,
    connect,
    frame,
    mac,
    node_and_peer,
    wait_readable,
    wait_until,
)

HERE, THERE, GUEST = (bytes.fromhex(f"0277000000{number:02x}") for number in (1, 2, 3))
"""Stations: two behind us, one behind the peer."""
HOST = bytes.fromhex("02aa00000001")
"""The bridge that our TAP is in."""
UDP_PORT = 4400
BPDU = bytes.fromhex("0180c2000000")


def tagged(vlan: int, destination: bytes, source: bytes) -> bytes:
    return destination + source + struct.pack("!HH", 0x8100, vlan) + b"\x88\xb5tagged"


def udp(source_port: int, destination: bytes, source: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 36, 0, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return destination + source + b"\x08\0" + head + struct.pack("!HHHH", source_port, 53, 16, 0) + bytes(8)


class Two:
    """A node and a peer in slow Python; frames either way, and what becomes of them."""

    def __init__(self, node: Node, peer: Peer) -> None:
        self.node, self.peer = node, peer

    def comes_in(self, data: bytes) -> bool:
        """Whether a frame that the peer sends reaches the TAP."""
        self.peer.send(self.peer.packet(b"\x01" + data))
        self.peer.marks += 1
        marker = frame(self.node.mac, self.peer.mac, b"marker %d" % self.peer.marks)
        self.peer.send(self.peer.packet(b"\x01" + marker))
        seen = self.node.receive()
        if seen == marker:
            return False
        assert (seen, self.node.receive()) == (data, marker)
        return True

    def goes_out(self, data: bytes) -> bool:
        """Whether the peer gets a frame from the TAP."""
        before = sum(self.node.plane.drops().values())
        self.node.tap.send(data)
        done = lambda: (  # noqa: E731
            wait_readable(self.peer.udp.fileno(), 0) or sum(self.node.plane.drops().values()) > before
        )
        wait_until(done)
        if not wait_readable(self.peer.udp.fileno(), 0):
            return False
        _, payload = self.peer.open(self.peer.udp.recv(65536))
        assert payload == b"\x01" + data
        return True

    def why(self) -> set[str]:
        return set(self.node.drops())


@pytest.fixture
def two() -> Iterator[Two]:
    """No bridge here; the peer may bridge."""
    with node_and_peer() as (node, peer):
        node.engine.set_bridging(7, True)
        yield Two(node, peer)


@pytest.fixture
def bridged() -> Iterator[Two]:
    """With a bridge here, whose port forwards."""
    with node_and_peer(start=False) as (node, peer):
        node.engine.open_bridge(HOST, UDP_PORT)
        node.engine.set_port(PortState.PORT_FORWARDING)
        node.engine.start()
        node.engine.set_bridging(7, True)
        yield Two(node, peer)


def test_a_member_without_the_right_sends_under_its_own_mac_only(two: Two) -> None:
    two.node.engine.set_bridging(7, False)
    assert not two.comes_in(frame(two.node.mac, GUEST))
    assert two.why() == {"spoofed_source"}
    two.node.engine.set_bridging(7, True)
    assert two.comes_in(frame(two.node.mac, GUEST))
    two.node.engine.set_bridging(7, False)
    assert not two.comes_in(frame(BROADCAST, GUEST))


def test_what_is_sent_to_a_station_goes_to_its_member(two: Two) -> None:
    node = two.node
    node.engine.add_peer(8, mac(88))
    node.engine.set_bridging(8, True)
    assert two.goes_out(frame(GUEST, node.mac)), (
        "nobody has heard it: to all with the right that can be reached"
    )
    assert two.comes_in(frame(BROADCAST, GUEST))
    assert node.engine.peer_counters(7)["stations"] == 1
    assert two.goes_out(frame(GUEST, node.mac))
    assert two.why() == set()
    for number in (7, 8):
        node.engine.remove_peer(number)
    assert not two.goes_out(frame(GUEST, node.mac))
    assert two.why() == {"unknown_destination"}


def test_unknown_stations_cost_nobody_without_the_right(two: Two) -> None:
    two.node.engine.set_bridging(7, False)
    assert not two.goes_out(frame(GUEST, two.node.mac))
    assert two.why() == {"unknown_destination"}


def test_a_station_known_behind_a_member_that_lost_the_right_is_nowhere(two: Two) -> None:
    assert two.comes_in(frame(two.node.mac, GUEST))
    two.node.engine.set_bridging(7, False)
    assert not two.goes_out(frame(GUEST, two.node.mac))
    assert two.why() == {"unknown_destination"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"\x03\0\0\0\0\1", "spoofed_source"),
        (BROADCAST, "spoofed_source"),
        (bytes(6), "spoofed_source"),
        (mac(88), "spoofed_source"),
        (mac(1), "looped"),
    ],
)
def test_what_no_station_may_be(two: Two, source: bytes, reason: str) -> None:
    """Group addresses, another member's MAC, our own: whatever right the sender has."""
    two.node.engine.add_peer(8, mac(88))
    assert not two.comes_in(frame(two.node.mac, source))
    assert not two.comes_in(frame(BROADCAST, source))
    assert two.why() == {reason}
    assert two.node.engine.bridge_counters()["far"] == 0


def test_a_station_of_one_member_is_not_taken_by_another(two: Two) -> None:
    """While it is heard where it is; the frames of the other claim are dropped."""
    node = two.node
    assert two.comes_in(frame(node.mac, GUEST))
    with Node(2, start=False) as other:
        other.engine.open_bridge(HOST, UDP_PORT)
        other.engine.set_port(PortState.PORT_FORWARDING)
        other.engine.start()
        connect(node, other, 9)
        node.engine.set_bridging(9, True)
        other.tap.send(frame(node.mac, GUEST))
        other.tap.send(frame(node.mac, HERE))
        assert node.receive() == frame(node.mac, HERE)
        assert two.why() == {"claimed_station"}
        assert [node.engine.peer_counters(number)["stations"] for number in (7, 9)] == [1, 1]


def test_without_a_bridge_of_ours_only_our_mac_is_taken(two: Two) -> None:
    assert not two.comes_in(frame(HERE, GUEST))
    assert not two.comes_in(frame(HERE, two.peer.mac))
    assert two.why() == {"not_for_us"}
    assert not two.goes_out(frame(two.peer.mac, HERE))
    assert two.why() == {"not_for_us", "foreign_source"}


def test_behind_our_bridge_stations_send_and_receive(bridged: Two) -> None:
    peer = bridged.peer
    assert bridged.goes_out(frame(BROADCAST, HERE))
    assert bridged.goes_out(frame(peer.mac, HERE))
    for destination in (HERE, THERE, HOST, BROADCAST, bridged.node.mac):
        assert bridged.comes_in(frame(destination, peer.mac)), destination
        assert bridged.comes_in(frame(destination, GUEST)), destination
    assert bridged.goes_out(frame(GUEST, HERE))
    assert bridged.goes_out(frame(GUEST, HOST))
    assert bridged.why() == set()
    counters = bridged.node.engine.bridge_counters()
    assert (counters["near"], counters["far"], counters["not_learned"]) == (1, 1, 0)


def test_what_is_for_another_member_or_behind_it_is_not_taken(bridged: Two) -> None:
    bridged.node.engine.add_peer(8, mac(88))
    assert bridged.comes_in(frame(BROADCAST, GUEST))
    assert not bridged.comes_in(frame(mac(88), GUEST))
    assert not bridged.comes_in(frame(GUEST, bridged.peer.mac))
    assert bridged.why() == {"not_for_us"}


def test_own_frames_that_come_back_go_no_further(bridged: Two) -> None:
    """From the TAP: what a member or its station had sent. From a member: what we or our stations had."""
    assert bridged.comes_in(frame(BROADCAST, GUEST))
    assert bridged.goes_out(frame(BROADCAST, HERE))
    assert not bridged.goes_out(frame(BROADCAST, GUEST))
    assert not bridged.goes_out(frame(BROADCAST, bridged.peer.mac))
    for source in (HERE, HOST, bridged.node.mac):
        assert not bridged.comes_in(frame(BROADCAST, source)), source
    assert bridged.why() == {"looped"}
    assert bridged.node.drops()["looped"] == 5


def test_a_hint_of_a_loop_stops_floods_into_the_bridge_for_a_moment(bridged: Two) -> None:
    """The TAP brings a frame of a station that is heard behind a member; what is not flooded goes on."""
    node, peer = bridged.node, bridged.peer
    assert bridged.goes_out(frame(peer.mac, HERE))
    assert bridged.comes_in(frame(BROADCAST, GUEST))
    assert bridged.comes_in(frame(THERE, GUEST))
    assert not bridged.goes_out(frame(BROADCAST, GUEST))
    begun = time.monotonic()
    assert not bridged.comes_in(frame(BROADCAST, GUEST))
    assert not bridged.comes_in(frame(BROADCAST, peer.mac))
    assert not bridged.comes_in(frame(THERE, GUEST))
    for destination in (HERE, HOST, node.mac):
        assert bridged.comes_in(frame(destination, GUEST))
    assert bridged.goes_out(frame(BROADCAST, HERE))
    wait_until(lambda: bridged.comes_in(frame(BROADCAST, peer.mac)))
    assert 0.9 < time.monotonic() - begun < 3.0
    assert bridged.comes_in(frame(THERE, GUEST))
    assert not bridged.goes_out(frame(BROADCAST, GUEST))
    assert bridged.comes_in(frame(BROADCAST, peer.mac)), "who claims a station stops the others' floods once"
    assert bridged.why() == {"looped", "bridge_blocked"}


@pytest.mark.parametrize("state", [PortState.PORT_LISTENING, PortState.PORT_BLOCKED])
def test_a_port_that_does_not_forward_carries_members_own_macs_only(bridged: Two, state: PortState) -> None:
    node, peer = bridged.node, bridged.peer
    assert bridged.comes_in(frame(BROADCAST, GUEST))
    node.engine.set_port(state)
    for data in (frame(BROADCAST, HERE), frame(peer.mac, HERE), frame(BROADCAST, HOST), frame(GUEST, HOST)):
        assert not bridged.goes_out(data)
    for data in (frame(BROADCAST, peer.mac), frame(HERE, peer.mac), frame(HOST, GUEST), frame(HERE, GUEST)):
        assert not bridged.comes_in(data)
    assert bridged.why() == {"bridge_blocked"}
    assert bridged.goes_out(frame(peer.mac, HOST))
    assert bridged.comes_in(frame(HOST, peer.mac))
    assert bridged.comes_in(frame(node.mac, peer.mac))
    node.engine.set_port(PortState.PORT_FORWARDING)
    assert bridged.goes_out(frame(peer.mac, HERE))


def test_link_local_groups_pass_neither_way(bridged: Two, two: Two) -> None:
    for one, source in ((bridged, HERE), (bridged, bridged.node.mac), (two, two.node.mac)):
        for last in (0x00, 0x02, 0x0E, 0x0F):
            assert not one.goes_out(frame(BPDU[:5] + bytes([last]), source))
            assert not one.comes_in(frame(BPDU[:5] + bytes([last]), one.peer.mac))
        assert one.why() == {"link_local_group"}
    assert bridged.goes_out(frame(bytes.fromhex("0180c2000010"), HERE)), "the next one is forwarded"


def test_stations_are_learned_by_vlan(bridged: Two) -> None:
    assert bridged.comes_in(tagged(10, BROADCAST, GUEST))
    assert bridged.goes_out(tagged(20, BROADCAST, GUEST)), "in VLAN 20 it is here"
    assert not bridged.goes_out(tagged(10, BROADCAST, GUEST))
    assert bridged.why() == {"looped"}
    assert bridged.goes_out(tagged(0, BROADCAST, HERE))
    counters = bridged.node.engine.bridge_counters()
    assert bridged.goes_out(frame(BROADCAST, HERE))
    assert bridged.node.engine.bridge_counters() == counters, "a priority tag is no VLAN"


def test_only_the_listed_vlans_are_carried() -> None:
    with node_and_peer(start=False) as (node, peer):
        node.engine.open_bridge(HOST, UDP_PORT, [10, 4094])
        node.engine.set_port(PortState.PORT_FORWARDING)
        node.engine.start()
        node.engine.set_bridging(7, True)
        two = Two(node, peer)
        for vlan, carried in ((10, True), (4094, True), (0, True), (11, False), (4095, False), (1, False)):
            assert two.goes_out(tagged(vlan, BROADCAST, HERE)) is carried, vlan
            assert two.comes_in(tagged(vlan, BROADCAST, GUEST)) is carried, vlan
        assert two.goes_out(frame(BROADCAST, HERE))
        for source, passes in ((HERE, two.goes_out), (GUEST, two.comes_in)):
            inner = tagged(11, BROADCAST, source)
            assert not passes(inner[:12] + b"\x81\x00\xe0\x00" + inner[12:]), "a priority tag hides no VLAN"
        assert two.why() == {"vlan_not_carried"}


def test_our_own_datagrams_never_go_through_our_own_interface(bridged: Two) -> None:
    """To a member that seems to be next door, since the bridge joined both networks."""
    for source in (HOST, bridged.node.mac):
        assert not bridged.goes_out(udp(UDP_PORT, bridged.peer.mac, source))
        assert bridged.goes_out(udp(UDP_PORT + 1, bridged.peer.mac, source))
    assert bridged.why() == {"own_datagram"}
    assert bridged.goes_out(udp(UDP_PORT, bridged.peer.mac, HERE)), "a station's"


def probe(origin: bytes, vlans: tuple[int, ...] = ()) -> list[bytes]:
    port = BridgePort(origin, vlans, lambda size: b"n" * size, 0.0)
    port.handle_timer(0.0)
    return port.poll_transmit()


@pytest.mark.parametrize("number", [0, 1], ids=["untagged", "tagged"])
def test_another_members_probe_goes_back_to_it_alone_unless_blocked(bridged: Two, number: int) -> None:
    node, peer = bridged.node, bridged.peer
    node.engine.add_peer(8, mac(88))
    theirs, unknown = probe(peer.mac, (10,))[number], probe(mac(99), (10,))[number]
    assert bridged.goes_out(theirs)
    assert not bridged.goes_out(unknown)
    node.engine.set_port(PortState.PORT_LISTENING)
    assert bridged.goes_out(theirs)
    node.engine.set_port(PortState.PORT_BLOCKED)
    assert not bridged.goes_out(theirs)
    assert bridged.why() == {"unknown_destination", "bridge_blocked"}


@pytest.mark.parametrize("number", [0, 1], ids=["untagged", "tagged"])
def test_a_probe_of_ours_that_a_member_sends_back_is_an_event(bridged: Two, number: int) -> None:
    ours = probe(bridged.node.mac, (10,))[number]
    assert not bridged.comes_in(ours)
    event = bridged.node.event()
    assert (event.kind, event.handle, event.data) == (EVENT_PROBE, 7, ours)
    assert not bridged.comes_in(probe(mac(99))[0])
    bridged.node.engine.set_bridging(7, False)
    assert not bridged.comes_in(ours)
    assert bridged.why() == {"not_for_us", "spoofed_source"}
    assert bridged.node.poll() == []


def test_a_probe_of_ours_that_the_tap_brings_is_counted(bridged: Two) -> None:
    assert not bridged.goes_out(probe(bridged.node.mac)[0])
    assert bridged.node.engine.bridge_counters()["reflected"] == 1
    assert bridged.why() == {"looped"}
    short = PROBE_GROUP + HERE + b"\x88\xb5" + bridged.node.mac
    assert bridged.goes_out(short), "too short for a probe: a frame like others"


def test_a_bridge_is_opened_before_the_start_with_good_arguments() -> None:
    with Node(1, start=False) as node:
        for bad in (
            (b"\3" * 6, 1, ()),
            (HOST, 65536, ()),
            (HOST, 1, [4095]),
            (HOST, 1, [-1]),
            (HOST[:5], 1, ()),
        ):
            with pytest.raises(ValueError):
                node.engine.open_bridge(*bad)
        with pytest.raises(ValueError):
            node.engine.set_port(4)
        with pytest.raises(KeyError):
            node.engine.set_bridging(7, True)
        node.engine.start()
        with pytest.raises(ValueError, match="before the start"):
            node.engine.open_bridge(HOST, 1)

"""Tables change under the threads' hands: docs/dataplane.md says why that is safe, this tries it.

Two engines and a relay between them carry frames while peers, lanes, sessions, routes, channels and control
ids come and go.  Short by itself; SHADOWMESH_STRESS_SECONDS makes it longer, and `make sanitize` and
`make tsan` run it where a freed record or an unordered access ends the process.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import socket
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Literal

import pytest

from shadowmesh._ext.bridge import PortState
from shadowmesh._ext.engine import SendKeys
from shadowmesh.overlay.compilation import Party
from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import FirewallSection, Ports, Rule, parse_protocol
from shadowmesh_relay.steering import open_steered
from tests.reference.offload import UDP, VNET
from tests.unit.ext_harness import BROADCAST, Node, frame, mac, material, udp_socket, wire_id
from tests.unit.test_ext_forward import Relay
from tests.unit.test_ext_offload import ALL, packet

SECONDS = float(os.environ.get("SHADOWMESH_STRESS_SECONDS", "1"))
PEERS = 6
LANES = 8
HEADLESS = bytes(VNET.size)
"""A virtio_net_hdr of a frame that needs nothing."""

EXPECTED_DROPS = {
    "unknown_id", "spoofed_source", "no_route", "unknown_destination", "unexpected_long_header", "short",
    "control_rate", "long_ring_full", "control_ring_full", "tap_full", "send_buffer_full", "send_failed",
    "firewall_in", "firewall_out", "looped", "claimed_station", "bridge_blocked", "not_for_us",
    "foreign_source", "other_thread_busy",
}  # fmt: skip
"""What removals and floods cause; above all no authentication, no duplicate and no malformed_segment."""


PARTIES = [Party(f"peer{number}", "", number=number) for number in range(1, PEERS + 1)]
RULE = Rule(line=1, action="allow", direction="in", peers=("peer1",), protocols=(parse_protocol("udp"),))
DENY_RULE = Rule(
    line=2, action="deny", direction="out", protocols=(parse_protocol("tcp"),), dst_ports=(Ports(1, 9),)
)
CHOICES: list[tuple[Literal["allow", "deny"], tuple[Rule, ...]]] = [
    ("allow", ()),
    ("deny", (RULE, DENY_RULE)),
    ("allow", (DENY_RULE,)),
]
POLICIES = [
    Firewall(FirewallSection(inbound=inbound, outbound="allow", rules=rules), PARTIES).compiled()
    for inbound, rules in CHOICES
]


class Side(Node):
    """An engine, what is installed in it, and a judge of what it writes to its TAP."""

    def __init__(self, number: int) -> None:
        super().__init__(number, features=ALL, start=False)
        self.engine.open_bridge(bytes([2, 0xAA, number, 0, 0, 0]), 1)
        self.engine.start()
        self.stations = [bytes([2, 0x77, number, 0, 0, last]) for last in range(50)]
        self.tap.setblocking(False)
        self.peers: dict[int, list[int]] = {}
        self.controls: list[bytes] = []
        self.sent = 0
        self.judged: set[bytes] = set()
        self.pieces = 0

    def add(self, number: int, far: bytes) -> None:
        if number not in self.peers:
            self.engine.add_peer(number, far if number == 1 else mac(100 + number))
            self.peers[number] = []

    def send(self, target: bytes, size: int, source: bytes | None = None) -> None:
        self.sent += 1
        content = self.sent.to_bytes(8, "big") + os.urandom(size)
        content += zlib.crc32(content).to_bytes(4, "big")
        self.write(HEADLESS + frame(target, source or self.mac, content))

    def write(self, data: bytes) -> None:
        with suppress(BlockingIOError):
            self.tap.send(data)

    def judge(self, far: bytes) -> None:
        """Each frame whole, from the only peer that may send them or a station behind it, and once."""
        with suppress(BlockingIOError):
            while True:
                written = self.tap.recv(70_000)[VNET.size :]
                assert written[6:12] == far or written[6:8] == b"\x02\x77"
                assert written[6:12] not in self.stations
                if written[12:14] == b"\x08\x00":
                    self.pieces += 1
                    assert set(written[42:]) <= {0x55}
                    continue
                content = written[14:]
                assert zlib.crc32(content[:-4]).to_bytes(4, "big") == content[-4:]
                assert content[:8] not in self.judged
                self.judged.add(content[:8])


class Stress:
    """Operations on two sides and a relay; one of them is drawn at a time."""

    def __init__(self, relay: Relay, sides: tuple[Side, Side], stranger: socket.socket) -> None:
        self.relay = relay
        self.threads = len(relay.forwarder.thread_counters())
        self.sides = sides
        self.stranger = stranger
        self.draw = random.Random(1)
        self.epoch = 0
        self.operations: list[Callable[[Side, Side, int], None]] = [
            self.renew, self.renew, self.renew, self.retire, self.remove, self.move, self.clear,
            self.control, self.source, self.look, self.relay_clients, self.noise, self.firewall,
            self.bridge,
        ]  # fmt: skip
        for index, side in enumerate(sides):
            relay.forwarder.add_client(index, side.sockaddr)
            side.engine.install_channel(b"to end %d" % index)

    def renew(self, near: Side, far: Side, number: int) -> None:
        """Fresh keys from near to far: as a rekey does it, receiver first."""
        self.epoch += 1
        ids = [wire_id(self.epoch << 8 | lane) for lane in range(LANES)]
        near.add(number, far.mac)
        far.add(number, near.mac)
        far.engine.install_receive(self.epoch, number, ids, material(self.epoch))
        far.peers[number].append(self.epoch)
        lane = self.draw.randrange(LANES)
        near.engine.set_lane(number, SendKeys(material(self.epoch)), lane, ids[lane])
        self.move(near, far, number)
        while len(far.peers[number]) > 2:
            far.engine.retire_receive(far.peers[number].pop(0))

    def retire(self, near: Side, far: Side, number: int) -> None:
        sessions = near.peers.get(number)
        if sessions:
            near.engine.retire_receive(sessions.pop(self.draw.randrange(len(sessions))))

    def remove(self, near: Side, far: Side, number: int) -> None:
        if near.peers.pop(number, None) is not None:
            near.engine.remove_peer(number)

    def move(self, near: Side, far: Side, number: int) -> None:
        """Directly, or through the relay."""
        if number in near.peers:
            relayed = self.draw.random() < 0.5
            channel = b"from %d  " % self.sides.index(near) if relayed else b""
            near.engine.set_endpoint(number, self.relay.sockaddr if relayed else far.sockaddr, channel)

    def clear(self, near: Side, far: Side, number: int) -> None:
        if number in near.peers:
            near.engine.clear_route(number)

    def control(self, near: Side, far: Side, number: int) -> None:
        """Thirty at once, so that the table is rebuilt while it is read."""
        for wire in near.controls:
            near.engine.remove(wire)
        first = (1 << 60) + (self.draw.getrandbits(32) << 8)
        near.controls = [wire_id(first + i) for i in range(30)]
        for wire in near.controls:
            near.engine.install_control(wire)

    def source(self, near: Side, far: Side, number: int) -> None:
        near.engine.allow_source(far.sockaddr)
        with suppress(KeyError):
            far.engine.forbid_source(near.sockaddr)

    def look(self, near: Side, far: Side, number: int) -> None:
        for plane in (near.engine, self.relay.forwarder):
            plane.counters()
            plane.features()
            plane.drops()
            plane.poll()
        if number in near.peers:
            near.engine.peer_counters(number)

    def relay_clients(self, near: Side, far: Side, number: int) -> None:
        """The relay forgets one of them with its channels, and meets it again."""
        forwarder = self.relay.forwarder
        index = self.sides.index(near)
        forwarder.remove_client(index)
        forwarder.add_client(index, near.sockaddr, thread=self.draw.randrange(self.threads))
        forwarder.install_channel(b"from 0  ", 0, 1, b"to end 1")
        forwarder.install_channel(b"from 1  ", 1, 0, b"to end 0")
        forwarder.install_receive(index, [os.urandom(8) for _ in range(LANES)], material(index))
        forwarder.set_lane(index, SendKeys(material(index)), 0, bytes(8))
        forwarder.endpoint(index)
        forwarder.client_counters(index)

    def firewall(self, near: Side, far: Side, number: int) -> None:
        """Other rules, or none; the flows stay."""
        near.engine.set_firewall(self.draw.choice([None, *POLICIES]))
        far.engine.firewall_counters()

    def bridge(self, near: Side, far: Side, number: int) -> None:
        """The port changes, and whether the other side may have stations."""
        near.engine.set_port(self.draw.choice(list(PortState)))
        near.engine.bridge_counters()
        if 1 in near.peers:
            near.engine.set_bridging(1, self.draw.random() < 0.8)

    def noise(self, near: Side, far: Side, number: int) -> None:
        """Datagrams that are no packets of a lane: to a control id, a long header, rubbish."""
        wire = self.draw.choice(near.controls or [bytes(8)])
        for datagram in (b"\x40" + wire + bytes(40), b"\xc0" + bytes(60), b"\x40", b"\x40" + os.urandom(60)):
            self.stranger.sendto(datagram, near.udp.getsockname())
            self.stranger.sendto(datagram, self.relay.udp.getsockname())

    def traffic(self) -> None:
        for near, far in (self.sides, self.sides[::-1]):
            for _ in range(8):
                number = self.draw.randint(1, PEERS)
                target = far.mac if number < 4 else mac(100 + number)
                near.send(BROADCAST if self.draw.random() < 0.1 else target, self.draw.choice((50, 1300)))
                station = self.draw.choice(far.stations)
                near.send(
                    self.draw.choice((far.mac, station)), 50, self.draw.choice((*near.stations, near.mac))
                )
            whole = packet(far.mac, near.mac, UDP, b"\x55" * 12_000)
            near.write(whole.vnet(1200) + whole.frame(partial=True))

    def settle(self) -> None:
        """Install everything anew and see that frames still cross both ways, also a super-frame."""
        for side in self.sides:
            side.engine.set_firewall(None)
        for near, far in (self.sides, self.sides[::-1]):
            self.renew(near, far, 1)
            near.engine.set_endpoint(1, far.sockaddr, b"")
            end = time.monotonic() + 30
            before = len(far.judged), far.pieces
            whole = packet(far.mac, near.mac, UDP, b"\x55" * 12_000)
            while not (len(far.judged) > before[0] and far.pieces > before[1]):
                assert time.monotonic() < end, "nothing crosses any more"
                near.send(far.mac, 50)
                near.write(whole.vnet(1200) + whole.frame(partial=True))
                os.sched_yield()
                far.judge(near.mac)

    def run(self, seconds: float) -> int:
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            self.traffic()
            for _ in range(4):
                near, far = self.draw.sample(self.sides, 2)
                self.draw.choice(self.operations)(near, far, self.draw.randint(1, PEERS))
                done += 1
            for near, far in (self.sides, self.sides[::-1]):
                near.judge(far.mac)
        return done


@pytest.mark.timeout(60 + 10 * SECONDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_tables_change_while_packets_flow(threads: int) -> None:
    """With several threads, the ids lead to one of them, and clients are any one's: most is handed over."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in open_steered("::1", 0, threads)]
        relay = stack.enter_context(Relay(more=sockets[1:], udp=sockets[0]))
        one, two = (stack.enter_context(Side(number)) for number in (1, 2))
        stranger = stack.enter_context(udp_socket())
        stress = Stress(relay, (one, two), stranger)
        assert stress.run(SECONDS) > 20 * SECONDS
        stress.settle()
        for side in (one, two):
            assert len(side.judged) > 10
            assert set(side.drops()) <= EXPECTED_DROPS
            assert side.engine.features() == dict.fromkeys(ALL, True)
        assert set(relay.drops()) <= EXPECTED_DROPS
        handed_over = sum(counters["handed_over"] for counters in relay.forwarder.thread_counters())
        assert (handed_over > 0) == (threads > 1)


def allocated() -> int:
    """Bytes that malloc has handed out; 0 under a sanitizer, which has a malloc of its own."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [(f"_{number}", ctypes.c_size_t) for number in range(10)]

    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    return int(libc.mallinfo2()._7)


def test_what_is_replaced_is_freed() -> None:
    """3000 epochs, peers and routes of 5 kB each and more, and rules, while the threads run: none is left."""
    with Side(1) as one, Side(2) as two:
        sizes = []
        for epoch in range(1, 3001):
            one.add(1, two.mac)
            ids = [wire_id(epoch << 8 | lane) for lane in range(LANES)]
            one.engine.install_receive(epoch, 1, ids, material(epoch))
            one.engine.set_lane(1, SendKeys(material(epoch)), 0, ids[0])
            one.engine.set_endpoint(1, one.sockaddr, b"")
            one.engine.set_firewall(POLICIES[epoch % 3])
            one.send(two.mac, 50)
            if epoch % 3 == 0:
                one.engine.remove_peer(one.peers.popitem()[0])
            else:
                one.engine.retire_receive(epoch)
            one.engine.poll()
            if epoch % 1000 == 0:
                # A thread that was suspended in a batch holds back everything retired since.
                for _ in range(50):
                    time.sleep(0.002)
                    one.engine.poll()
                gc.collect()
                sizes.append(allocated())
        assert sizes[2] - sizes[0] < 1_000_000, sizes

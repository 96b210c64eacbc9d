"""ext/judge.pyx: frames like one before, which are not taken apart again, against the slow twin."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.firewall import Firewall as Wall
from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import Rule, parse_protocol
from tests.reference import firewall as reference
from tests.unit.test_ext_firewall import PARTIES, allow_in, counted, ethernet, ip_packet, section, tcp, udp

HOSTS = [("10.77.0.1", "10.77.0.2"), ("10.77.0.1", "10.77.0.3"), ("fd77::1", "fd77::2")]
FLAGS = [2, 18, 16, 16, 16, 24, 17, 4]
MODES = [
    section(allow_in("tcp", 22, 53), allow_in("udp", 22, 53)),
    section(allow_in("tcp", 22, 53), allow_in("udp", 22, 53), outbound="deny"),
    section(
        Rule(line=1, action="deny", direction="in", peers=("bob",), protocols=(parse_protocol("tcp"),)),
        Rule(line=2, action="deny", direction="out", groups=("ops",)),
        allow_in("tcp", 22),
        inbound="allow",
    ),
    section(outbound="deny"),
]


class Stream(NamedTuple):
    """Packets that one host sends to the other, or back, in one connection."""

    hosts: int
    ports: tuple[int, int]
    protocol: int
    peer: int
    life: int
    damage: int

    def frame(self, outgoing: bool, flags: int, size: int) -> bytes:
        here, there = (ipaddress.ip_address(text) for text in HOSTS[self.hosts])
        near, far = self.ports
        if not outgoing:
            here, there, near, far = there, here, far, near
        payload = tcp(near, far, flags) if self.protocol == 6 else udp(near, far)
        made = bytearray(ip_packet(here, there, self.protocol, payload + bytes(size), number=size))
        six = here.version == 6
        if self.damage == 1:
            made[5 if six else 3] += 1  # a byte more than there is
        elif self.damage == 2 and self.protocol == 6:
            made[52 if six else 32] = 0xF0  # a TCP header that ends behind the packet
        elif self.damage == 3:
            made[0] = 0x46 if not six else 0x50
        elif self.damage == 4 and not six:
            made[6] = 0x20  # more fragments
        elif self.damage == 5:
            return ethernet(bytes(made), 0x86DD if six else 0x0800, vlans=(10,))
        elif self.damage == 6:
            return ethernet(bytes(made), 0x86DD if six else 0x0800, group=True)
        return ethernet(bytes(made), 0x86DD if six else 0x0800)


STREAMS = st.builds(
    Stream,
    st.integers(0, 2),
    st.sampled_from([(5000, 22), (22, 5000), (5000, 53)]),
    st.sampled_from([6, 6, 17]),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0] * 20 + [1, 2, 3, 4, 5, 6]),
)
TALK = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 3),
            st.booleans(),
            st.sampled_from(FLAGS),
            st.sampled_from([0, 0, 30]),
            st.sampled_from([0, 0, 0, 1, 9, 10, 31, 125]),
        ),
        st.integers(0, len(MODES) - 1),
    ),
    min_size=5,
    max_size=60,
)


@pytest.mark.timeout(120)  # on a busy machine; a second or two by itself
@settings(max_examples=150, deadline=None)
@given(st.lists(STREAMS, min_size=4, max_size=4), TALK)
def test_streams_are_judged_as_by_the_twin(
    streams: list[Stream], talk: list[tuple[int, bool, int, int, int] | int]
) -> None:
    """Few connections and many frames of each: verdicts are equal, and what is counted."""
    fast = Wall(buckets=64)
    slow = reference.Wall(Firewall(MODES[0], PARTIES))
    now = 1000
    for step in [0, *talk]:
        if isinstance(step, int):
            if slow.generation:
                assert counted(fast) == slow.counters()
            firewall = Firewall(MODES[step], PARTIES)
            fast.install(firewall.compiled())
            slow.install(firewall)
            continue
        stream, (_, outgoing, flags, size, pause) = streams[step[0]], step
        now += pause
        frame = stream.frame(outgoing, flags, size)
        name = PARTIES[stream.peer - 1].name
        expected = slow.judge("out" if outgoing else "in", name, frame, now, str(stream.life))
        serial = stream.peer + 10 * stream.life
        assert fast.judge(outgoing, stream.peer, frame, now, serial=serial) == expected, frame.hex()
    assert counted(fast) == slow.counters()


def test_another_life_of_the_peer_is_another_peer() -> None:
    """Among so many there are some that are looked for in the same place."""
    made = Wall(buckets=64)
    made.install(Firewall(MODES[0], PARTIES).compiled())
    stream = Stream(0, (5000, 80), 6, 1, 0, 0)
    opening, going_on = stream.frame(True, 2, 0), stream.frame(False, 16, 0)
    made.judge(True, 1, opening, 1, serial=1)
    for _ in range(2):
        assert made.judge(False, 1, going_on, 1, serial=1) == "pass"
    assert {made.judge(False, 1, going_on, 1, serial=serial) for serial in range(2, 500)} == {"deny"}

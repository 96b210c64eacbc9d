"""The second port of a relay, sans-I/O: tells clients how it sees them, so that they learn their NAT.

It answers OBSERVE, and sends OBSERVED unasked after NAT_TEST.  Nobody else gets anything from that port,
and nobody more bytes than were received.  Keys are those of the leg, in lanes that the forwarder never uses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shadowmesh._ext.aead import PacketKeys
from shadowmesh._ext.replay import ReplayWindow, Verdict
from shadowmesh.errors import BadPacket
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.session.lane import ControlLane
from shadowmesh.units import ID_SIZE, Address
from shadowmesh.wire.observe import OBSERVE_LANE, OBSERVED_LANE, encode_observed, parse_observe

BURST = 8
"""Answers at once: one test takes six."""
RATE = 0.5
"""Answers per second after that."""


@dataclass(eq=False)
class _Leg:
    client: int
    receiver_id: bytes
    keys: PacketKeys
    lane: ControlLane
    window: ReplayWindow = field(default_factory=ReplayWindow)
    tokens: float = BURST
    counted_at: float = 0.0


class Observer:
    """What the second port knows of each client. Take `poll_transmit` after each call.

    :param port: its number, which clients are told.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._by_id: dict[bytes, _Leg] = {}
        self._by_client: dict[int, _Leg] = {}
        self._outbox: list[tuple[bytes, Address]] = []

    def add(self, client: int, agreement: EpochKeys, now: float) -> None:
        """A client was admitted; takes copies of the keys."""
        leg = _Leg(
            client,
            agreement.receive_lanes[OBSERVE_LANE],
            PacketKeys(agreement.receive_keys),
            ControlLane(agreement.send_keys, agreement.send_lanes[OBSERVED_LANE]),
            counted_at=now,
        )
        self._by_id[leg.receiver_id] = self._by_client[client] = leg

    def remove(self, client: int) -> None:
        """A client is gone; its keys are wiped."""
        leg = self._by_client.pop(client)
        del self._by_id[leg.receiver_id]
        leg.keys.wipe()
        leg.lane.wipe()

    def handle_datagram_untrusted(self, data: bytes, source: Address, now: float) -> None:
        """A datagram on the second port. Raises BadPacket."""
        leg = self._by_id.get(data[1 : 1 + ID_SIZE])
        if leg is None:
            raise BadPacket("unknown_id")
        number, payload = leg.keys.open(OBSERVE_LANE, data)
        if leg.window.accept(number) is not Verdict.FRESH:
            raise BadPacket("duplicate")
        nonce = parse_observe(payload)
        self._spend(leg, now)
        self._send(leg, encode_observed(nonce, source), source, now)

    def handle_test_untrusted(self, client: int, address: Address, nonce: bytes, now: float) -> None:
        """A NAT_TEST of a client that is at `address`: it gets OBSERVED unasked. Raises BadPacket."""
        leg = self._by_client[client]
        self._spend(leg, now)
        self._send(leg, encode_observed(nonce, address), address, now)

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._outbox)

    def poll_transmit(self) -> list[tuple[bytes, Address]]:
        """Datagrams to send from the second port now."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _send(self, leg: _Leg, payload: bytes, address: Address, now: float) -> None:
        packet = leg.lane.seal(payload, now)
        if packet is not None:
            self._outbox.append((packet, address))

    def _spend(self, leg: _Leg, now: float) -> None:
        leg.tokens = min(BURST, leg.tokens + RATE * (now - leg.counted_at))
        leg.counted_at = now
        if leg.tokens < 1:
            raise BadPacket("observe_rate")
        leg.tokens -= 1

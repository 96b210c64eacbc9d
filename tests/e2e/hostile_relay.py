"""A relay that attacks its clients: the product's own, with one behaviour in place of the right one.

hostile_relay.py BEHAVIOUR serve -c FILE

flood        invents peers, calls, answers and ends of channels, states no load, names second ports
duplicate    says that two machines hold the client's identity
oversized    sends the head of a message that no limit allows, and begins streams of its own
substitute   leads a caller to another client than it called
middle       takes every call itself, and completes TLS in the callee's place
swallow      opens channels, and loses what goes through them
liar=HOST    answers every BIND with an address that is not the client's: HOST and others
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

import shadowmesh_relay.server as server
from shadowmesh._ext.aead import PacketKeys
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.session.lane import ControlLane
from shadowmesh.session.link import CloseCode, LinkEvent, Ready, accept
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Opening
from shadowmesh.units import ID_SIZE, LANES
from shadowmesh.wire.headers import destination_id, split_channel, through_channel
from shadowmesh.wire.messages import Absent, Call, Close, Message, Open, Opened, Present, SecondPort, Ticket
from shadowmesh.wire.payload import Kind, host_bytes
from shadowmesh_relay.cli import main
from shadowmesh_relay.clients import Client
from shadowmesh_relay.protocol import RelayCore
from shadowmesh_relay.server import ForwarderTables

TICK = 0.05
"""Seconds between two strikes."""
LIES = ("127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "10.77.0.9", "fe80::1", "ff02::1", "::1")
VICTIM_PORT = 7000
AGAIN = b"again..."
"""A challenge that no BIND satisfies."""
TOO_LONG = bytes((0x21,)) + (65_537).to_bytes(3, "big") + bytes(2000)


class Hostile(RelayCore):
    """Strikes all the time."""

    _strike_at = 0.0

    @property
    def deadline(self) -> float:
        return min(super().deadline, self._strike_at)

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if now >= self._strike_at:
            self._strike_at = now + TICK
            for client in list(self.clients.values()):
                self.strike(client, now)

    def strike(self, client: Client, now: float) -> None:
        """What one client gets every `TICK`."""


class Flood(Hostile):
    def strike(self, client: Client, now: float) -> None:
        others = [one.node for one in self.clients.values() if one is not client]
        new = self._random
        messages: list[Message] = [Present(new(32), new(8)) for _ in range(20)]
        for node in (*others, new(32)):
            messages += [Present(node, new(8)), *(Call(node, new(8)) for _ in range(4)), Absent(new(32))]
        messages += [Opened(new(8), new(8)), Opened(new(8), b"", "no" * 100), Close(new(8))]
        messages += [SecondPort(1 + new(1)[0]), Ticket(bytes(32), 0), Ticket(new(32), 0)]
        self._send_all(client, messages, now)


class Duplicate(Hostile):
    def strike(self, client: Client, now: float) -> None:
        self._close(client.driver, CloseCode.DUPLICATE, "two machines use your identity", now)


class Oversized(Hostile):
    def strike(self, client: Client, now: float) -> None:
        client.driver.link._connection.send_stream_data(0, TOO_LONG)
        self._links.pump(client.driver, now)


class Substitute(Hostile):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._rendezvous._callee = self._other  # type: ignore[method-assign,assignment]

    def _other(self, client: Client, node: bytes) -> Client | None:
        waiting = (one for one in self.clients.values() if client.node in one.interests)
        return next((one for one in waiting if one.node != node), None)


class Middle(Hostile):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._callers: dict[bytes, tuple[Client, bytes]] = {}

    def _handle_message(self, client: Client, message: Message, now: float) -> None:
        if not isinstance(message, Open):
            super()._handle_message(client, message, now)
            return
        send = self._random(ID_SIZE)
        self._callers[send] = client, message.receive
        self._tables.install_control(send)
        self._send_all(client, [Present(message.node, bytes(8)), Opened(message.receive, send)], now)

    def handle_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        caller = self._callers.get(destination_id(datagrams[0]))
        if caller is None:
            super().handle_datagrams(datagrams, now)
            return
        for data in datagrams:
            self._answer(*caller, split_channel(data)[1], now)

    def _answer(self, client: Client, receive: bytes, inner: bytes, now: float) -> None:
        name = destination_id(inner)
        driver = self._links.find(name)
        if driver is None and inner[0] & 0xC0 != 0xC0:
            self._events.append(f"the middle was sent a sealed packet by {node_id_text(client.node)}")
            return
        if driver is None:
            lanes = [self._random(ID_SIZE) for _ in range(LANES)]
            opening = Opening(self._random(32), bytes(8), lanes, self._random(16), client.address)
            link = accept(self._identity, None, opening, now, name)

            def transmit(datagram: bytes) -> None:
                self._outbox.append((through_channel(receive, datagram), client.address))

            driver = self._links.add(link, transmit, self._note, now, name)
        self._links.handle_datagram(driver, inner, now)

    def _note(self, driver: Driver, event: LinkEvent, _now: float) -> None:
        if isinstance(event, Ready):
            self._events.append("the middle has agreed on keys")


class LiarTables(ForwarderTables):
    """BIND goes to the protocol, and not to the forwarder, which would answer it with the truth."""

    def __init__(self, forwarder: Any, family: int) -> None:
        super().__init__(forwarder, family)
        self.legs: dict[bytes, tuple[int, PacketKeys]] = {}
        self.lanes: dict[int, ControlLane] = {}
        self._material = bytearray()

    def install_receive(self, client: int, ids: Sequence[bytes], material: bytearray) -> None:
        self.legs[ids[0]] = client, PacketKeys(material)
        self.install_control(ids[0])

    def new_send_keys(self, material: bytearray) -> Any:
        self._material = bytearray(material)
        return super().new_send_keys(material)

    def set_lane(self, client: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        self.lanes[client] = ControlLane(self._material, receiver_id, lane=lane)

    def last_bind(self, client: int) -> float:
        return time.monotonic()


class Liar(Hostile):
    victim = ""
    _turn = 0

    def handle_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        assert isinstance(self._tables, LiarTables)
        leg = self._tables.legs.get(destination_id(datagrams[0]))
        if leg is None:
            super().handle_datagrams(datagrams, now)
            return
        client, keys = leg
        for data in datagrams:
            _, payload = keys.open(0, data)
            self._lie(client, payload[9:17], now)

    def _lie(self, handle: int, nonce: bytes, now: float) -> None:
        assert isinstance(self._tables, LiarTables)
        self._turn += 1
        lie = self.victim if self._turn % 2 else LIES[self._turn // 2 % len(LIES)]
        place = host_bytes(lie) + struct.pack("!H", VICTIM_PORT + self._turn % 4)
        packet = self._tables.lanes[handle].seal(bytes((Kind.BOUND,)) + nonce + AGAIN + place, now)
        client = self._by_handle.get(handle)
        if client is not None and packet is not None:
            self._outbox.append((packet, client.address))


CORES = {
    "flood": Flood,
    "duplicate": Duplicate,
    "oversized": Oversized,
    "substitute": Substitute,
    "middle": Middle,
    "liar": Liar,
}
TABLES = {"liar": LiarTables}

if __name__ == "__main__":
    behaviour, _, Liar.victim = sys.argv.pop(1).partition("=")
    vars(server).update(RelayCore=CORES[behaviour], ForwarderTables=TABLES.get(behaviour, ForwarderTables))
    sys.exit(main())

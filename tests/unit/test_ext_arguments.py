"""Every wrong argument to Engine, Forwarder and SendKeys is refused by an exception and changes nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shadowmesh._ext.engine import Engine, SendKeys
from shadowmesh._ext.forward import Forwarder
from tests.unit.ext_harness import BROADCAST, mac, material, raw_sockaddr, udp_socket, wire_id

Call = Callable[[Any], object]


class Refused:
    """Engine and forwarder on the same sockets, not started, with one peer, client and session."""

    def __init__(self) -> None:
        self.udp = udp_socket()
        self.here = raw_sockaddr(self.udp)
        self.tap, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.event_fd = os.eventfd(0)
        fds = self.udp.fileno(), self.tap.fileno(), self.event_fd
        self.engine = Engine(*fds, mac(1))
        self.forwarder = Forwarder(self.udp.fileno(), self.event_fd)
        self.engine.add_peer(1, mac(2))
        self.engine.install_receive(10, 1, [wire_id(1), wire_id(2)], material(1))
        self.engine.install_control(wire_id(3))
        self.keys = SendKeys(material(2))
        self.engine.set_lane(1, self.keys, 0, wire_id(9))
        self.forwarder.add_client(1, self.here)
        self.forwarder.install_receive(1, [wire_id(1)], material(1))
        self.forwarder.install_control(wire_id(3))

    def close(self) -> None:
        self.engine.stop()
        self.forwarder.stop()
        for sock in (self.udp, self.tap, self.far):
            sock.close()
        os.close(self.event_fd)


@pytest.fixture
def on() -> Iterator[Refused]:
    refused = Refused()
    yield refused
    refused.close()


VALUE_ERRORS: dict[str, Call] = {
    "engine: our MAC is a group": lambda on: Engine(on.udp.fileno(), on.tap.fileno(), on.event_fd, BROADCAST),
    "engine: MAC too short": lambda on: Engine(on.udp.fileno(), on.tap.fileno(), on.event_fd, b"12345"),
    "engine: closed descriptor": lambda on: Engine(on.udp.fileno(), 9999, on.event_fd, mac(1)),
    "engine: negative descriptor": lambda on: Engine(-1, on.tap.fileno(), on.event_fd, mac(1)),
    "engine: no socket": lambda on: Engine(on.event_fd, on.tap.fileno(), on.event_fd, mac(1)),
    "engine: no IP socket": lambda on: Engine(on.tap.fileno(), on.tap.fileno(), on.event_fd, mac(1)),
    "add_peer: 0": lambda on: on.engine.add_peer(0, mac(3)),
    "add_peer: too large": lambda on: on.engine.add_peer(4096, mac(3)),
    "add_peer: negative": lambda on: on.engine.add_peer(-1, mac(3)),
    "add_peer: huge": lambda on: on.engine.add_peer(2**80, mac(3)),
    "add_peer: twice": lambda on: on.engine.add_peer(1, mac(3)),
    "add_peer: MAC twice": lambda on: on.engine.add_peer(2, mac(2)),
    "add_peer: our MAC": lambda on: on.engine.add_peer(2, mac(1)),
    "add_peer: group MAC": lambda on: on.engine.add_peer(2, BROADCAST),
    "add_peer: MAC too long": lambda on: on.engine.add_peer(2, bytes(7)),
    "set_lane: same lane twice": lambda on: on.engine.set_lane(1, on.keys, 0, wire_id(9)),
    "set_lane: lane too large": lambda on: on.engine.set_lane(1, on.keys, 64, wire_id(9)),
    "set_lane: lane negative": lambda on: on.engine.set_lane(1, on.keys, -1, wire_id(9)),
    "set_lane: receiver id": lambda on: on.engine.set_lane(1, on.keys, 1, b"short"),
    "set_lane: first number": lambda on: on.engine.set_lane(1, on.keys, 1, wire_id(9), first_number=2**32),
    "set_endpoint: empty": lambda on: on.engine.set_endpoint(1, b"", b""),
    "set_endpoint: other family's size": lambda on: on.engine.set_endpoint(1, on.here[:16], b""),
    "set_endpoint: wrong family": lambda on: on.engine.set_endpoint(1, b"\x02\x00" + on.here[2:], b""),
    "set_endpoint: port 0": lambda on: on.engine.set_endpoint(1, on.here[:2] + b"\0\0" + on.here[4:], b""),
    "set_endpoint: channel": lambda on: on.engine.set_endpoint(1, on.here, b"1234567"),
    "set_endpoint: budget too small": lambda on: on.engine.set_endpoint(1, on.here, b"", budget=999),
    "set_endpoint: budget too large": lambda on: on.engine.set_endpoint(1, on.here, b"", budget=65508),
    "set_endpoint: budget negative": lambda on: on.engine.set_endpoint(1, on.here, b"", budget=-1),
    "install_receive: session twice": lambda on: on.engine.install_receive(10, 1, [wire_id(5)], material(3)),
    "install_receive: negative session": lambda on: on.engine.install_receive(
        -1, 1, [wire_id(5)], material(3)
    ),
    "install_receive: id taken by a lane": lambda on: on.engine.install_receive(
        11, 1, [wire_id(5), wire_id(2)], material(3)
    ),
    "install_receive: id taken": lambda on: on.engine.install_receive(11, 1, [wire_id(3)], material(3)),
    "install_receive: same id twice": lambda on: on.engine.install_receive(
        11, 1, [wire_id(5)] * 2, material(3)
    ),
    "install_receive: no ids": lambda on: on.engine.install_receive(11, 1, [], material(3)),
    "install_receive: too many ids": lambda on: on.engine.install_receive(
        11, 1, [wire_id(100 + i) for i in range(65)], material(3)
    ),
    "install_receive: id size": lambda on: on.engine.install_receive(11, 1, [b"id"], material(3)),
    "install_receive: material": lambda on: on.engine.install_receive(11, 1, [wire_id(5)], bytes(75)),
    "install_channel: taken": lambda on: on.engine.install_channel(wire_id(3)),
    "install_control: taken": lambda on: on.engine.install_control(wire_id(1)),
    "install_control: size": lambda on: on.engine.install_control(b""),
    "remove: a lane": lambda on: on.engine.remove(wire_id(1)),
    "remove: size": lambda on: on.engine.remove(b"123456789"),
    "allow_source: size": lambda on: on.engine.allow_source(b"1" * 27),
    "forbid_source: size": lambda on: on.engine.forbid_source(b""),
    "forwarder: closed descriptor": lambda on: Forwarder(9999, on.event_fd),
    "forwarder: no socket": lambda on: Forwarder(on.event_fd, on.event_fd),
    "add_client: twice": lambda on: on.forwarder.add_client(1, on.here),
    "add_client: negative": lambda on: on.forwarder.add_client(-1, on.here),
    "add_client: address": lambda on: on.forwarder.add_client(2, b""),
    "forwarder.set_lane: lane": lambda on: on.forwarder.set_lane(1, on.keys, 0, wire_id(9)),
    "forwarder.install_receive: id taken": lambda on: on.forwarder.install_receive(
        1, [wire_id(3)], material(1)
    ),
    "forwarder.install_channel: id": lambda on: on.forwarder.install_channel(b"", 1, 1, wire_id(8)),
    "forwarder.install_channel: to id": lambda on: on.forwarder.install_channel(wire_id(8), 1, 1, b""),
    "forwarder.install_channel: taken": lambda on: on.forwarder.install_channel(wire_id(3), 1, 1, wire_id(8)),
    "forwarder.remove: a lane": lambda on: on.forwarder.remove(wire_id(1)),
    "SendKeys: size": lambda on: SendKeys(bytes(77)),
    "SendKeys: expired before the clock began": lambda on: SendKeys(material(1), expires_at=0.0),
    "SendKeys: negative expiry": lambda on: SendKeys(material(1), expires_at=-1),
    "SendKeys: no number as expiry": lambda on: SendKeys(material(1), expires_at=float("nan")),
    "SendKeys: endless expiry": lambda on: SendKeys(material(1), expires_at=float("inf")),
}

KEY_ERRORS: dict[str, Call] = {
    "remove_peer": lambda on: on.engine.remove_peer(2),
    "set_lane": lambda on: on.engine.set_lane(2, on.keys, 1, wire_id(9)),
    "set_endpoint": lambda on: on.engine.set_endpoint(2, on.here, b""),
    "clear_route": lambda on: on.engine.clear_route(2),
    "install_receive": lambda on: on.engine.install_receive(11, 2, [wire_id(5)], material(3)),
    "retire_receive": lambda on: on.engine.retire_receive(11),
    "remove": lambda on: on.engine.remove(wire_id(77)),
    "forbid_source": lambda on: on.engine.forbid_source(on.here),
    "peer_counters": lambda on: on.engine.peer_counters(2),
    "remove_client": lambda on: on.forwarder.remove_client(2),
    "forwarder.set_lane": lambda on: on.forwarder.set_lane(2, on.keys, 1, wire_id(9)),
    "forwarder.install_receive": lambda on: on.forwarder.install_receive(2, [wire_id(5)], material(3)),
    "forwarder.retire_receive": lambda on: on.forwarder.retire_receive(2),
    "forwarder.install_channel: from": lambda on: on.forwarder.install_channel(wire_id(8), 2, 1, wire_id(8)),
    "forwarder.install_channel: to": lambda on: on.forwarder.install_channel(wire_id(8), 1, 2, wire_id(8)),
    "forwarder.remove": lambda on: on.forwarder.remove(wire_id(77)),
    "endpoint": lambda on: on.forwarder.endpoint(2),
    "client_counters": lambda on: on.forwarder.client_counters(2),
}

TYPE_ERRORS: dict[str, Call] = {
    "engine: None for a descriptor": lambda on: Engine(None, on.tap.fileno(), on.event_fd, mac(1)),  # type: ignore[arg-type]
    "engine: None for the MAC": lambda on: Engine(on.udp.fileno(), on.tap.fileno(), on.event_fd, None),  # type: ignore[arg-type]
    "add_peer: None": lambda on: on.engine.add_peer(None, mac(3)),
    "add_peer: no MAC": lambda on: on.engine.add_peer(2, None),
    "add_peer: text": lambda on: on.engine.add_peer(2, "020000"),
    "set_lane: no keys": lambda on: on.engine.set_lane(1, None, 1, wire_id(9)),
    "set_lane: bytes for keys": lambda on: on.engine.set_lane(1, material(1), 1, wire_id(9)),
    "set_endpoint: None": lambda on: on.engine.set_endpoint(1, None, b""),
    "set_endpoint: no channel": lambda on: on.engine.set_endpoint(1, on.here, None),
    "install_receive: no ids": lambda on: on.engine.install_receive(11, 1, None, material(3)),
    "install_receive: None as id": lambda on: on.engine.install_receive(11, 1, [None], material(3)),
    "install_receive: no material": lambda on: on.engine.install_receive(11, 1, [wire_id(5)], None),
    "retire_receive: None": lambda on: on.engine.retire_receive(None),
    "install_channel: None": lambda on: on.engine.install_channel(None),
    "remove: None": lambda on: on.engine.remove(None),
    "allow_source: None": lambda on: on.engine.allow_source(None),
    "add_client: None": lambda on: on.forwarder.add_client(2, None),
    "SendKeys: None": lambda on: SendKeys(None),  # type: ignore[arg-type]
    "SendKeys: text as expiry": lambda on: SendKeys(material(1), expires_at="1"),  # type: ignore[arg-type]
    "SendKeys: bool as expiry": lambda on: SendKeys(material(1), expires_at=True),
}


@pytest.mark.parametrize("call", VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_wrong_values(on: Refused, call: Call) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        call(on)
    check_unchanged(on)


@pytest.mark.parametrize("call", KEY_ERRORS.values(), ids=KEY_ERRORS.keys())
def test_unknown_things(on: Refused, call: Call) -> None:
    with pytest.raises(KeyError, match="not"):
        call(on)
    check_unchanged(on)


@pytest.mark.parametrize("call", TYPE_ERRORS.values(), ids=TYPE_ERRORS.keys())
def test_wrong_types(on: Refused, call: Call) -> None:
    with pytest.raises(TypeError):
        call(on)
    check_unchanged(on)


def check_unchanged(on: Refused) -> None:
    """Had the refused call left anything behind, one of these would be refused now."""
    on.engine.add_peer(2, mac(3))
    on.engine.set_lane(1, on.keys, 1, wire_id(9))
    ids = [wire_id(5), wire_id(6), *(wire_id(100 + i) for i in range(62))]
    on.engine.install_receive(11, 1, ids, material(3))
    on.engine.set_endpoint(1, on.here, b"channel!")
    on.engine.remove(wire_id(3))
    on.engine.install_channel(wire_id(3))
    on.engine.retire_receive(10)
    on.engine.install_control(wire_id(1))
    on.forwarder.add_client(2, on.here)
    on.forwarder.install_channel(wire_id(8), 1, 2, wire_id(8))
    on.forwarder.set_lane(1, on.keys, 2, wire_id(9))


def test_a_refused_engine_closes_nothing_of_others() -> None:
    """The members of a half-made object are zero, and 0 is a descriptor."""
    before = os.fstat(0), sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(TypeError):
            Engine(0, 0, 0, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="udp_fd"):
            Engine(9999, 0, 0, mac(1))
        with pytest.raises(ValueError, match="udp_fd"):
            Forwarder(9999, 0)
    assert (os.fstat(0), sorted(os.listdir("/proc/self/fd"))) == before


def test_wiped_keys_make_no_lanes(on: Refused) -> None:
    on.keys.wipe()
    with pytest.raises(ValueError, match="wiped"):
        on.engine.set_lane(1, on.keys, 1, wire_id(9))


def test_a_lane_is_refused_across_engine_and_forwarder(on: Refused) -> None:
    on.forwarder.set_lane(1, on.keys, 5, wire_id(9))
    with pytest.raises(ValueError, match="lane 5"):
        on.engine.set_lane(1, on.keys, 5, wire_id(9))


def test_iterators_and_views_are_taken(on: Refused) -> None:
    on.engine.install_receive(12, 1, (bytearray(wire_id(200 + i)) for i in range(3)), memoryview(material(3)))
    on.engine.retire_receive(12)


def test_ids_that_change_tables_while_they_are_read(on: Refused) -> None:
    def ids() -> Iterator[bytes]:
        on.engine.remove_peer(1)
        yield wire_id(5)

    with pytest.raises(KeyError):
        on.engine.install_receive(12, 1, ids(), material(3))

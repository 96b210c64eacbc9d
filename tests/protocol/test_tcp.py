"""Relay legs over TCP, on virtual time: when they begin and end, and what a change costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Literal

import pytest
from msgspec.structs import replace

from shadowmesh.config import ClientConfig
from shadowmesh.core.leg import DOUBT, LINGER, PROBE_LATE
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.core.shared import DialCarrier, HangUpCarrier
from shadowmesh.crypto.retry import Admit, Drop
from shadowmesh.path.nat import Mapping
from shadowmesh.session.link import Link
from shadowmesh.session.machine import Opening
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.units import LANES, Address
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay

from .mesh import IDENTITIES, RELAY_IDENTITY, Mesh

FOUND_WITHIN = 3.0
"""Seconds until a client whose UDP is blocked is connected: the project's requirement."""
FLOWS_WITHIN = 5.0
NEAR = "127.0.0.1"
ORIGIN = Address("203.0.113.9", 50000)
"""Where the relay's TCP connections come from."""


class End:
    """One end of a tunnel; what it receives leaves at the other."""

    def __init__(self, mesh: TcpMesh, address: Address) -> None:
        self.address = address
        self.other: End | None = None
        self.goes_to: Address | None = None
        self._mesh = mesh
        self._outbox: list[tuple[bytes, Address]] = []

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.goes_to = source
        other = self.other
        if other is not None and other.goes_to is not None:
            other._outbox.append((data, other.goes_to))
            self._mesh.network.flush(other)

    def deadline(self) -> None:
        return None

    def expire(self, now: float) -> None:
        """It has no timers."""

    def transmit(self) -> list[tuple[bytes, Address]]:
        outbox, self._outbox = self._outbox, []
        return outbox


class TcpMesh(Mesh):
    """A mesh whose node 0 may use TCP; a network where UDP between it and the relay can be blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = False
        self.dial_takes = 0.1
        self.reachable = True
        """Whether TCP leads to the relay."""
        self.dials: list[float] = []
        self.hang_ups: list[float] = []
        self.tunnel: tuple[End, End] | None = None
        self.late_dial = 0
        self.network.filter = self._passes
        self._port = 40000

    def _passes(self, source: Address, target: Address, data: bytes) -> bool:
        me = Address("198.51.100.1", 5000)
        tunnelled = NEAR in (source.host, target.host)
        return not (self.blocked and me in (source, target)) or tunnelled

    def config(self, number: int, *arguments: object, **more: object) -> ClientConfig:
        config = super().config(number, *arguments, **more)  # type: ignore[arg-type]
        if number:
            return config
        relays = tuple(replace(relay, tcp=Address("relay.test", 443)) for relay in config.relays)
        return replace(config, relays=relays)

    def start_tcp_relay(self) -> MemoryRelay:
        relay = self.start_relay()
        relay.core._origin = self.origin
        return relay

    def origin(self, source: Address) -> Address:
        return ORIGIN if source.host == NEAR else source

    def start_tcp_client(self, direct: Literal["auto", "never"] = "never") -> MemoryClient:
        client = self.start_client(0, (1,), direct=direct)
        client.carry = self.carry
        return client

    def carry(self, event: DialCarrier | HangUpCarrier) -> None:
        now = self.network.now
        if isinstance(event, HangUpCarrier):
            self.hang_ups.append(now)
            self.late_dial += 1
            self.cut()
            return
        self.dials.append(now)
        number = self.late_dial
        self.network.after(self.dial_takes, lambda: self._answer(number))

    def _answer(self, number: int) -> None:
        if number != self.late_dial:
            return  # nobody waits any more
        client = self.clients[0]
        if not self.reachable:
            client.core.handle_carrier(0, None, "refused", self.network.now)
        else:
            self._port += 2
            near, far = (End(self, Address(NEAR, self._port + side)) for side in (0, 1))
            near.other, far.other = far, near
            near.goes_to, far.goes_to = client.address, self.relay_address
            self.tunnel = near, far
            for end in self.tunnel:
                self.network.attach(end)
            client.core.handle_carrier(0, near.address, "", self.network.now)
        client._serve(self.network.now)
        self.network.flush(client)

    def cut(self) -> None:
        """Take the tunnel away without a word."""
        for end in self.tunnel or ():
            self.network.detach(end)
        self.tunnel = None

    def lose(self) -> None:
        """The TCP connection breaks, and the client notices."""
        self.cut()
        client = self.clients[0]
        client.core.handle_carrier(0, None, "the connection broke", self.network.now)
        client._serve(self.network.now)
        self.network.flush(client)

    @property
    def leg(self) -> RelayClient:
        return self.clients[0].core.relays[0]

    def is_up(self) -> bool:
        return self.leg.state is RelayState.CONNECTED

    def over(self, tcp: bool) -> Callable[[], bool]:
        return lambda: self.is_up() and self.leg.leg.over_tcp is tcp


@pytest.fixture
def mesh() -> TcpMesh:
    return TcpMesh()


def stream(mesh: TcpMesh, seconds: float) -> list[float]:
    """Send a frame from 1 to 0 and one back every 20 ms: the begin, when 0 got one each time, the end."""
    arrived = [mesh.network.now]
    zero, one = mesh.clients[0], mesh.clients[1]
    end = mesh.network.now + seconds
    while mesh.network.now < end:
        for client, other in ((zero, one), (one, zero)):
            client.send_frame(other.mac + client.mac + b"\x08\x00 frame", mesh.network.now)
            mesh.network.flush(client)
        before = len(zero.frames)
        mesh.network.run_for(0.02)
        arrived += [mesh.network.now] * (len(zero.frames) - before)
    return [*arrived, mesh.network.now]


def longest_gap(arrived: list[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(arrived))


def meet(mesh: TcpMesh) -> None:
    mesh.start_tcp_relay()
    mesh.start_client(1, (0,))
    mesh.network.run_for(1.0)
    mesh.start_tcp_client()
    mesh.network.run_until(lambda: mesh.peer(0, 1).session is not None, 5.0)
    mesh.network.run_for(1.0)


def test_udp_blocked_from_the_start(mesh: TcpMesh) -> None:
    mesh.blocked = True
    mesh.start_tcp_relay()
    mesh.start_client(1, (0,))
    mesh.network.run_for(1.0)
    begun = mesh.network.now
    mesh.start_tcp_client()
    mesh.network.run_until(lambda: mesh.peer(0, 1).session is not None, FOUND_WITHIN)
    assert mesh.dials == pytest.approx([begun + DOUBT], abs=0.01)
    assert mesh.leg.leg.over_tcp
    assert mesh.leg.way == "relay relay.test:4433 over TCP"
    assert longest_gap(stream(mesh, 2.0)) < 0.1
    assert any(f"joined from {ORIGIN} over TCP" in line for line in mesh.relay.log)  # type: ignore[union-attr]


def test_udp_that_works_needs_no_tcp(mesh: TcpMesh) -> None:
    meet(mesh)
    mesh.network.run_for(100.0)
    assert mesh.dials == []
    assert mesh.over(tcp=False)()


def test_nothing_is_learned_of_addresses_over_tcp(mesh: TcpMesh) -> None:
    """What the relay sees there is a socket of its own: no candidate, and nothing about a NAT."""
    mesh.blocked = True
    meet(mesh)
    core = mesh.clients[0].core
    assert mesh.leg.binding is not None
    assert mesh.leg.binding.observed is not None
    assert mesh.leg.observed is None
    assert mesh.leg.observations() == []
    assert core.nat.mapping is Mapping.UNKNOWN
    assert [one.address for one in core.network.candidates] == [mesh.clients[0].address]


def test_udp_blocked_under_traffic_and_open_again(mesh: TcpMesh) -> None:
    """The session lives through both changes; on the way back not even a frame is lost."""
    meet(mesh)
    session = mesh.peer(0, 1).session
    relay_session = mesh.leg.handle
    stream(mesh, 1.0)
    mesh.blocked = True
    assert longest_gap(stream(mesh, 10.0)) < FLOWS_WITHIN
    assert mesh.over(tcp=True)()
    mesh.blocked = False
    arrived = stream(mesh, PROBE_LATE)
    assert mesh.over(tcp=False)()
    assert longest_gap(arrived) < 0.1
    assert mesh.peer(0, 1).session is session
    assert mesh.leg.handle == relay_session
    mesh.network.run_for(LINGER + 1)
    assert mesh.tunnel is None


def test_a_direct_path_and_the_leg_end_at_once(mesh: TcpMesh) -> None:
    """The leg was idle, so nobody would have asked the relay for 25 s."""
    mesh.start_tcp_relay()
    mesh.start_client(1, (0,), direct="auto")
    mesh.network.run_for(1.0)
    mesh.start_tcp_client(direct="auto")
    mesh.network.run_until(lambda: mesh.peer(0, 1).routing.paths.direct is not None, 10.0)
    stream(mesh, 70.3)
    mesh.blocked = True
    assert longest_gap(stream(mesh, 10.0)) < 2.2
    assert mesh.over(tcp=True)()
    assert mesh.peer(0, 1).routing.paths.direct is None


def test_frames_take_a_fresh_lane_and_a_fresh_budget_on_each_way(mesh: TcpMesh) -> None:
    """What TCP carried says nothing about the datagrams that UDP carries."""
    meet(mesh)
    before = mesh.peer(0, 1).routing.paths.relay
    stream(mesh, 1.0)
    mesh.blocked = True
    stream(mesh, 6.0)
    after = mesh.peer(0, 1).routing.paths.relay
    assert before is not None
    assert after is not None
    assert after is not before
    assert after.name.endswith("over TCP")


def test_a_false_alarm_changes_nothing(mesh: TcpMesh) -> None:
    """UDP answers again before TCP is there: the leg stays, and the connection is closed again."""
    meet(mesh)
    mesh.dial_takes = 1.5
    stream(mesh, 1.0)
    mesh.blocked = True
    stream(mesh, 2.2)
    mesh.blocked = False
    stream(mesh, 3.0)
    assert len(mesh.dials) == 1
    assert mesh.over(tcp=False)()
    before = len(mesh.hang_ups)
    stream(mesh, LINGER + 1)
    assert (before, len(mesh.hang_ups)) == (0, 1)
    assert mesh.over(tcp=False)()


def test_a_connection_that_breaks_is_replaced_under_the_session(mesh: TcpMesh) -> None:
    mesh.blocked = True
    meet(mesh)
    session, relay_session = mesh.peer(0, 1).session, mesh.leg.handle
    stream(mesh, 1.0)
    mesh.lose()
    assert longest_gap(stream(mesh, 6.0)) < 2.0
    assert mesh.over(tcp=True)()
    assert mesh.peer(0, 1).session is session
    assert mesh.leg.handle == relay_session


def test_a_connection_that_falls_silent_is_replaced_under_the_session(mesh: TcpMesh) -> None:
    """No reset comes: some middlebox has forgotten it."""
    mesh.blocked = True
    meet(mesh)
    session, relay_session = mesh.peer(0, 1).session, mesh.leg.handle
    stream(mesh, 1.0)
    mesh.cut()
    assert longest_gap(stream(mesh, 12.0)) < 7.0
    assert mesh.over(tcp=True)()
    assert (mesh.peer(0, 1).session, mesh.leg.handle) == (session, relay_session)


def test_a_relay_that_began_anew_is_found_over_tcp(mesh: TcpMesh) -> None:
    mesh.blocked = True
    meet(mesh)
    session = mesh.peer(0, 1).session
    stream(mesh, 1.0)
    assert mesh.relay is not None
    mesh.network.detach(mesh.relay)
    mesh.reachable = False
    mesh.lose()
    mesh.network.run_for(1.0)
    mesh.start_tcp_relay()
    mesh.reachable = True
    back = mesh.network.now
    arrived = [at for at in stream(mesh, 8.0) if at > back]
    assert arrived[0] - back < FLOWS_WITHIN
    assert mesh.over(tcp=True)()
    assert mesh.peer(0, 1).session is session


def test_udp_is_tried_less_and_less_while_it_stays_blocked(mesh: TcpMesh) -> None:
    mesh.blocked = True
    meet(mesh)
    mesh.network.run_for(300.0)
    start = len(mesh.network.sent)
    mesh.network.run_for(600.0)
    to_relay = [
        sent
        for sent in mesh.network.sent[start:]
        if sent[1] == mesh.clients[0].address and sent[2] == mesh.relay_address
    ]
    assert 10 <= len(to_relay) <= 4 * 600 / (PROBE_LATE / 2)
    assert mesh.over(tcp=True)()


def test_another_network_is_a_reason_to_try_udp_at_once(mesh: TcpMesh) -> None:
    mesh.blocked = True
    meet(mesh)
    mesh.network.run_for(300.0)
    mesh.blocked = False
    client = mesh.clients[0]
    client.core.handle_network([client.address], mesh.network.now)
    mesh.network.run_until(mesh.over(tcp=False), 6.0)


def test_a_name_that_does_not_resolve(mesh: TcpMesh) -> None:
    """Perhaps only the proxy can look it up. Once it is known, UDP is tried."""
    names, mesh.names = mesh.names, {}
    mesh.start_tcp_relay()
    mesh.start_tcp_client()
    mesh.network.run_until(mesh.over(tcp=True), FOUND_WITHIN)
    mesh.network.run_for(10.0)
    mesh.names = names
    mesh.network.run_until(mesh.over(tcp=False), PROBE_LATE + 5)


def test_neither_works(mesh: TcpMesh) -> None:
    mesh.blocked, mesh.reachable = True, False
    mesh.start_tcp_relay()
    mesh.start_tcp_client()
    mesh.network.run_until(lambda: mesh.leg.last_error is not None, 6.0)
    assert mesh.leg.last_error == "nothing answered; over TCP: refused"
    mesh.reachable = True
    mesh.network.run_until(mesh.over(tcp=True), 6.0)
    assert mesh.leg.last_error is None


def test_a_slow_proxy_is_waited_for(mesh: TcpMesh) -> None:
    mesh.blocked, mesh.dial_takes = True, 5.0
    mesh.start_tcp_relay()
    mesh.start_tcp_client()
    mesh.network.run_until(mesh.over(tcp=True), 7.0)
    assert len(mesh.dials) == 1


def test_a_flapping_udp_is_trusted_less_each_time(mesh: TcpMesh) -> None:
    """It answers BINDs and dies as soon as it is used: the pauses grow all the same."""
    mesh.blocked = True
    meet(mesh)
    returns = []
    for _ in range(5):
        mesh.blocked = False
        mesh.network.run_until(mesh.over(tcp=False), 2 * PROBE_LATE)
        left = mesh.network.now
        mesh.blocked = True
        stream(mesh, 6.0)
        assert mesh.over(tcp=True)()
        returns.append(left)
    pauses = [later - earlier for earlier, later in pairwise(returns)]
    mesh.blocked = False
    before = mesh.network.now
    mesh.network.run_until(mesh.over(tcp=False), 2 * PROBE_LATE)
    assert mesh.network.now - before > PROBE_LATE / 2 - 10
    assert pauses[-1] > pauses[0]


def test_the_old_way_does_not_pull_the_leg_back(mesh: TcpMesh) -> None:
    """A challenge for the place that is being left must not be echoed."""
    mesh.blocked = True
    meet(mesh)
    stream(mesh, 1.0)
    mesh.blocked = False
    mesh.network.run_until(mesh.over(tcp=False), 2 * PROBE_LATE)
    assert mesh.relay is not None
    stream(mesh, 5.0)
    (client,) = [
        one for one in mesh.relay.core.clients.values() if one.node == mesh.clients[0].identity.node_id
    ]
    assert client.address == mesh.clients[0].address
    assert mesh.over(tcp=False)()


def test_without_tcp_in_the_configuration_nobody_dials(mesh: TcpMesh) -> None:
    mesh.start_tcp_relay()
    mesh.network.filter = lambda source, target, data: False
    client = mesh.start_client(1, (0,))
    client.carry = mesh.carry
    mesh.network.run_for(20.0)
    assert mesh.dials == []
    assert client.core.relays[0].last_error == "nothing answered"


def initial_of(mesh: TcpMesh, number: int) -> bytes:
    """The first datagram of a handshake that nobody has seen yet."""
    link = Link.initiate(
        IDENTITIES[2],
        RELAY_IDENTITY.node_id,
        Opening(
            nonce=bytes(32),
            instance=bytes(8),
            lanes=[number.to_bytes(8, "big")] * LANES,
            session=bytes(16),
            observed=None,
        ),
        mesh.network.now,
    )
    return link.transmit(mesh.network.now)[0]


def test_limits_count_who_is_behind_the_tunnels(mesh: TcpMesh) -> None:
    """One machine with many connections gets as many handshakes as one with many ports."""
    relay = mesh.start_tcp_relay()
    core, now = relay.core, mesh.network.now
    core._gate = SimpleNamespace(check=lambda data, source, now: Admit(data[6:14], None))  # type: ignore[assignment]
    for port in range(Limits().handshakes_per_host + 3):
        core.handle_datagram(initial_of(mesh, port), Address(NEAR, 30000 + port), now)
    assert core.drops["too_many_handshakes"] == 3
    mesh.origin = lambda source: Address(f"203.0.113.{source.port % 250}", 1)  # type: ignore[method-assign]
    core._origin = mesh.origin
    core.handle_datagram(initial_of(mesh, 99), Address(NEAR, 30099), now)
    assert core.drops["too_many_handshakes"] == 3


def test_a_token_serves_one_origin(mesh: TcpMesh) -> None:
    """Addresses on the relay's own machine come and go; the address of the connection counts."""
    relay = mesh.start_tcp_relay()
    seen: list[Address] = []
    core = relay.core

    def check(data: bytes, source: Address, now: float) -> Drop:
        seen.append(source)
        return Drop("token")

    core._gate = SimpleNamespace(check=check)  # type: ignore[assignment]
    core.handle_datagram(initial_of(mesh, 1), Address(NEAR, 30001), mesh.network.now)
    core.handle_datagram(initial_of(mesh, 2), Address("198.51.100.7", 30001), mesh.network.now)
    assert seen == [ORIGIN, Address("198.51.100.7", 30001)]

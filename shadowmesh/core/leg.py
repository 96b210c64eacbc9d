"""How the datagrams of one relay session travel: by UDP, or over TCP while UDP is blocked.

The session does not notice: what moves is only the address that stands for the relay.  Over TCP that is a
socket on this machine, the near end of a tunnel (docs/protocol.md, 7.8).  A leg moves by a
BIND from the new place, which the relay answers with a challenge as after any change of address: so both
directions of the new way are proved before anything is lost from the old one.

    UDP is silent for DOUBT -> the carrier is dialled -> a BIND over it is answered -> the leg moves
    every PROBE seconds and more: a BIND by UDP -> answered -> the leg moves back

Decides about no session: `relays.py` does.  Sealing and sending is the caller's too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from shadowmesh.config import RelayPeer
from shadowmesh.core.shared import DialCarrier, HangUpCarrier, ResolveRelay, Shared
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.binding import Binding
from shadowmesh.units import Address

DOUBT = 0.75
"""Seconds that UDP may stay silent when we connect: more than a round trip to the other side of the world
and the first of QUIC's repetitions, and little enough to be connected within 3."""
PROBE, PROBE_LATE = 4.0, 60.0
"""Seconds between tries of UDP while a leg runs over TCP: at first, and at most."""
LINGER = 10.0
"""Seconds that the carrier is kept after a leg moved back: for what is in it, and if UDP fails again."""
STABLE = 120.0
"""Seconds by UDP after which its failures are forgotten."""


@dataclass(frozen=True)
class _Move:
    """A change of way that the relay has not confirmed yet."""

    target: Address
    binding: Binding


class Leg:
    """The ways to one relay.  Call `poll` at or after `deadline`.

    :param index: of the relay in the configuration.
    """

    def __init__(self, index: int, config: RelayPeer, shared: Shared) -> None:
        self.address: Address | None = None
        """Where datagrams to the relay go; None while it is not connected to."""
        self.binding: Binding | None = None
        """Of the session, on the way in use."""
        self.udp: Address | None = None
        """The relay's own address, if its name was resolved."""
        self.remote: Address | None = None
        """Where the connection over TCP leads first: to the relay, or a proxy."""
        self.forgotten = False
        """The relay does not know the session any more: it began anew."""
        self.problem = ""
        """What became of the last try over TCP, if that failed."""
        self._index = index
        self._config = config
        self._tcp = config.tcp is not None
        self._shared = shared
        self._carrier: Address | None = None
        self._dialling = False
        self._suspect = False
        """UDP was silent when it was tried last."""
        self._numbers = itertools.count(1)
        self._move: _Move | None = None
        self._allowed: set[Address] = set()
        self._redial = Backoff(shared.random)
        self._probes = Backoff(shared.random, PROBE, PROBE_LATE, PROBE_LATE)
        self._dial_at: float | None = None
        self._hang_up_at: float | None = None
        self._probe_at: float | None = None
        self._came_back_at = float("-inf")

    # Getters.

    @property
    def over_tcp(self) -> bool:
        """Whether it runs over TCP now."""
        return self.address is not None and self.address != self.udp

    @property
    def carrier(self) -> Address | None:
        """Where the tunnel begins, if one stands."""
        return self._carrier

    @property
    def hopeful(self) -> bool:
        """Whether TCP is being tried, or about to be for the first time."""
        return self._dialling or (self._dial_at is not None and not self.problem)

    @property
    def dialling(self) -> bool:
        """Whether a tunnel has been asked for and does not stand."""
        return self._dialling

    @property
    def deadline(self) -> float | None:
        """When `poll` wants to be called."""
        times = [self._dial_at, self._hang_up_at, self._probe_at]
        times += [self.binding.deadline if self.binding is not None else None]
        times += [self._move.binding.deadline if self._move is not None else None]
        return min((time for time in times if time is not None), default=None)

    @property
    def failed(self) -> bool:
        """Whether the session is lost: no way is left on which the relay answers."""
        return self.forgotten or (self.binding is not None and self.binding.failed)

    @property
    def underlay(self) -> list[Address]:
        """Where packets for the relay really go just now."""
        ways = (self.udp if self.address is not None else None, self.remote)
        return [way for way in ways if way is not None]

    def knows(self, source: Address) -> bool:
        """Whether datagrams from there may be the relay's."""
        return source in self._allowed

    # The life of a session.

    def prepare(self, now: float) -> None:
        """The relay's name is being looked up: who can't have that by UDP either shall not wait for it."""
        self.problem, self.udp = "", None
        if self._tcp:
            self._dial_at = now if self._suspect else now + DOUBT

    def connect(self, address: Address, now: float) -> None:
        """A session is about to be set up by UDP."""
        self.udp = address
        self._use(address)
        if self._tcp and self._dial_at is not None and not self._suspect:
            self._dial_at = now + DOUBT

    def connect_over_tcp(self) -> None:
        """The same over the tunnel that stands."""
        assert self._carrier is not None
        self._use(self._carrier)
        self._suspect = True

    def handle_resolved(self, addresses: Sequence[Address], now: float) -> None:
        """The relay's name is known after all, while its session runs over TCP."""
        if addresses and self.udp is None and self.over_tcp:
            self.udp = addresses[0]
            self._probe_at = now

    def handle_connected(self, now: float) -> None:
        """The session stands: bind."""
        self._numbers = itertools.count(1)
        self.binding = self._new_binding(self.over_tcp, now)
        self._redial.reset()
        self.problem = ""
        if self.over_tcp:
            self._plan_probe(now)
        else:
            self._settle_on_udp(now)

    def end(self, now: float) -> None:
        """The session is over, and with it whatever carried it."""
        self.binding = self._move = self.address = None
        self.forgotten = False
        self._probe_at = None
        self._hang_up(now)
        for address in self._allowed:
            self._shared.tables.forbid_source(address)
        self._allowed.clear()

    # What happens.

    def handle_carrier(
        self, address: Address | None, problem: str, now: float, remote: Address | None = None
    ) -> None:
        """The tunnel stands; or, with None, it is over, or was not to be had, for the reason `problem`."""
        lost, self._carrier, self.remote = self._carrier, address, remote
        self._dialling = False
        if address is not None:
            self._hang_up_at = None
            self._allow(address)
            self._check(now)
            return
        self.problem = problem
        if lost is not None:
            self._forbid(lost)
        if self._move is not None and self._move.target == lost:
            self._move = None
        if self.binding is None or self.binding.doubtful or self.over_tcp:
            self._dial_at = now + self._redial.next_delay(now)
        if lost is not None and self.address == lost:
            self._probe_at = now

    def handle_network_change(self, now: float) -> None:
        """Another network: UDP may pass there, and a connection of the old one is dead perhaps."""
        self._probes.reset()
        if self.over_tcp:
            self._probe_at = now

    def handle_bound_untrusted(self, payload: bytes, now: float) -> list[tuple[bytes, Address]]:
        """Take a BOUND; the BINDs that answer it, and where to. Raises BadPacket."""
        answers = []
        move = self._move
        if move is not None:
            echo = move.binding.handle_bound_untrusted(payload, now)
            if echo is not None:
                answers.append((echo, move.target))
            if move.binding.bound:
                self._finish(move, now)
                return []
        if self.binding is not None and self.address is not None:
            echo = self.binding.handle_bound_untrusted(payload, now)
            # While it moves, a challenge for the old place only says that the relay has moved already.
            if echo is not None and move is None:
                answers.append((echo, self.address))
        return answers

    def poll(self, now: float) -> list[tuple[bytes, Address]]:
        """BINDs to seal and send, and where to; the way may be another one afterwards."""
        if self._dial_at is not None and now >= self._dial_at:
            self._dial()
        if self._hang_up_at is not None and now >= self._hang_up_at:
            self._hang_up(now)
        if self._probe_at is not None and now >= self._probe_at:
            self._probe(now)
        binds = []
        if self.binding is not None and self.address is not None:
            payload = self.binding.poll(now)
            if payload is not None:
                binds.append((payload, self.address))
            self._check(now)
        if self._move is not None:
            binds += self._poll_move(self._move, now)
        return binds

    # Inside.

    def _check(self, now: float) -> None:
        """Look whether the way in use is in doubt, and prepare the other."""
        binding = self.binding
        if binding is None or not self._tcp:
            return
        if self.over_tcp:
            self._check_tcp(binding, now)
        elif not binding.doubtful:
            self._move = self._dial_at = None  # if it was an alarm, it was a false one
            if (self._carrier is not None or self._dialling) and self._hang_up_at is None:
                self._hang_up_at = now + LINGER
        elif self._carrier is not None and self._move is None:
            self._begin(self._carrier, now)
        elif self._carrier is None and self._dial_at is None:
            self._dial()

    def _check_tcp(self, binding: Binding, now: float) -> None:
        if self._carrier is not None and self.address != self._carrier:
            # A new connection stands in place of the lost one.  TCP loses nothing: silence is an answer.
            if self._move is None or self._move.target != self._carrier:
                self._begin(self._carrier, now)
            elif self._move.binding.doubtful:
                self.forgotten = True
        elif binding.silent and self._carrier is not None and not binding.failed:
            self._forbid(self._carrier)
            self._carrier = self.remote = None
            self._shared.events.append(HangUpCarrier(self._index))
            self._dial()
        if binding.doubtful and self._move is None and self._probe_at is not None:
            self._probe_at = now

    def _begin(self, target: Address, now: float) -> None:
        self._hang_up_at = None
        self._move = _Move(target, self._new_binding(target == self._carrier, now))

    def _new_binding(self, patient: bool, now: float) -> Binding:
        return Binding(self._shared.random, now, self._numbers, patient)

    def _poll_move(self, move: _Move, now: float) -> list[tuple[bytes, Address]]:
        payload = move.binding.poll(now)
        if payload is None:
            return []
        if not move.binding.failed:
            return [(payload, move.target)]
        self._move = None
        if move.target != self._carrier:
            self._forbid(move.target)
            self._plan_probe(now)
        return []

    def _finish(self, move: _Move, now: float) -> None:
        """The relay forwards to the new place."""
        self._move, self.binding = None, move.binding
        self.address = move.target
        if self.over_tcp:
            if now - self._came_back_at > STABLE:
                self._probes.reset()
            self._suspect = True
            self._plan_probe(now)
        else:
            self._came_back_at = now
            self._settle_on_udp(now)

    def _settle_on_udp(self, now: float) -> None:
        """UDP works: TCP is needed no more, but perhaps soon again."""
        self._suspect = False
        self._dial_at = self._probe_at = None
        if self._carrier is not None or self._dialling:
            self._hang_up_at = now + LINGER

    def _plan_probe(self, now: float) -> None:
        self._probe_at = now + self._probes.next_delay(now)

    def _probe(self, now: float) -> None:
        """Ask by UDP."""
        self._probe_at = None
        if self._move is not None or not self.over_tcp:
            return
        if self.udp is None:
            self._plan_probe(now)
            self._shared.events.append(ResolveRelay(self._index, self._config.host, self._config.port))
            return
        self._allow(self.udp)
        self._begin(self.udp, now)

    def _dial(self) -> None:
        self._dial_at = None
        if self._carrier is None and not self._dialling:
            self._dialling = True
            self._shared.events.append(DialCarrier(self._index))

    def _hang_up(self, now: float) -> None:
        self._dial_at = self._hang_up_at = None
        if self._carrier is not None and not self.over_tcp:
            self._forbid(self._carrier)
        if self._carrier is not None or self._dialling:
            self._shared.events.append(HangUpCarrier(self._index))
        self._carrier, self._dialling, self.remote = None, False, None

    def _use(self, address: Address) -> None:
        self.address = address
        self._allow(address)

    def _allow(self, address: Address) -> None:
        if address not in self._allowed:
            self._allowed.add(address)
            self._shared.tables.allow_source(address)

    def _forbid(self, address: Address) -> None:
        if address in self._allowed:
            self._allowed.remove(address)
            self._shared.tables.forbid_source(address)

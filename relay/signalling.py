"""What relays of a cluster tell each other of two of their clients: naming, calls, channels, certificates.

Does NOT know who is where and which relay lives: `remotes.py` and `cluster.py` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Answer, Call, CertificateShown, Close, Open, Opened

from .cluster_wire import (
    MAX_REASON,
    MAX_SIGNALS,
    Answered,
    Asked,
    Calls,
    Closed,
    Gone,
    Here,
    Presence,
    Reset,
    Shown,
    Signal,
    Signals,
)
from .remotes import Relay, Remote
from .rendezvous import MAX_INTERESTS, Rendezvous, know, present

if TYPE_CHECKING:
    from .clients import Client

MAX_KEPT = 65_536
"""Signals that wait to be sent; without a connection, those only that end something."""
REFUSALS = frozenset(
    (
        "the node is not here",
        "the node is busy",
        "the node did not answer",
        "the node did not take the call",
        "the node left",
        "too many openings",
        "too many channels",
    )
)
"""What another relay may say to our clients, and to our metrics."""

Place = Callable[[Relay, NodeId, Presence, float], Remote]


class Signalling:
    """Signals in and out; `rendezvous` does what they mean.

    :param place: notes where a node is; raises BadPacket.
    :param presence: what others are to know of a client of ours.
    :param wake: called when there is something in `take_messages`.
    """

    def __init__(
        self,
        clients: dict[NodeId, Client],
        rendezvous: Rendezvous,
        place: Place,
        presence: Callable[[Client], Presence],
        wake: Callable[[], None],
    ) -> None:
        self.connected = False
        self._clients = clients
        self._rendezvous = rendezvous
        self._place_untrusted = place
        self._presence = presence
        self._wake = wake
        self._outbox: deque[tuple[Relay, Signal]] = deque()

    # Output.

    def signal(self, relay: Relay, signal: Signal) -> None:
        """What ends something waits for a lost connection; the rest will be said anew, or was in vain."""
        if not relay.alive:
            return
        ends = isinstance(signal, Answered | Closed | Gone | Reset)
        if not self.connected and not ends:
            return
        if len(self._outbox) >= MAX_KEPT:
            relay.forgotten = relay.forgotten or ends
            return
        self._outbox.append((relay, signal))
        self._wake()

    def concerns(self, client: Client, remote: Remote) -> bool:
        """Whether a client of ours is to hear of this place of a node: the newest that it may know of, and
        here before all others.
        """
        here = self._clients.get(remote.node)
        if client.node == remote.node or (here is not None and know(client, here)):
            return False
        places = self._rendezvous.abroad.find(remote.node)
        return next((one for one in places if know(client, one)), None) is remote

    def seek(self, client: Client, remote: Remote) -> None:
        """A client of ours names a node: does that name it?"""
        if client.node != remote.node:
            self.signal(remote.relay, Here(client.node, remote.node, self._presence(client), ask=True))

    def send(self, remote: Remote, message: Call | Opened | Close) -> None:
        """What `remote` would be told if it were a client of ours."""
        if isinstance(message, Call):
            caller = self._clients[message.node]
            named = remote.node in caller.interests
            signal: Signal = Calls(caller.node, remote.node, self._presence(caller), message.send, named)
        elif isinstance(message, Opened):
            signal = Answered(message.receive, message.send, message.refused[:MAX_REASON])
        else:
            signal = Closed(message.send)
        self.signal(remote.relay, signal)

    def take_messages(self, instance: bytes) -> list[tuple[Relay, bytes]]:
        """All signals so far as messages of the relay `instance`, in order for each relay."""
        batches: dict[Relay, list[Signal]] = {}
        while self._outbox:
            relay, signal = self._outbox.popleft()
            if relay.alive:
                batches.setdefault(relay, []).append(signal)
        return [
            (relay, msgspec.msgpack.encode(Signals(instance, signals[start : start + MAX_SIGNALS])))
            for relay, signals in batches.items()
            for start in range(0, len(signals), MAX_SIGNALS)
        ]

    # Input.

    def handle_untrusted(self, relay: Relay, signal: Signal, now: float) -> None:
        """One signal of a relay that lives; Reset is not for here. Raises BadPacket."""
        match signal:
            case Here():
                self._take_here_untrusted(relay, signal, now)
            case Gone():
                self._take_gone(relay, signal, now)
            case Calls():
                self._take_call_untrusted(relay, signal, now)
            case Answered():
                self._take_answer(relay, signal, now)
            case Closed():
                remote = self._rendezvous.remote_end(relay, signal.id)
                if remote is not None:
                    self._rendezvous.handle_close(remote, Close(signal.id), now)
            case Asked() | Shown():
                self._take_certificate(relay, signal, now)

    def _take_here_untrusted(self, relay: Relay, signal: Here, now: float) -> None:
        """Nothing is kept of whom our client does not name: when it does, it is us who ask."""
        remote = self._place_untrusted(relay, signal.node, signal.presence, now)
        client = self._clients.get(signal.to)
        if client is None or client.visit is not None or signal.node not in client.interests:
            return
        if len(remote.interests) >= MAX_INTERESTS:
            return
        remote.interests.add(client.node)
        if self.concerns(client, remote):
            self._rendezvous.tell(client, present(remote, client), now)
        if signal.ask:
            self.signal(relay, Here(client.node, remote.node, self._presence(client)))

    def _take_gone(self, relay: Relay, signal: Gone, now: float) -> None:
        remote, client = relay.remotes.get(signal.node), self._clients.get(signal.to)
        if remote is None or signal.to not in remote.interests:
            return
        remote.interests.discard(signal.to)
        if client is not None and not know(client, remote):
            self._rendezvous.tell_absence(remote, client, now)

    def _take_call_untrusted(self, relay: Relay, signal: Calls, now: float) -> None:
        """Its caller is to hear of our client before of the channel."""
        if signal.named:
            here = Here(signal.node, signal.to, signal.presence, ask=True)
            self._take_here_untrusted(relay, here, now)
        remote = self._place_untrusted(relay, signal.node, signal.presence, now)
        self._rendezvous.handle_open(remote, Open(signal.to, signal.id), now)

    def _take_answer(self, relay: Relay, signal: Answered, now: float) -> None:
        remote = self._rendezvous.remote_end(relay, signal.id)
        if remote is not None and not signal.send:
            reason = signal.refused if signal.refused in REFUSALS else "the relay of the node refused"
            self._rendezvous.handle_refused(remote, signal.id, reason, now)
            return
        answer = Answer(signal.id, signal.send)
        if signal.send and (remote is None or self._rendezvous.handle_answer(remote, answer, now) is None):
            self.signal(relay, Closed(signal.send))  # nobody waits for it any more

    def _take_certificate(self, relay: Relay, signal: Asked | Shown, now: float) -> None:
        """Among members of one network only; the client judges what it is shown."""
        asked = isinstance(signal, Asked)
        here, there = (signal.node, signal.to) if asked else (signal.to, signal.node)
        client, remote = self._clients.get(here), relay.remotes.get(there)
        if client is None or remote is None or not client.shares_network_with(remote):
            return
        if isinstance(signal, Shown):
            self._rendezvous.tell(client, CertificateShown(signal.node, signal.membership), now)
        elif client.belonging is not None:
            self.signal(relay, Shown(signal.node, signal.to, client.belonging.shown))

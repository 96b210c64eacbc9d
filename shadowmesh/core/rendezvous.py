"""Where relays have seen one peer, the channel to it through one of them, and the opening under way.

Who comes to a relay calls whom it finds there: it opens the channel and dials, in three round trips
without waiting to be told.  Who was there only answers; if nothing happens for `PATIENCE`, the node with
the smaller NodeID calls, and later the other.  Dialling, sessions and paths are the owner's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from shadowmesh.core.relays import RelayClient
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.stages import QUIET
from shadowmesh.units import ID_SIZE, Address, NodeId
from shadowmesh.wire.messages import Answer, Close, Open, Opened

PATIENCE = 1.5
"""Seconds that the node with the smaller NodeID waits to be called before it calls; the other waits twice."""
LINGER = 1.0
"""Seconds that a channel at a relay that is going down is kept after another took its place: the peer changes
a round trip later, and its frames are on their way still."""
OPEN_TIMEOUT = 5.0
"""Seconds after which an unanswered Open is tried again."""


@dataclass(frozen=True)
class Channel:
    """A way to the peer through a relay: we send on `send`, and receive under `receive`."""

    relay: RelayClient
    send: bytes
    receive: bytes


class Owner(Protocol):
    """Whom a `Rendezvous` tells what happens, and asks."""

    def handle_channel(self, old: Channel | None, why: str, now: float) -> None:
        """`channel` is another one now, or None for the reason `why`; it was `old`."""

    def handle_restart(self, now: float) -> None:
        """The process at the other end is a new one, or its way to us is."""

    def handle_refusal(self, reason: str, now: float) -> None:
        """An opening was refused; try again when it seems right."""

    def path_works(self, now: float) -> bool:
        """Whether the path through the present channel is known to work; a doubt is looked into at once."""

    def consider(self, now: float) -> None:
        """Our opening stands: dial, if a session is missing."""

    def schedule(self, when: float) -> None:
        """Look at `when`, at the latest, whether something is missing."""


class Rendezvous:
    """Presence of one peer at our relays, and the channel to it.

    :param caller: whether our NodeID is the smaller one.
    :param setup: what traces tell of the peer.
    """

    def __init__(self, node: NodeId, caller: bool, owner: Owner, shared: Shared, setup: SetUp) -> None:
        self.channel: Channel | None = None
        self.patience = PATIENCE if caller else 2 * PATIENCE
        self._node = node
        self._caller = caller
        self._owner = owner
        self._shared = shared
        self._instances: dict[RelayClient, bytes] = {}
        self._setup = setup
        self._opening: Channel | None = None
        self._asking = QUIET
        """The same, for traces."""
        self._failed: set[RelayClient] = set()
        """Relays at which an opening came to nothing; others are asked first."""
        self._left: tuple[Channel, float] | None = None
        """The channel at a relay that is going down, and until when what is on its way there is taken."""

    # Getters.

    @property
    def present(self) -> bool:
        """Whether a relay has told us that the peer is there."""
        return bool(self._instances)

    @property
    def instances(self) -> Collection[bytes]:
        """The processes as which relays have seen the peer."""
        return self._instances.values()

    def owns_channel(self, receive: bytes, source: Address) -> bool:
        """Whether datagrams of this channel id, sent by the relay at `source`, come from this peer."""
        return any(
            way is not None and way.receive == receive and way.relay.leg.knows(source)
            for way in (self.channel, self._opening, self._left[0] if self._left else None)
        )

    def awaits(self, relay: RelayClient, receive: bytes) -> bool:
        """Whether an Open with this id is unanswered."""
        opening = self._opening
        return opening is not None and opening.receive == receive and opening.relay is relay

    # What relays tell.

    def handle_relay_up(self, relay: RelayClient, now: float) -> None:
        """We came to this relay and told it of our interest: call the peer, it may be there already."""
        if self.channel is None and self._opening is None:
            self._open(relay, now)

    def handle_present(self, relay: RelayClient, instance: bytes, now: float) -> None:
        """The peer is at this relay, as this instance."""
        elsewhere = self.channel is not None and self.channel.relay is not relay
        if instance not in self._instances.values() and not elsewhere:
            self._owner.handle_restart(now)
        self._instances[relay] = instance
        if self._opening is None:
            self._owner.schedule(now + self.patience)

    def handle_absent(self, relay: RelayClient, now: float) -> None:
        """The peer has left this relay, or the relay has left us."""
        self._instances.pop(relay, None)
        if self._left is not None and self._left[0].relay is relay:
            self._drop_left(now)
        if self._opening is not None and self._opening.relay is relay:
            self._drop_opening("absent", now)
        if self.channel is not None and self.channel.relay is relay:
            self._set_channel(None, now, f"relay {relay.name} lost it, or is lost itself")
            if self._instances:
                self._owner.schedule(now + self.patience)

    def handle_leave(self, relay: RelayClient, now: float) -> bool:
        """This relay is about to go: open a channel elsewhere, and use the old one until that stands.

        Both sides are told; the node with the smaller NodeID opens.  Returns whether it began to.
        """
        self._instances.pop(relay, None)
        if self._left is not None and now >= self._left[1]:
            self._drop_left(now)
        if self._opening is not None and self._opening.relay is relay:
            self._drop_opening("leaving", now)
        if self.channel is None or self.channel.relay is not relay:
            return False
        if not self._instances or not self._caller or self._opening is not None:
            return False
        self.open(now)
        return True

    def needs(self, relay: RelayClient) -> bool:
        """Whether our channel is at this relay."""
        left = self._left is not None and self._left[0].relay is relay
        return left or (self.channel is not None and self.channel.relay is relay)

    def handle_call(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The peer wants a channel; while we call it ourselves, the smaller NodeID keeps its own call."""
        if (self._opening is not None and self._caller) or self._works_without(relay, now):
            relay.send(Answer(send), now)
            return
        if self._opening is not None:
            self._drop_opening("collision", now)
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        relay.send(Answer(send, receive), now)
        self._set_channel(Channel(relay, send, receive), now)
        self._owner.schedule(now + self.patience)

    def _works_without(self, relay: RelayClient, now: float) -> bool:
        """A relay must not take a peer away from another relay whose path works."""
        if self.channel is None or self.channel.relay is relay or self.channel.relay.leaving:
            return False
        return self._owner.path_works(now)

    def handle_opened(self, relay: RelayClient, opened: Opened, now: float) -> None:
        """The answer to the Open that this peer `awaits`."""
        opening = self._opening
        assert opening is not None
        if not self._instances:
            self._drop_opening("absent", now)
            self._setup.end(now, "absent")
            if opened.send:
                relay.send(Close(opened.send), now)
            return
        if opened.refused or len(opened.send) != ID_SIZE:
            self._asking.end(now, "refused", opened.refused)
            self.give_up_opening(now)
            self._owner.handle_refusal(f"no channel: {opened.refused or 'the relay gave no id'}", now)
            return
        self._opening = None
        self._asking.end(now)
        self._failed.discard(relay)
        self._set_channel(Channel(relay, opened.send, opening.receive), now)
        self._owner.consider(now)

    def handle_close(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The relay or the peer has taken a channel away."""
        if self.channel is not None and self.channel.relay is relay and self.channel.send == send:
            self._set_channel(None, now, f"its channel through relay {relay.name} is closed")
            self._owner.schedule(now + self.patience)

    # Commands.

    def open(self, now: float) -> None:
        """Ask the nearest relay where the peer is for a channel; only while `present`."""
        self._open(min(self._instances, key=lambda relay: (relay in self._failed, relay.distance)), now)

    def hang_up(self, now: float) -> None:
        """The peer is not wanted for now: give the channel back."""
        self._drop_opening("idle", now)
        if self.channel is not None:
            self._set_channel(None, now, "it is not needed")

    def give_up_opening(self, now: float) -> None:
        """Forget an opening, if one is under way, and try its relay last."""
        if self._opening is None:
            return
        self._failed.add(self._opening.relay)
        if self._failed.issuperset(self._instances):
            self._failed = {self._opening.relay}
        self._drop_opening("timeout", now)

    def transmit(self, datagram: bytes) -> None:
        """Send a datagram through the channel; lost while there is none."""
        if self.channel is not None:
            self.channel.relay.transmit_through(self.channel.send, datagram)

    # Inside.

    def _open(self, relay: RelayClient, now: float) -> None:
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        self._opening = Channel(relay, b"", receive)
        self._asking = self._setup.part("channel.open", now, relay=relay.index)
        relay.send(Open(self._node, receive), now)
        self._owner.schedule(now + OPEN_TIMEOUT)

    def _drop_opening(self, error: str, now: float) -> None:
        if self._opening is not None:
            self._asking.end(now, error)
            self._shared.tables.remove(self._opening.receive)
            self._opening = None

    def _drop_left(self, now: float) -> None:
        if self._left is not None:
            self._close(self._left[0], now)
            self._left = None

    def _close(self, channel: Channel, now: float) -> None:
        self._shared.tables.remove(channel.receive)
        channel.relay.send(Close(channel.send), now)

    def _set_channel(self, channel: Channel | None, now: float, why: str = "") -> None:
        old, self.channel = self.channel, channel
        if old is not None and old.relay.leaving and channel is not None:
            self._drop_left(now)
            self._left = old, now + LINGER
        elif old is not None:
            self._close(old, now)
        self._owner.handle_channel(old, why, now)

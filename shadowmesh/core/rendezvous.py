"""Where relays have seen one peer, the channel to it through one of them, and the opening under way.

Who comes to a relay calls whom it finds there: it opens the channel and dials, in three round trips
without waiting to be told.  Who was there only answers; if nothing happens for `PATIENCE`, the node with
the smaller NodeID calls, and later the other.  Dialling, sessions and paths are the owner's.

A channel is left for one at another relay when its relay is going down, when its path falls silent, or when
another relay is better.  While the old one works, the new one is on trial: it is taken when the peer has
answered a sealed probe that went through it, so no relay gets traffic by its own word only.  Before there is
a session nothing can be proved: then channels at several relays stand side by side, one at each, and that in
which a handshake succeeds is the one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from shadowmesh.core.blame import Blame
from shadowmesh.core.relays import RelayClient
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.path.path import Path
from shadowmesh.stages import QUIET
from shadowmesh.units import ID_SIZE, Address, NodeId
from shadowmesh.wire.messages import Answer, Close, Open, Opened
from shadowmesh.wire.payload import NONCE_SIZE

PATIENCE = 1.5
"""Seconds that the node with the smaller NodeID waits to be called before it calls; the other waits twice."""
LINGER = 1.0
"""Seconds that a channel is kept after one at another relay took its place: the peer changes a round trip
later, and its frames are on their way still."""
OPEN_TIMEOUT = 5.0
"""Seconds after which an unanswered Open is tried again."""
MOVE_TIMEOUT = 1.5
"""The same where frames wait: the relay that was asked may be dead too."""
MOVE_GAP = 1.0
"""Seconds at least between two tries to leave a silent channel."""
TRIAL = 3.0
"""Seconds that a channel on trial has to carry a probe: more than five times round the world."""
TRIAL_INTERVAL = 0.25
"""Seconds between its probes."""
UNTRIED = 600.0
"""Seconds until another move, after one to a relay that is far from the peer."""


@dataclass(frozen=True)
class Channel:
    """A way to the peer through a relay: we send on `send`, and receive under `receive`."""

    relay: RelayClient
    send: bytes
    receive: bytes


@dataclass
class _Trial:
    """A channel through which the peer has yet to answer a probe."""

    channel: Channel
    longest: float
    """Seconds that a round trip through it may take."""
    ends_at: float
    probe_at: float
    probes: dict[bytes, float] = field(default_factory=dict)
    """Nonces, and when each was sent."""


class Owner(Protocol):
    """Whom a `Rendezvous` tells what happens, and asks."""

    def handle_channel(self, old: Channel | None, why: str, now: float) -> None:
        """`channel` is another one now, or None for the reason `why`; it was `old`."""

    def handle_restart(self, relay: RelayClient, now: float) -> None:
        """The process at the other end is a new one, or its way to us is, says this relay."""

    @property
    def met(self) -> bool:
        """Whether there is a session."""

    def handle_refusal(self, reason: str, now: float) -> None:
        """An opening was refused; try again when it seems right."""

    def path_works(self, now: float) -> bool:
        """Whether the path through the present channel is known to work; a doubt is looked into at once."""

    def consider(self, now: float) -> None:
        """Our opening stands: dial, if a session is missing."""

    def probe_through(self, channel: Channel, nonce: bytes, now: float) -> None:
        """Send a sealed probe through a channel that is not in use."""

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
        self._longest = math.inf
        """Seconds that a round trip through it may take, if the present one works."""
        self._asking = QUIET
        """The same, for traces."""
        self._failed: set[RelayClient] = set()
        """Relays at which an opening came to nothing; others are asked first."""
        self._blame = Blame()
        """Relays at which a channel to this peer has fallen silent."""
        self._trial: _Trial | None = None
        self._left: tuple[Channel, float] | None = None
        """The channel before this one, and until when what is on its way there is taken."""
        self._spare: dict[RelayClient, Channel] = {}
        """Channels at other relays, while there is no session."""
        self._silent_since: float | None = None
        self._next_move = -math.inf

    # Getters.

    @property
    def present(self) -> bool:
        """Whether a relay has told us that the peer is there."""
        return bool(self._instances)

    @property
    def instances(self) -> Collection[bytes]:
        """The processes as which relays have seen the peer."""
        return self._instances.values()

    def find_channel(self, receive: bytes, source: Address) -> Channel | None:
        """The channel whose datagrams have this id, if the relay at `source` is that of the channel."""
        known = (one for one in self._held() if one.receive == receive and one.relay.leg.knows(source))
        return next(known, None)

    def holds(self, channel: Channel) -> bool:
        """Whether something can be sent through this channel."""
        return bool(channel.send) and any(one is channel for one in self._held())

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        times = [self._trial.probe_at if self._trial else None, self._left[1] if self._left else None]
        return min((time for time in times if time is not None), default=None)

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
            self._owner.handle_restart(relay, now)
        self._instances[relay] = instance
        if self._opening is None:
            self._owner.schedule(now + self.patience)

    def handle_absent(self, relay: RelayClient, now: float) -> None:
        """The peer has left this relay, or the relay has left us."""
        self._instances.pop(relay, None)
        if self._left is not None and self._left[0].relay is relay:
            self._drop_left(now)
        if self._trial is not None and self._trial.channel.relay is relay:
            self._drop_trial(now)
        if self._opening is not None and self._opening.relay is relay:
            self._drop_opening("absent", now)
        self._drop_spare(relay, now)
        if self.channel is not None and self.channel.relay is relay:
            self._lose_channel(f"relay {relay.name} lost it, or is lost itself", bool(self._instances), now)

    def handle_leave(self, relay: RelayClient, now: float) -> bool:
        """This relay is about to go: open a channel elsewhere, and use the old one until that stands.

        Both sides are told; the node with the smaller NodeID opens.  Returns whether it began to.
        """
        self._instances.pop(relay, None)
        if self._opening is not None and self._opening.relay is relay:
            self._drop_opening("leaving", now)
        self._drop_spare(relay, now)
        if self.channel is None or self.channel.relay is not relay:
            return False
        if not self._instances or not self._caller or self._opening is not None:
            return False
        self.open(now)
        return True

    def needs(self, relay: RelayClient) -> bool:
        """Whether our channel is at this relay, or what we wait for."""
        left = self._left is not None and self._left[0].relay is relay
        return left or (self.channel is not None and self.channel.relay is relay)

    def handle_call(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The peer wants a channel; while we call it ourselves, the smaller NodeID keeps its own call."""
        if self._opening is not None and self._caller:
            relay.send(Answer(send), now)
            return
        if self._opening is not None:
            self._drop_opening("collision", now)
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        relay.send(Answer(send, receive), now)
        self._take(Channel(relay, send, receive), now)
        self._owner.schedule(now + self.patience)

    def _take(self, channel: Channel, now: float, longest: float = math.inf) -> None:
        """Use a channel that stands: at once, or after a trial if the present one works."""
        if self._waits_beside(channel.relay, now):
            self._drop_spare(channel.relay, now)
            self._spare[channel.relay] = channel
            return
        if not self._works_without(channel.relay, now):
            if self.channel is not None and self._silent_since is not None:
                self._blame.add(self.channel.relay, now)  # the peer is there, as it took the call
            self._set_channel(channel, now)
            return
        self._drop_trial(now)
        self._trial = _Trial(channel, longest, now + TRIAL, now)
        self._probe(self._trial, now)

    def _waits_beside(self, relay: RelayClient, now: float) -> bool:
        """While nobody has proved anything, no relay takes the place of another by its own word.

        Nor does one that has just disappointed take the place of one that is about to be asked.
        """
        if self._owner.met:
            return False
        if self.channel is None:
            return self._blame.lasts(relay, now) and any(
                not self._blame.lasts(one, now) for one in self._instances
            )
        return self.channel.relay is not relay and not self.channel.relay.leaving

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
        self._take(Channel(relay, opened.send, opening.receive), now, self._longest)
        self._owner.consider(now)

    def handle_close(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The relay or the peer has taken a channel away."""
        if self._trial is not None and self._is(self._trial.channel, relay, send):
            self._drop_trial(now)
        if self._left is not None and self._is(self._left[0], relay, send):
            self._drop_left(now)
        spare = self._spare.get(relay)
        if spare is not None and self._is(spare, relay, send):
            self._drop_spare(relay, now)
        if self.channel is not None and self._is(self.channel, relay, send):
            self._lose_channel(f"its channel through relay {relay.name} is closed", True, now)

    def handle_path(self, path: Path | None, now: float) -> None:
        """How the path through the channel does, if it is looked at: a silent one is left for another relay.

        The node with the smaller NodeID does so at once, the other one `PATIENCE` later.
        """
        if path is None or self.channel is None or not self._is_silent(path, self.channel.relay):
            self._silent_since = None
            return
        if self._silent_since is None:
            self._silent_since = now
        wait = 0.0 if self._caller else PATIENCE
        if self._opening is not None or now < max(self._next_move, self._silent_since + wait):
            return
        target = self._nearest(now, other_than=self.channel.relay)
        if target is not None:
            self._next_move = now + MOVE_GAP
            self._open(target, now, MOVE_TIMEOUT)

    def handle_proof(self, nonce: bytes, now: float) -> bool:
        """The peer answered a probe; returns whether it was one of a channel on trial, which is over then."""
        trial = self._trial
        if trial is None or nonce not in trial.probes:
            return False
        if now - trial.probes[nonce] > trial.longest:
            self._next_move = now + UNTRIED  # it is nearer to us, but not to the peer
            self._drop_trial(now)
        else:
            self._trial = None
            self._set_channel(trial.channel, now)
        return True

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if self._left is not None and now >= self._left[1]:
            self._drop_left(now)
        trial = self._trial
        if trial is not None and now >= trial.probe_at:
            if now < trial.ends_at:
                self._probe(trial, now)
            else:
                self._blame.add(trial.channel.relay, now)
                self._drop_trial(now)

    def handle_session(self, channel: Channel | None, now: float) -> None:
        """A handshake succeeded in this channel: it carries, and what waited beside it is not needed."""
        if channel is not None and self._spare.get(channel.relay) is channel:
            del self._spare[channel.relay]
            self._set_channel(channel, now)
        for relay in list(self._spare):
            self._drop_spare(relay, now)

    def handle_failure(self, channel: Channel | None, now: float) -> None:
        """A handshake in this channel came to nothing, and there is no session: try another relay, if any.

        The relay may be why: it can lose what it should forward, or answer in the peer's place.  A newer
        channel of that relay, which it can make at any time, is no better.
        """
        relay = channel.relay if channel is not None else None
        if relay is None or self._instances.keys() <= {relay}:
            return
        if relay in self._spare:
            self._blame.add(relay, now)
            self._drop_spare(relay, now)
        elif self.channel is not None and self.channel.relay is relay:
            self._blame.add(relay, now)
            self._set_channel(self._take_spare(now), now, f"no handshake succeeds through relay {relay.name}")

    # Commands.

    def open(self, now: float) -> None:
        """Ask the best relay where the peer is for a channel; only while `present`."""
        target = self._nearest(now)
        assert target is not None
        self._open(target, now)

    def move(self, relay: RelayClient, now: float, longest: float = math.inf) -> bool:
        """Another relay is better than that of our channel: go there, if the peer is there too.

        The node with the smaller NodeID does; returns whether it began to.

        :param longest: seconds that a round trip may take by then.
        """
        if self.channel is None or self.channel.relay is relay or relay not in self._instances:
            return False
        waits = self._opening is not None or self._trial is not None or now < self._next_move
        if not self._caller or waits or relay in self._failed or self._blame.lasts(relay, now):
            return False
        self._next_move = now + MOVE_GAP
        self._open(relay, now, longest=longest)
        return True

    def hang_up(self, now: float) -> None:
        """The peer is not wanted for now: give the channel back."""
        self._drop_opening("idle", now)
        self._drop_trial(now)
        self._drop_left(now)
        for relay in list(self._spare):
            self._drop_spare(relay, now)
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

    def _held(self) -> Iterator[Channel]:
        """All channels of this peer."""
        trial, left = self._trial, self._left
        ways = (self.channel, self._opening, trial.channel if trial else None, left[0] if left else None)
        yield from (way for way in ways if way is not None)
        yield from self._spare.values()

    def _take_spare(self, now: float) -> Channel | None:
        """The best of the channels that wait, at a relay that did not disappoint; it waits no more."""
        good = [relay for relay in self._spare if not self._blame.lasts(relay, now)]
        relay = min(good, key=lambda one: one.cost, default=None)
        return self._spare.pop(relay) if relay is not None else None

    def _nearest(self, now: float, other_than: RelayClient | None = None) -> RelayClient | None:
        """The best relay where the peer is; one that disappointed comes last."""

        def rank(relay: RelayClient) -> tuple[bool, bool, bool, float]:
            return relay in self._failed, self._blame.lasts(relay, now), relay.doubtful, relay.cost

        return min((one for one in self._instances if one is not other_than), key=rank, default=None)

    @staticmethod
    def _is_silent(path: Path, relay: RelayClient) -> bool:
        return not path.usable or (relay.doubtful and not path.answers)

    @staticmethod
    def _is(channel: Channel, relay: RelayClient, send: bytes) -> bool:
        return channel.relay is relay and channel.send == send

    def _probe(self, trial: _Trial, now: float) -> None:
        trial.probe_at = now + TRIAL_INTERVAL
        nonce = self._shared.random(NONCE_SIZE)
        trial.probes[nonce] = now
        self._owner.probe_through(trial.channel, nonce, now)

    def _lose_channel(self, why: str, again: bool, now: float) -> None:
        """It is gone: one on trial, or the one before, is better than none."""
        if self._trial is not None:
            trial, self._trial = self._trial, None
            self._set_channel(trial.channel, now)
            return
        if self._left is not None and self._left[0].relay in self._instances:
            (before, _), self._left = self._left, None
            self._set_channel(before, now)
            return
        spare = self._take_spare(now)
        self._set_channel(spare, now, why)
        if again and spare is None:  # nobody comes, so nobody is waited for
            self._owner.schedule(now if self._caller else now + self.patience)

    def _open(
        self, relay: RelayClient, now: float, timeout: float = OPEN_TIMEOUT, longest: float = math.inf
    ) -> None:
        self._longest = longest
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        self._opening = Channel(relay, b"", receive)
        self._asking = self._setup.part("channel.open", now, relay=relay.index)
        relay.send(Open(self._node, receive), now)
        self._owner.schedule(now + timeout)

    def _drop_opening(self, error: str, now: float) -> None:
        if self._opening is not None:
            self._asking.end(now, error)
            self._shared.tables.remove(self._opening.receive)
            self._opening = None

    def _drop_trial(self, now: float) -> None:
        if self._trial is not None:
            self._close(self._trial.channel, now)
            self._trial = None

    def _drop_left(self, now: float) -> None:
        if self._left is not None:
            self._close(self._left[0], now)
            self._left = None

    def _drop_spare(self, relay: RelayClient, now: float) -> None:
        spare = self._spare.pop(relay, None)
        if spare is not None:
            self._close(spare, now)

    def _close(self, channel: Channel, now: float) -> None:
        self._shared.tables.remove(channel.receive)
        channel.relay.send(Close(channel.send), now)

    def _set_channel(self, channel: Channel | None, now: float, why: str = "") -> None:
        old, self.channel = self.channel, channel
        self._silent_since = None
        if channel is not None:
            self._drop_trial(now)
        if old is not None and channel is not None and old.relay is not channel.relay:
            self._drop_left(now)
            self._left = old, now + LINGER
        elif old is not None:
            self._close(old, now)
        self._owner.handle_channel(old, why, now)

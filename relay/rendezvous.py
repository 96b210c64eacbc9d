"""Presence and channels, by mutual interest or by a common network.

Nobody learns of a node that neither lists it nor is a member of the same network, as both have proved.
A guest may call the client that invited it, and nobody else.

A party is a client of this relay, or one of another relay of its cluster (`Remote`), for which that relay
speaks.  One of two parties is always a client of ours: nothing leads from one relay through us to another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.stages import QUIET, Stage, Stages
from shadowmesh.units import ID_SIZE, NodeId
from shadowmesh.wire.messages import (
    Absent,
    Answer,
    Call,
    CertificateAsked,
    CertificateShown,
    Close,
    Interest,
    Message,
    Open,
    Opened,
    Present,
)

from .abroad import Abroad, Alone
from .clients import Client
from .limits import Limits
from .remotes import Relay, Remote
from .steering import Steering

if TYPE_CHECKING:
    from .tables import Tables

MAX_CALLS_PER_CALLEE = 4
"""Unanswered calls that may wait at one client."""
CALL_TIMEOUT = 5.0
"""Seconds that a callee has to answer."""
MAX_INTERESTS = 4096
MAX_INTRODUCED = 1024
"""Members of its network that a client is told of: a quarter of what may wait for it to be read."""
MAX_CHANNELS_PER_GUEST = 1

Party = Client | Remote


@dataclass(frozen=True, eq=False)
class Channel:
    """A channel being opened, or open: each end has a relay-side id (`send`) and its own (`receive`)."""

    caller: Party
    callee: Party
    caller_send: bytes
    callee_send: bytes
    caller_receive: bytes
    expires_at: float
    callee_receive: bytes = b""
    """Empty until the callee has answered."""


class Rendezvous:
    """Interests, calls and channels of all clients.

    :param steering: makes the ids by which clients send.
    :param send: sends messages to a client.
    :param limits: how many channels there may be.
    :param stages: for traces.
    """

    def __init__(
        self,
        clients: dict[NodeId, Client],
        tables: Tables,
        steering: Steering,
        send: Callable[[Client, Sequence[Message], float], None],
        limits: Limits,
        stages: Stages,
    ) -> None:
        self.refusals: Counter[str] = Counter()
        """Openings that were refused, by the reason that the caller was told."""
        self.opened = 0
        """Channels since the start."""
        self.abroad: Abroad = Alone()
        """The other relays of the cluster, if there is one."""
        self._limits = limits
        self._clients = clients
        self._tables = tables
        self._steering = steering
        self._send_all = send
        self._stages = stages
        self._introducing: dict[Channel, Stage] = {}
        self._calls: dict[bytes, Channel] = {}
        self._channels: dict[bytes, Channel] = {}
        self._of_client: defaultdict[Party, set[Channel]] = defaultdict(set)

    @property
    def channels(self) -> int:
        """Those that stand now."""
        return len(self._channels) // 2

    def channels_of(self, client: Party) -> int:
        """Those that stand, and those that are about to."""
        calls = sum(client in (call.caller, call.callee) for call in self._calls.values())
        return len(self._of_client.get(client, ())) + calls

    def tell(self, client: Client, message: Message, now: float) -> None:
        """Send a client what another relay brought."""
        self._tell(client, message, now)

    def introduce(self, client: Client, now: float) -> None:
        """A client has come: it and the others of its network learn of each other."""
        self.abroad.handle_arrival(client, now)
        if client.belonging is None:
            return
        others = [
            one for one in self._clients.values() if one is not client and client.shares_network_with(one)
        ]
        others = others[:MAX_INTRODUCED]
        self._send_all(client, [present(other, client) for other in others], now)
        for other in others:
            self._tell(other, present(client, other), now)

    def handle_interest(self, client: Client, message: Interest, now: float) -> None:
        """Both sides of a pair that is mutual from now on learn of each other."""
        for node in message.remove:
            if node not in client.interests:
                continue
            client.interests.remove(node)
            other = self._clients.get(node)
            hidden = other is not None and not client.shares_network_with(other)
            if other is not None and hidden and client.node in other.interests:
                self._tell(other, Absent(client.node), now)
            self.abroad.handle_unnamed(client, node, now)
        for node in message.add:
            if node in client.interests or len(client.interests) >= MAX_INTERESTS:
                continue
            client.interests.add(node)
            other = self._clients.get(node)
            if other is not None and know(client, other):
                self._tell(client, present(other, client), now)
                self._tell(other, present(client, other), now)
            self.abroad.handle_named(client, node, now)

    def handle_asked(self, client: Client, message: CertificateAsked, now: float) -> None:
        """What other members of its network have shown; of anybody else, and beyond its budget, nothing."""
        for node in message.nodes:
            other = next((one for one in self._places(node) if client.shares_network_with(one)), None)
            if other is None or not client.asks.take(now):
                continue
            if isinstance(other, Remote):
                self.abroad.ask_certificate(client, other)
            elif other.belonging is not None:
                self._tell(client, CertificateShown(node, other.belonging.shown), now)

    def handle_open(self, client: Party, message: Open, now: float) -> None:
        """Pass the call on, with the caller's authenticated NodeID."""
        callee = self._callee(client, message.node)
        refusal = self._refusal(client, callee, now)
        stage = self._stages.begin("relay.introduce", now)
        if stage.under_way:
            stage.confide(caller_id=node_id_text(client.node), callee_id=node_id_text(message.node))
        if refusal or callee is None:
            stage.end(now, "refused", refusal)
            self._refuse(client, message.receive, refusal, now)
            return
        call = Channel(
            caller=client,
            callee=callee,
            caller_send=self._new_id(client),
            callee_send=self._new_id(callee),
            caller_receive=message.receive,
            expires_at=now + CALL_TIMEOUT,
        )
        self._calls[call.callee_send] = call
        if stage.under_way:
            self._introducing[call] = stage
        guest = (b"", "")
        if isinstance(client, Client) and client.visit is not None:
            guest = (client.visit.invitation, str(client.origin))
        self._tell(callee, Call(client.node, call.callee_send, *guest), now)

    def handle_answer(self, client: Party, message: Answer, now: float) -> Channel | None:
        """The callee accepts under an id of its own, or refuses with none; returns what is open now."""
        call = self._calls.get(message.send)
        if call is None or call.callee is not client:
            return None
        if call.expires_at <= now:
            self._end_call(call, "the node did not answer", now)
            return None
        del self._calls[message.send]
        stage = self._introducing.pop(call, QUIET)
        if len(message.receive) != ID_SIZE:
            stage.end(now, "declined")
            self._refuse(call.caller, call.caller_receive, "the node did not take the call", now)
            return None
        call = replace(call, callee_receive=message.receive)
        caller, callee = self._handle(call.caller), self._handle(client)
        self._tables.install_channel(call.caller_send, caller, callee, message.receive)
        self._tables.install_channel(call.callee_send, callee, caller, call.caller_receive)
        self._channels[call.caller_send] = self._channels[call.callee_send] = call
        self.opened += 1
        stage.end(now)
        self._of_client[call.caller].add(call)
        self._of_client[client].add(call)
        self._tell(call.caller, Opened(call.caller_receive, call.caller_send), now)
        return call

    def handle_refused(self, callee: Party, send: bytes, reason: str, now: float) -> None:
        """The callee's relay has said why it won't."""
        call = self._calls.get(send)
        if call is not None and call.callee is callee:
            self._end_call(call, reason, now)

    def handle_close(self, client: Party, message: Close, now: float) -> None:
        """One end gives a channel up."""
        call = self._channels.get(message.send)
        if call is not None and client in (call.caller, call.callee):
            self._remove(call, client, now)

    def remote_end(self, relay: Relay, channel: bytes) -> Remote | None:
        """Whom `relay` speaks for at the channel with this id, or at the call."""
        call = self._channels.get(channel) or self._calls.get(channel)
        ends = (call.caller, call.callee) if call is not None else ()
        return next((one for one in ends if isinstance(one, Remote) and one.relay is relay), None)

    def remotes_of(self, relay: Relay) -> list[Remote]:
        """Whom `relay` speaks for at all channels and calls."""
        calls = (*self._calls.values(), *self._channels.values())
        ends = (one for call in calls for one in (call.caller, call.callee))
        return list(dict.fromkeys(one for one in ends if isinstance(one, Remote) and one.relay is relay))

    def forget(self, client: Client, now: float) -> None:
        """A client is gone: close its channels, end its calls, and tell who knew it."""
        self.abandon(client, now)
        self.abroad.handle_departure(client, now)
        known = {other.node for other in self._clients.values() if client.shares_network_with(other)}
        for node in known | client.interests:
            other = self._clients.get(node)
            if other is not None and other is not client and know(other, client):
                self.tell_absence(client, other, now)

    def abandon(self, party: Party, now: float) -> None:
        """Close the channels of a party that is gone, and end its calls."""
        for call in list(self._of_client.get(party, ())):
            self._remove(call, party, now)
        for call in [call for call in self._calls.values() if party in (call.caller, call.callee)]:
            self._end_call(call, "the node left", now)

    def tell_absence(self, party: Party, to: Client, now: float) -> None:
        """`to` knew of `party`, which is gone; the same node may still be elsewhere."""
        for other in self._places(party.node):
            if other is not party and know(to, other):
                self._tell(to, present(other, to), now)
                return
        self._tell(to, Absent(party.node), now)

    def expire(self, now: float) -> None:
        """End the calls that nobody answered."""
        for call in [call for call in self._calls.values() if call.expires_at <= now]:
            self._end_call(call, "the node did not answer", now)

    def _tell(self, party: Party, message: Message, now: float) -> None:
        if isinstance(party, Client):
            self._send_all(party, (message,), now)
        elif isinstance(message, Call | Opened | Close):
            self.abroad.send(party, message)

    def _handle(self, party: Party) -> int:
        return party.handle if isinstance(party, Client) else self.abroad.install(party)

    def _refuse(self, caller: Party, receive: bytes, reason: str, now: float) -> None:
        self.refusals[reason] += 1
        self._tell(caller, Opened(receive, refused=reason), now)

    def _places(self, node: NodeId) -> list[Party]:
        """Where a node is, here first."""
        here = self._clients.get(node)
        return [*([here] if here is not None else []), *self.abroad.find(node)]

    def _callee(self, client: Party, node: NodeId) -> Party | None:
        """Whom a client may call by this NodeID; of a node at another relay, that one decides as well."""
        if isinstance(client, Remote):
            here = self._clients.get(node)
            return here if here is not None and know(here, client) else None
        for other in self._places(node):
            if client.visit is not None:
                allowed = know(client, other)
            else:
                named = isinstance(other, Remote) or client.node in other.interests
                allowed = (named and node in client.interests) or client.shares_network_with(other)
            if allowed and other is not client:
                return other
        return None

    def _new_id(self, party: Party) -> bytes:
        """By which the party sends; one of another relay gets its thread with its first call."""
        if party.thread is None:
            party.thread = self._steering.next_thread()
        return self._steering.new_id(party.thread)

    def _refusal(self, client: Party, callee: Party | None, now: float) -> str:
        client.opened = [at for at in client.opened if now - at < 1.0]
        if len(client.opened) >= self._limits.openings_per_second:
            return "too many openings"
        client.opened.append(now)
        if callee is None:
            return "the node is not here"
        if isinstance(callee, Remote) and not self.abroad.reachable:
            return "the node is at a relay that can't be asked now"
        if sum(call.callee is callee for call in self._calls.values()) >= MAX_CALLS_PER_CALLEE:
            return "the node is busy"
        if self._has_too_many(client, callee):
            return "too many channels"
        return ""

    def _has_too_many(self, caller: Party, callee: Party) -> bool:
        most = self._limits.channels_per_client
        guest = isinstance(caller, Client) and caller.visit is not None
        if guest and len(self._of_client.get(caller, ())) >= MAX_CHANNELS_PER_GUEST:
            return True
        return any(self.channels_of(one) >= most for one in (caller, callee))

    def _end_call(self, call: Channel, reason: str, now: float) -> None:
        if self._calls.pop(call.callee_send, None) is None:
            return  # telling somebody of another one has ended his session, and this with it
        self._introducing.pop(call, QUIET).end(now, "unanswered", reason)
        if isinstance(call.caller, Remote) or call.caller.node in self._clients:
            self._refuse(call.caller, call.caller_receive, reason, now)

    def _remove(self, call: Channel, closer: Party, now: float) -> None:
        if self._channels.get(call.caller_send) is not call:
            return  # as in `_end_call`
        for send in (call.caller_send, call.callee_send):
            del self._channels[send]
            self._tables.remove(send)
        for party, send, receive in (
            (call.caller, call.caller_send, call.caller_receive),
            (call.callee, call.callee_send, call.callee_receive),
        ):
            self._of_client[party].discard(call)
            if party is not closer:  # another relay is told its own id, as it does not keep ours
                self._tell(party, Close(receive if isinstance(party, Remote) else send), now)
            if not self._of_client[party]:
                del self._of_client[party]
                if isinstance(party, Remote):
                    self.abroad.uninstall(party)


def know(client: Client, other: Party) -> bool:
    """Whether the two may know of each other: they name each other, or are members of one network."""
    if client.visit is not None:  # a host that came back as a guest itself has none
        return other.node == client.visit.host and isinstance(other, Client) and other.visit is None
    named = other.node in client.interests and client.node in other.interests
    return named or client.shares_network_with(other)


def present(party: Party, to: Client) -> Present:
    """What `to` is told of a party that it may know of; of its certificate only in a common network."""
    return Present(party.node, party.instance, party.mark if to.shares_network_with(party) else b"")

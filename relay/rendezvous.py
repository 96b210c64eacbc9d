"""Presence and channels, by mutual interest or by a common network.

Nobody learns of a node that neither lists it nor is a member of the same network, as both have proved.
A guest may call the client that invited it, and nobody else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

from .clients import Client
from .limits import Limits
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


@dataclass(frozen=True, eq=False)
class Channel:
    """A channel being opened, or open: each end has a relay-side id (`send`) and its own (`receive`)."""

    caller: Client
    callee: Client
    caller_send: bytes
    callee_send: bytes
    caller_receive: bytes
    expires_at: float


class Rendezvous:
    """Interests, calls and channels of all clients.

    :param steering: makes the ids by which clients send.
    :param send: sends a message to a client.
    :param limits: how many channels there may be.
    """

    def __init__(
        self,
        clients: dict[NodeId, Client],
        tables: Tables,
        steering: Steering,
        send: Callable[[Client, Message, float], None],
        limits: Limits,
    ) -> None:
        self.refusals: Counter[str] = Counter()
        """Openings that were refused, by the reason that the caller was told."""
        self.opened = 0
        """Channels since the start."""
        self._limits = limits
        self._clients = clients
        self._tables = tables
        self._steering = steering
        self._send = send
        self._calls: dict[bytes, Channel] = {}
        self._channels: dict[bytes, Channel] = {}
        self._of_client: defaultdict[Client, set[Channel]] = defaultdict(set)

    @property
    def channels(self) -> int:
        """Those that stand now."""
        return len(self._channels) // 2

    def channels_of(self, client: Client) -> int:
        """Those that stand, and those that are about to."""
        calls = sum(client in (call.caller, call.callee) for call in self._calls.values())
        return len(self._of_client.get(client, ())) + calls

    def introduce(self, client: Client, now: float) -> None:
        """A member of a network has come: it and the others of that network learn of each other."""
        others = [
            one for one in self._clients.values() if one is not client and client.shares_network_with(one)
        ]
        for other in others[:MAX_INTRODUCED]:
            self._send(client, _present(other, client), now)
            self._send(other, _present(client, other), now)

    def handle_interest(self, client: Client, message: Interest, now: float) -> None:
        """Both sides of a pair that is mutual from now on learn of each other."""
        for node in message.remove:
            if node not in client.interests:
                continue
            client.interests.remove(node)
            other = self._clients.get(node)
            hidden = other is not None and not client.shares_network_with(other)
            if other is not None and hidden and client.node in other.interests:
                self._send(other, Absent(client.node), now)
        for node in message.add:
            if node in client.interests or len(client.interests) >= MAX_INTERESTS:
                continue
            client.interests.add(node)
            other = self._mutual(client, node)
            if other is not None:
                self._send(client, _present(other, client), now)
                self._send(other, _present(client, other), now)

    def handle_asked(self, client: Client, message: CertificateAsked, now: float) -> None:
        """What other members of its network have shown; of anybody else, and beyond its budget, nothing."""
        for node in message.nodes:
            other = self._clients.get(node)
            if other is None or other.belonging is None or not client.shares_network_with(other):
                continue
            if client.asks.take(now):
                self._send(client, CertificateShown(node, other.belonging.shown), now)

    def handle_open(self, client: Client, message: Open, now: float) -> None:
        """Pass the call on, with the caller's authenticated NodeID."""
        refusal = self._refusal(client, message.node, now)
        callee = self._clients.get(message.node)
        if refusal or callee is None:
            self._refuse(client, message.receive, refusal or "the node is not here", now)
            return
        call = Channel(
            caller=client,
            callee=callee,
            caller_send=self._steering.new_id(client.thread),
            callee_send=self._steering.new_id(callee.thread),
            caller_receive=message.receive,
            expires_at=now + CALL_TIMEOUT,
        )
        self._calls[call.callee_send] = call
        visit = client.visit
        guest = (visit.invitation, str(client.origin)) if visit is not None else (b"", "")
        self._send(callee, Call(client.node, call.callee_send, *guest), now)

    def handle_answer(self, client: Client, message: Answer, now: float) -> Channel | None:
        """The callee accepts under an id of its own, or refuses with none; returns what is open now."""
        call = self._calls.get(message.send)
        if call is None or call.callee is not client:
            return None
        if call.expires_at <= now:
            self._end_call(call, "the node did not answer", now)
            return None
        del self._calls[message.send]
        if len(message.receive) != ID_SIZE:
            self._refuse(call.caller, call.caller_receive, "the node did not take the call", now)
            return None
        caller, callee = call.caller.handle, client.handle
        self._tables.install_channel(call.caller_send, caller, callee, message.receive)
        self._tables.install_channel(call.callee_send, callee, caller, call.caller_receive)
        self._channels[call.caller_send] = self._channels[call.callee_send] = call
        self.opened += 1
        self._of_client[call.caller].add(call)
        self._of_client[client].add(call)
        self._send(call.caller, Opened(call.caller_receive, call.caller_send), now)
        return call

    def handle_close(self, client: Client, message: Close, now: float) -> None:
        """One end gives a channel up."""
        call = self._channels.get(message.send)
        if call is not None and client in (call.caller, call.callee):
            self._remove(call, client, now)

    def forget(self, client: Client, now: float) -> None:
        """A client is gone: close its channels, end its calls, and tell who knew it."""
        for call in list(self._of_client.pop(client, ())):
            self._remove(call, client, now)
        for call in [call for call in self._calls.values() if client in (call.caller, call.callee)]:
            self._end_call(call, "the node left", now)
        known = {other.node for other in self._clients.values() if client.shares_network_with(other)}
        for node in known | client.interests:
            other = self._mutual(client, node)
            if other is not None:
                self._send(other, Absent(client.node), now)

    def expire(self, now: float) -> None:
        """End the calls that nobody answered."""
        for call in [call for call in self._calls.values() if call.expires_at <= now]:
            self._end_call(call, "the node did not answer", now)

    def _refuse(self, caller: Client, receive: bytes, reason: str, now: float) -> None:
        self.refusals[reason] += 1
        self._send(caller, Opened(receive, refused=reason), now)

    def _mutual(self, client: Client, node: NodeId) -> Client | None:
        other = self._clients.get(node)
        if other is None or other is client:
            return None
        if client.visit is not None:
            return other if node == client.visit.host else None
        mutual = node in client.interests and client.node in other.interests
        return other if mutual or client.shares_network_with(other) else None

    def _refusal(self, client: Client, node: NodeId, now: float) -> str:
        client.opened = [at for at in client.opened if now - at < 1.0]
        if len(client.opened) >= self._limits.openings_per_second:
            return "too many openings"
        client.opened.append(now)
        callee = self._mutual(client, node)
        if callee is None:
            return "the node is not here"
        if sum(call.callee is callee for call in self._calls.values()) >= MAX_CALLS_PER_CALLEE:
            return "the node is busy"
        if self._has_too_many(client, callee):
            return "too many channels"
        return ""

    def _has_too_many(self, caller: Client, callee: Client) -> bool:
        most = self._limits.channels_per_client
        if caller.visit is not None and len(self._of_client.get(caller, ())) >= MAX_CHANNELS_PER_GUEST:
            return True
        return any(self.channels_of(one) >= most for one in (caller, callee))

    def _end_call(self, call: Channel, reason: str, now: float) -> None:
        del self._calls[call.callee_send]
        if call.caller.node in self._clients:
            self._refuse(call.caller, call.caller_receive, reason, now)

    def _remove(self, call: Channel, closer: Client, now: float) -> None:
        for send in (call.caller_send, call.callee_send):
            del self._channels[send]
            self._tables.remove(send)
        for client, send in ((call.caller, call.caller_send), (call.callee, call.callee_send)):
            if client in self._of_client:
                self._of_client[client].discard(call)
            if client is not closer:
                self._send(client, Close(send), now)


def _present(client: Client, to: Client) -> Present:
    return Present(client.node, client.instance, client.mark_for(to))

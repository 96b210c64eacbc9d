"""A link: one QUIC connection with the session handshake on its stream 0, and messages after it.

Used by clients towards relays and peers, and by relays towards clients.  It takes datagrams, messages
and `now`; it gives datagrams, events and one deadline.  It knows no address: whoever drives it sends
its datagrams wherever the peer is reached just now.

Call order: after any `handle_*`, `send` or `close`, take `transmit(now)`, then `next_event()` until None,
then look at `deadline`.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamDataReceived

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import EXPORTER_CONFIRM, EXPORTER_PROOF, EXPORTER_ROOT, ROOT_SIZE, Direction
from shadowmesh.crypto.quic import SessionConnection
from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.errors import BadPacket, RemoteProtocolError
from shadowmesh.session.machine import Admit, Agreement, Machine, Opening, Refused, Secrets, State, admit_all
from shadowmesh.units import NodeId
from shadowmesh.values import printable
from shadowmesh.wire import messages
from shadowmesh.wire.messages import Established, Message, MessageType
from shadowmesh.wire.reassembly import Reassembler

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the first datagram to ESTABLISHED; at 20 % loss the median handshake took 0.8 s."""
IDLE_TIMEOUT = 180.0
"""Seconds without a sign of life, probes and BIND included: longer than a session waits for a path."""
CONTROL_STREAM = 0
MAX_UNSENT = 262_144
"""Bytes that may wait for a peer that opens no window: four of the largest messages."""
MAX_REASON = 300
"""Characters of a close reason; more might not fit into one packet, and nobody reads more."""
MAX_EARLY = 98304
"""Bytes of messages kept until TLS is confirmed: CHALLENGE, and on a resumed session, if the confirmation is
late, what the relay answers to INTEREST: 1,100 PRESENT."""


class CloseCode(enum.IntEnum):
    """Application error codes of CONNECTION_CLOSE (RFC 9000 section 19.19), and one for QUIC's own end."""

    TRANSPORT = -1
    SHUTDOWN = 0x00
    REFUSED = 0x01
    PROTOCOL = 0x02
    TIMEOUT = 0x03
    REPLACED = 0x04
    COLLISION = 0x05
    DUPLICATE = 0x06
    IDLE = 0x07


_CLOCK = re.compile(r" \[([0-9]{1,12})\]$")
"""End of a reason: the clock of who refuses, in seconds since 1970."""
_HARMLESS = (CloseCode.REFUSED, CloseCode.COLLISION)


@dataclass(frozen=True)
class Secured:
    """TLS is complete on this side; the proofs follow."""

    resumed: bool


@dataclass(frozen=True)
class Resumed:
    """The initiator's HELLO is on its way on a resumed connection: messages may follow it at once.

    Nobody but the node that the ticket comes from can read them, and it heeds them only once the proof in
    HELLO holds.  That node has yet to prove itself anew: nothing of it counts before `Confirmed`.
    """


@dataclass(frozen=True)
class Ready:
    """Keys are agreed: install them. At the initiator this comes one message before `Confirmed`."""

    agreement: Agreement


@dataclass(frozen=True)
class Confirmed:
    """The initiator's view of ESTABLISHED: the responder has installed its keys too."""

    established: Established


@dataclass(frozen=True)
class Received:
    """A control message of an established session, and all its bytes, proof included."""

    message: Message
    raw: bytes


@dataclass(frozen=True)
class Ended:
    """The link is over; nothing comes after this."""

    code: int
    reason: str
    by_peer: bool
    clock: float | None = None
    """The time, in seconds since 1970, by which a certificate was refused: a hint, told by whoever did."""


LinkEvent = Secured | Resumed | Ready | Confirmed | Received | Ended


class Link:
    """One end of a session's control connection.

    :param connection: the QUIC connection, fresh, in the role that `machine` has.
    """

    def __init__(self, connection: SessionConnection, machine: Machine, now: float) -> None:
        self._connection = connection
        self._machine = machine
        self._secrets: Secrets | None = None
        self._reassembler = Reassembler()
        self._early: list[tuple[MessageType, bytes]] = []
        self._events: deque[LinkEvent] = deque()
        self._expires_at: float | None = now + HANDSHAKE_TIMEOUT
        self._ended = False
        self.heard = False
        """Whether anything at all has come from the other side."""
        self._closing: Ended | None = None

    @classmethod
    def initiate(
        cls,
        identity: Identity,
        expected: NodeId,
        opening: Opening,
        now: float,
        ticket: PeerTicket | None = None,
        admit: Admit = admit_all,
    ) -> Link:
        """A link towards `expected`; `transmit` has the first datagrams.

        :param ticket: resumes a session with `expected`.
        """
        connection = SessionConnection(
            is_client=True,
            certificate=identity.certificate,
            private_key=identity.mldsa,
            idle_timeout=IDLE_TIMEOUT,
            ticket=ticket,
        )
        connection.start(now)
        return cls(connection, Machine(Direction.INITIATOR, identity, expected, opening, admit), now)

    @property
    def peer(self) -> NodeId | None:
        """The pinned or authenticated NodeID of the other side."""
        return self._machine.peer

    @property
    def established(self) -> bool:
        """Whether the handshake is complete on this side."""
        return self._machine.state is State.ESTABLISHED

    @property
    def ended(self) -> bool:
        """Whether this link is over."""
        return self._ended

    @property
    def begun(self) -> bool:
        """Whether anything that came could be opened."""
        return self._connection.begun

    @property
    def key_exchange(self) -> str | None:
        """Name of the hybrid group that TLS negotiated."""
        return self._connection.key_exchange

    @property
    def cipher(self) -> str | None:
        """Name of the cipher suite that TLS negotiated; frame packets use the same AEAD."""
        return self._connection.cipher

    @property
    def connection_ids(self) -> set[bytes]:
        """Ids under which datagrams for this link arrive just now."""
        return self._connection.host_cids()

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        if self._ended:
            return None
        times = [time for time in (self._connection.get_timer(), self._expires_at) if time is not None]
        return min(times, default=None)

    def handle_datagram(self, data: bytes, now: float) -> None:
        """Take a datagram for one of `connection_ids`; bad ones are dropped inside."""
        self.heard = True
        self._connection.receive(data, now)
        self._process(now)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if self._expires_at is not None and now >= self._expires_at:
            self._expires_at = None
            self.close(CloseCode.TIMEOUT, "the handshake took too long")
        timer = self._connection.get_timer()
        if timer is not None and now >= timer:
            self._connection.handle_timer(now)
        self._process(now)

    def send(self, message: Message) -> None:
        """Send a control message; only after `Resumed` or `established`."""
        self.send_encoded(messages.encode(message))

    def send_encoded(self, message: bytes) -> None:
        """Send a control message that is encoded already, with its proof; only after `established`."""
        self._write(message)

    def nudge(self) -> None:
        """There is a path again: what was lost meanwhile goes out again at once, not at QUIC's late timer."""
        if self._closing is None and not self._ended:
            self._connection.send_ping(0)

    def _write(self, data: bytes) -> None:
        """Write to the control stream; a peer that stops it or never reads it loses the link."""
        try:
            self._connection.send_stream_data(CONTROL_STREAM, data)
        except (RuntimeError, ValueError):  # aioquic's answer to STOP_SENDING
            self.close(CloseCode.PROTOCOL, "the control stream was stopped")
        if self._connection.unsent(CONTROL_STREAM) > MAX_UNSENT:
            self.close(CloseCode.PROTOCOL, "you do not read what is sent to you")

    def renew(self, now: float) -> None:
        """The peer showed life in the data plane: put off the idle time-out of QUIC."""
        self._connection.renew_idle(now)

    def close(self, code: int, reason: str, clock: float | None = None) -> None:
        """Say goodbye with `reason` (the peer's operator reads it) and end; `clock` is told with it."""
        if self._closing is None and not self._ended:
            told = "" if clock is None else f" [{clock:.0f}]"
            reason = reason[: MAX_REASON - len(told)]
            self._closing = Ended(code, reason, by_peer=False, clock=clock)
            self._connection.close(error_code=code, reason_phrase=reason + told)

    def transmit(self, now: float) -> list[bytes]:
        """Datagrams to send now."""
        datagrams = self._connection.transmit(now)
        if self._closing is not None and not self._ended:
            self._end(self._closing)
        return datagrams

    def next_event(self) -> LinkEvent | None:
        """The next event, or None."""
        return self._events.popleft() if self._events else None

    def _end(self, ended: Ended) -> None:
        self._ended = True
        self._expires_at = None
        if self._secrets is not None:
            self._secrets.wipe()
        self._events.append(ended)

    def _process(self, now: float) -> None:
        while not self._ended and (event := self._connection.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                # The peer's goodbye is taken below at once; this is our own end, or a time-out.
                self._end(self._closing or Ended(CloseCode.TRANSPORT, event.reason_phrase, by_peer=False))
            elif self._closing is None:
                self._guarded(partial(self._handle_event_untrusted, event))
        goodbye = self._connection.closed_by_peer
        if goodbye is not None and not self._ended:
            self._end(self._ended_by(goodbye))
        if self._early and self._connection.handshake_confirmed and not (self._closing or self._ended):
            early, self._early = self._early, []
            self._guarded(partial(self._dispatch_all, early))

    def _ended_by(self, goodbye: ConnectionTerminated) -> Ended:
        """The peer's goodbye, as far as it can be believed.

        Only a close of the application names no frame type.  Before the proofs of both sides anybody may
        have sent it, so only the codes count then that change nothing but when we try again.
        """
        code = goodbye.error_code if goodbye.frame_type is None else CloseCode.TRANSPORT
        if self._machine.agreement is None and code not in _HARMLESS:
            code = CloseCode.TRANSPORT
        reason = printable(goodbye.reason_phrase[:MAX_REASON])
        told = _CLOCK.search(reason) if code == CloseCode.REFUSED else None
        if told is None:
            return Ended(code, reason, by_peer=True)
        return Ended(code, reason[: told.start()], by_peer=True, clock=float(told[1]))

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step on the peer's input; what it refuses ends the link and nothing else."""
        try:
            step()
        except BadPacket as error:
            self.close(CloseCode.PROTOCOL, f"bad control message: {error.reason}")
        except RemoteProtocolError as error:
            refused = error if isinstance(error, Refused) else Refused(CloseCode.REFUSED, str(error))
            self.close(refused.code, str(refused), refused.clock)

    def _handle_event_untrusted(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self._handle_tls_completed()
        elif isinstance(event, StreamDataReceived):
            self._handle_stream_untrusted(event)

    def _handle_tls_completed(self) -> None:
        export = self._connection.export
        proof, confirm, root = (
            bytearray(export(label, b"", ROOT_SIZE))
            for label in (EXPORTER_PROOF, EXPORTER_CONFIRM, EXPORTER_ROOT)
        )
        self._connection.wipe_exporter()
        resumed = self._connection.resumed
        self._secrets = Secrets(proof, confirm, root, self._connection.peer_mldsa_public, resumed)
        self._events.append(Secured(resumed))
        if self._machine.role is Direction.INITIATOR:
            self._write(self._machine.begin(self._secrets))
            if resumed:
                self._events.append(Resumed())

    def _handle_stream_untrusted(self, event: StreamDataReceived) -> None:
        if event.stream_id != CONTROL_STREAM:
            raise BadPacket("unknown_stream")
        complete = self._reassembler.feed_untrusted(event.data)
        if event.end_stream:
            raise BadPacket("control_stream_closed")
        # A client may trust its own view of TLS only when the server has confirmed it (RFC 9001 section
        # 4.1.2): CHALLENGE waits for that, and with it everything behind it.
        if not self._connection.handshake_confirmed or self._early:
            self._early += complete
            if sum(len(body) for _, body in self._early) > MAX_EARLY:
                raise BadPacket("early_messages")
        else:
            self._dispatch_all(complete)

    def _dispatch_all(self, complete: list[tuple[MessageType, bytes]]) -> None:
        for message_type, body in complete:
            if self._closing is not None:
                return
            if message_type in messages.HANDSHAKE:
                self._handle_handshake(message_type, body)
            elif self.established:
                message, _ = messages.decode(message_type, body)
                self._events.append(Received(message, messages.frame(message_type, body)))
            else:
                raise RemoteProtocolError(f"{message_type.name} came before the handshake was done")

    def _handle_handshake(self, message_type: MessageType, body: bytes) -> None:
        assert self._secrets is not None
        agreed = self._machine.agreement is not None
        answer = self._machine.handle(message_type, body, self._secrets)
        if answer:
            self._write(answer)
        initiator = self._machine.role is Direction.INITIATOR
        if not agreed and self._machine.agreement is not None:
            self._events.append(Ready(self._machine.agreement))
        if self.established:
            self._expires_at = None
            self._reassembler.limit = messages.MAX_MESSAGE
            if initiator:
                assert self._machine.confirmation is not None
                self._events.append(Confirmed(self._machine.confirmation))


def accept(
    identity: Identity,
    expected: NodeId | None,
    opening: Opening,
    now: float,
    original_destination_id: bytes,
    retry_source_id: bytes | None = None,
    admit: Admit = admit_all,
    fetch_ticket: Callable[[bytes], PeerTicket | None] | None = None,
    connect: Callable[..., SessionConnection] = SessionConnection,
    make: Callable[[SessionConnection, Machine, float], Link] = Link,
) -> Link:
    """The link of a callee or a relay, for an Initial whose sender's address or channel is proved.

    :param fetch_ticket: gives the ticket of this name, once.
    :param connect, make: the classes, where they are others (`shadowmesh.session.port`).
    """
    connection = connect(
        is_client=False,
        certificate=identity.certificate,
        private_key=identity.mldsa,
        idle_timeout=IDLE_TIMEOUT,
        original_destination_connection_id=original_destination_id,
        retry_source_connection_id=retry_source_id,
        # A ticket proves the host and not the port, so the limit of RFC 9000 section 8.1 holds.
        path_validated=retry_source_id is not None or fetch_ticket is None,
        fetch_ticket=fetch_ticket,
    )
    return make(connection, Machine(Direction.RESPONDER, identity, expected, opening, admit), now)

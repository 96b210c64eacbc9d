"""What may happen on one connection in a session handshake: its messages, and how far each end is in them.

It knows nothing of signatures: a message counts if it is, byte for byte, the next one that the other end of
this very connection has sent.
"""

from __future__ import annotations

INITIATOR, RESPONDER = "initiator", "responder"
SENDER = {"HELLO": INITIATOR, "CHALLENGE": RESPONDER, "RESPONSE": INITIATOR, "ESTABLISHED": RESPONDER}
FULL = ["HELLO", "CHALLENGE", "RESPONSE", "ESTABLISHED"]
RESUMED = ["HELLO", "CHALLENGE", "ESTABLISHED"]


class Connection:
    """Both ends of a connection.

    :param sound: whether it is one connection, and each end sees the other's certificate and pins no third.
    :param refused: the ends that let nobody in.
    """

    def __init__(self, resumed: bool, sound: bool, refused: set[str]) -> None:
        self.script = RESUMED if resumed else FULL
        self.sent: list[bytes] = []
        self.seen = {INITIATOR: 0, RESPONDER: 0}
        """Messages that each end has sent or accepted."""
        self.failed = {INITIATOR: False, RESPONDER: False}
        self._sound = sound
        self._refused = refused

    def next_for(self, end: str) -> bytes | None:
        """The one message that this end would take now, if it has been sent."""
        turn = self.seen[end]
        waits = turn < len(self.script) and SENDER[self.script[turn]] != end
        return self.sent[turn] if waits and turn < len(self.sent) and not self.failed[end] else None

    def accepts(self, end: str, message: bytes) -> bool:
        """Deliver a message; an end that does not accept it has failed."""
        good = self._sound and end not in self._refused and message == self.next_for(end)
        if good:
            self.seen[end] += 1
        else:
            self.failed[end] = True
        return good

    def send(self, end: str, message: bytes) -> None:
        """This end sends its next message."""
        assert SENDER[self.script[self.seen[end]]] == end
        self.sent.append(message)
        self.seen[end] += 1

    def established(self, end: str) -> bool:
        """Whether this end has seen it to its end, and nothing wrong since."""
        return self.seen[end] == len(self.script) and not self.failed[end]

    def has_keys(self, end: str) -> bool:
        """Whether this end has all proofs of the other, and so keys: all but ESTABLISHED is over."""
        return self.seen[end] >= len(self.script) - 1

"""The control messages in the bytes of a stream; sizes are bounded before anything is decoded."""

from __future__ import annotations

from shadowmesh.errors import BadPacket
from shadowmesh.wire.messages import HEADER_SIZE, MAX_HANDSHAKE_MESSAGE, MessageType


class Reassembler:
    """Cuts the bytes of a stream into messages; holds at most one incomplete message."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.limit = MAX_HANDSHAKE_MESSAGE

    def feed_untrusted(self, data: bytes) -> list[tuple[MessageType, bytes]]:
        """Types and bodies of the messages that `data` completes.

        Raises BadPacket("oversized_message" | "unknown_message") as soon as a header shows it.
        """
        self._buffer += data
        complete = []
        while len(self._buffer) >= HEADER_SIZE:
            size = int.from_bytes(self._buffer[1:HEADER_SIZE], "big")
            if size > self.limit:
                raise BadPacket("oversized_message")
            try:
                message_type = MessageType(self._buffer[0])
            except ValueError:
                raise BadPacket("unknown_message") from None
            if len(self._buffer) < HEADER_SIZE + size:
                break
            complete.append((message_type, bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + size])))
            del self._buffer[: HEADER_SIZE + size]
        return complete

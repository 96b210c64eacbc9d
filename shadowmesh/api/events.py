"""Server-sent events of the local control API: who reads, what waits for each, who is too slow.

A stream is bounded in bytes and in time: a reader that falls behind is cut off and counted, since half of the
events would be worse than none; it may connect again. Knows nothing of what is told.
Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shadowmesh.errors import ShadowMeshError

MAX_STREAMS = 16
"""At once: a dashboard, a terminal or two, and some programs."""
MAX_GUEST_STREAMS = 8
"""Of these, of users other than root and our own."""
MAX_QUEUED = 2 << 20
"""Bytes that may wait for one reader: two statuses of 512 peers, or ten thousand lines of the log."""
PATIENCE = 10.0
"""Seconds that a reader may let what was sent to it lie."""
HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent: the Standard's advice (section 9.2.7)."""
COMMENT = b":\n\n"
RETRY = b"retry: 2000\n\n"
"""First on each stream: milliseconds after which a browser connects again."""


class TooManyStreams(ShadowMeshError):
    """All places are taken."""


class Stream:
    """What waits for one reader.

    :param kinds: the events that it wants.
    :param abort: ends its connection at once.
    """

    def __init__(self, kinds: frozenset[str], abort: Callable[[], None], is_guest: bool) -> None:
        self.kinds = kinds
        self.is_guest = is_guest
        self.ended = False
        self.sending = False
        """Whether the reader is being waited for."""
        self.abort = abort
        self._waiting = bytearray(RETRY)
        self._changed = asyncio.Event()
        self._changed.set()

    def put(self, chunk: bytes) -> bool:
        """Queue one event; False if there is no room for it."""
        if len(self._waiting) + len(chunk) > MAX_QUEUED:
            return False
        self._waiting += chunk
        self._changed.set()
        return True

    async def take(self) -> bytes:
        """All that waits, a comment if nothing comes for a while, nothing at the end."""
        try:
            async with asyncio.timeout(HEARTBEAT):
                await self._changed.wait()
        except TimeoutError:
            return COMMENT
        self._changed.clear()
        taken, self._waiting = bytes(self._waiting), bytearray()
        return b"" if self.ended else taken

    def end(self) -> None:
        """Nothing more is sent; what waits is forgotten."""
        self.ended = True
        self._changed.set()


class Streams:
    """All that are open."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self.cut = 0
        """Streams that were ended because they were not read."""

    def open(self, kinds: frozenset[str], abort: Callable[[], None], is_guest: bool) -> Stream:
        """A new one. Raises TooManyStreams."""
        guests = sum(stream.is_guest for stream in self._open)
        if len(self._open) >= MAX_STREAMS or (is_guest and guests >= MAX_GUEST_STREAMS):
            raise TooManyStreams(f"{len(self._open)} programs read events already; end one of them")
        stream = Stream(kinds, abort, is_guest)
        self._open.add(stream)
        return stream

    def wanted(self, *kinds: str) -> bool:
        """Whether anybody wants events of any of these kinds."""
        return any(not stream.kinds.isdisjoint(kinds) for stream in self._open)

    def publish(self, kind: str, body: object, number: int | None = None) -> None:
        """Tell all who want it."""
        readers = [stream for stream in self._open if kind in stream.kinds]
        if readers:
            chunk = event(kind, body, number)
            for stream in readers:
                if not stream.put(chunk):
                    self.cut_off(stream)

    def cut_off(self, stream: Stream) -> None:
        """End a stream that is not read, and count it."""
        if stream in self._open:
            self.cut += 1
            stream.abort()
            self.close(stream)

    def close(self, stream: Stream) -> None:
        """It is over, for whatever reason."""
        stream.end()
        self._open.discard(stream)

    def close_all(self) -> None:
        """The program stops, and waits for no reader."""
        for stream in list(self._open):
            self.close(stream)
            if stream.sending:
                stream.abort()


def event(kind: str, body: object, number: int | None = None) -> bytes:
    """One event; its data is a line of JSON. `number` becomes its id, which comes back as Last-Event-ID."""
    head = f"event: {kind}\n" if number is None else f"event: {kind}\nid: {number}\n"
    return b"%sdata: %s\n\n" % (head.encode(), msgspec.json.encode(body))


class EventStream(Response):
    """Answers with what is put into `stream`, until it ends or the reader goes."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, stream: Stream) -> None:
        super().__init__(headers={"cache-control": "no-store", "connection": "close"})
        del self.headers["content-length"]
        self._streams = streams
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = asyncio.create_task(self._until_gone(receive), name="reader of events")
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            while chunk := await self._stream.take():
                await self._send(send, chunk)
            if not reader.done():
                await self._send(send, b"", more=False)
        except TimeoutError:
            self._streams.cut_off(self._stream)
            await reader  # its end is that of the connection
        finally:
            self._streams.close(self._stream)
            reader.cancel()

    async def _send(self, send: Send, chunk: bytes, more: bool = True) -> None:
        self._stream.sending = True
        async with asyncio.timeout(PATIENCE):
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
        self._stream.sending = False

    async def _until_gone(self, receive: Receive) -> None:
        """Also told once the answer is complete."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._streams.close(self._stream)

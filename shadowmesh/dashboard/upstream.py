"""GET requests to the client's local API over its Unix socket, inside an event loop; answers may be endless.

Nothing is read ahead: who takes an answer slowly makes the client wait, which bounds that by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h11

from shadowmesh.api.client import ApiFailed, NotRunning

HEAD_TIMEOUT = 5.0
"""Seconds for the head of an answer, as of the verbs (`api.client.TIMEOUT`)."""

CHUNK = 65536
"""Bytes that are asked of the socket at once."""


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer of the client; `body` yields its bytes as they come. Raises ApiFailed where it breaks.

    `end()` breaks it.
    """

    status: int
    content_type: str
    body: AsyncIterator[bytes]
    end: Callable[[], None]


@contextlib.asynccontextmanager
async def get(path: Path, target: str) -> AsyncIterator[Answer]:
    """Ask the client on the socket at `path`; the connection ends with the body of `async with`.

    Raises NotRunning or ApiFailed.
    """
    async with _connection(path) as (reader, writer):
        link = h11.Connection(h11.CLIENT)
        headers = [("Host", "localhost"), ("Connection", "close")]
        asked = h11.Request(method="GET", target=target, headers=headers)
        with _explained(path):
            writer.write((link.send(asked) or b"") + (link.send(h11.EndOfMessage()) or b""))
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await _next_event(link, reader)
        if not isinstance(head, h11.Response):
            raise ApiFailed(f"the client on {path} does not answer: it has ended")
        kinds = [value.decode("latin-1") for name, value in head.headers if name == b"content-type"]
        yield Answer(
            head.status_code, kinds[0] if kinds else "", _body(path, link, reader), writer.transport.abort
        )


@contextlib.asynccontextmanager
async def _connection(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with _explained(path):
        reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _body(path: Path, link: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        with _explained(path):
            event = await _next_event(link, reader)
        if not isinstance(event, h11.Data):
            return
        yield bytes(event.data)


async def _next_event(link: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := link.next_event()) is h11.NEED_DATA:
        link.receive_data(await reader.read(CHUNK))
    return event


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong, in the words of the verbs."""
    try:
        yield
    except FileNotFoundError:
        raise NotRunning(f"no client runs here: there is no socket {path}") from None
    except ConnectionRefusedError:
        raise NotRunning(f"no client runs here: nobody answers on {path}") from None
    except PermissionError:
        raise ApiFailed(f"may not open {path}: who runs the dashboard has no right to it") from None
    except (OSError, h11.RemoteProtocolError) as error:
        raise ApiFailed(f"the client on {path} does not answer: {str(error) or 'it is late'}") from None

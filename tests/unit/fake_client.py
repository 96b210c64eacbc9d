"""A client's local API without a client: what a test puts into it is what the dashboard gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shadowmesh.web.server import json_answer, serve_unix


class FakeClient:
    """Answers `documents` and sends what `send` is given to whoever listens; `asked` are the paths."""

    def __init__(self, path: Path, documents: dict[str, object]) -> None:
        self.path = path
        self.documents = documents
        self.asked: list[str] = []
        self.streams: set[asyncio.Queue[bytes]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the body runs; streams end with it."""
        app = Starlette(
            routes=[
                Route("/v1/events", self._events, methods=["GET"]),
                Route("/{path:path}", self._document, methods=["GET", "POST"]),
            ]
        )
        async with serve_unix(self.path, app):
            try:
                yield
            finally:
                for queue in self.streams:
                    queue.put_nowait(b"")

    def send(self, kind: str, data: object) -> None:
        """One event to all streams."""
        for queue in self.streams:
            queue.put_nowait(b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data)))

    async def _document(self, request: Request) -> Response:
        path, query = request.url.path, request.url.query
        self.asked.append(f"{path}?{query}" if query else path)
        if path not in self.documents:
            return json_answer(404, {"error": "not-found", "message": "no such thing"})
        return json_answer(200, self.documents[path])

    async def _events(self, _request: Request) -> Response:
        self.asked.append("/v1/events")
        queue: asyncio.Queue[bytes] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            self.streams.add(queue)
            try:
                yield b": welcome\n\n"
                while data := await queue.get():
                    yield data
            finally:
                self.streams.discard(queue)

        return StreamingResponse(body(), media_type="text/event-stream")

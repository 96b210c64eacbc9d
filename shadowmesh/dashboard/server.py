"""The dashboard's web server: a page, and the answers of the client's local API that the page shows.

1. `Guard` looks at every request before anything else does: who is asked (Host), who asks (Origin), and adds
   to every answer what browsers are to hold the page to.
2. The page itself says nothing of the network and is for everybody who can connect.
3. `POST /session` takes the token and gives a cookie, which scripts can't read, and a key, which pages of
   other ports can't: cookies know no ports. Everything under /v1 wants both.
4. GET requests of a fixed list are passed on to the client, with the rights of whoever runs the dashboard.

It changes nothing, keeps nothing of what it passes on, and writes no log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.api.client import ApiFailed, NotRunning
from shadowmesh.dashboard.upstream import Answer, get
from shadowmesh.units import Address
from shadowmesh.web.server import (
    application,
    bind_tcp,
    guarded,
    json_answer,
    problem_answer,
    serve,
    serve_unix,
)

PAGE = Path(__file__).parent / "page"

DOCUMENTS = ("/v1/status", "/v1/samples", "/v1/log")
"""What of the client's API is passed on whole."""

EVENTS = "/v1/events"
"""What is passed on while it comes."""

SESSION = "/session"

MAX_ANSWER = 16 << 20
"""Bytes of a document: 300 s of 1000 peers are 10 MiB."""

MAX_STREAMS = 8
"""At once, half of what the client has (`api.events.MAX_STREAMS`): an open page has one."""

KEY_HEADER = "x-shadowmesh-key"

_LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
"""Names that no DNS server can point elsewhere, so that a page of another name, which was made to mean this
machine (DNS rebinding), gets nothing. The port is any: ssh -L brings its own."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer. Trusted types make a browser refuse every way from text to markup, so that what members
call themselves can't become any, whatever the page does."""


class Guard:
    """ASGI middleware: refuses what no page of ours asks, and adds `HEADERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        why = _refusal(Headers(scope=scope), scope["path"])
        answer: ASGIApp = problem_answer(403, "forbidden", why) if why else self._app
        await answer(scope, receive, send_with_headers)


def _refusal(headers: Headers, path: str) -> str:
    """Why a request is not answered; empty if it is.

    A browser says by Sec-Fetch-Site (Fetch Metadata) who asks; for the page itself that may be anybody, as
    somebody followed a link.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _LOCAL_HOST.fullmatch(hosts[0]):
        return "the dashboard is http://127.0.0.1, http://[::1] or http://localhost"
    foreign = any(origin != f"http://{hosts[0]}" for origin in headers.getlist("origin"))
    if path == SESSION or path.startswith("/v1/"):
        foreign |= headers.get("sec-fetch-site", "same-origin") != "same-origin"
    return "only the dashboard's own page may ask this" if foreign else ""


class Dashboard:
    """The application, for one run.

    :param client: the socket of the client.
    :param token: opens the dashboard, as long as it runs.
    """

    def __init__(self, client: Path, token: str) -> None:
        self._client = client
        self._token = token
        self._cookie, self._key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._cookie_name = f"shadowmesh-{secrets.token_hex(4)}"
        """Two dashboards that a browser has open at two ports would otherwise take each other's cookie."""
        self._room = asyncio.BoundedSemaphore(MAX_STREAMS)
        self._streams: set[Answer] = set()
        self.app = application(
            [
                *_page(),
                Route(SESSION, guarded(self._open), methods=["POST"]),
                *(Route(path, guarded(self._document), methods=["GET"]) for path in DOCUMENTS),
                Route(EVENTS, guarded(self._events), methods=["GET"]),
            ],
            [Middleware(Guard)],
        )

    def end_streams(self) -> None:
        """Streams never end by themselves, and whoever stops the server need not wait for them."""
        for answer in self._streams:
            answer.end()

    async def _open(self, request: Request) -> Response:
        """Token against cookie and key."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _same(token, self._token):
            return _not_opened()
        answer = json_answer(200, {"key": self._key})
        answer.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="strict", path="/v1/")
        return answer

    def _is_open(self, request: Request) -> bool:
        cookie = _same(request.cookies.get(self._cookie_name, ""), self._cookie)
        return _same(request.headers.get(KEY_HEADER, ""), self._key) and cookie

    async def _document(self, request: Request) -> Response:
        if not self._is_open(request):
            return _not_opened()
        try:
            async with get(self._client, request.url.path) as answer:
                body = bytearray()
                async for chunk in answer.body:
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise ApiFailed(f"the client's answer has more than {MAX_ANSWER} bytes")
                return Response(bytes(body), answer.status, media_type=answer.content_type)
        except (NotRunning, ApiFailed) as error:
            return problem_answer(502, "failed", error.told)

    async def _events(self, request: Request) -> Response:
        if not self._is_open(request):
            return _not_opened()
        if self._room.locked():
            return problem_answer(503, "busy", f"{MAX_STREAMS} pages are open already; close one")
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(self._room)
                answer = await stack.enter_async_context(get(self._client, EVENTS))
                self._streams.add(answer)
                stack.callback(self._streams.discard, answer)
                return _Stream(answer, stack.pop_all())
        except (NotRunning, ApiFailed) as error:
            return problem_answer(502, "failed", error.told)


class _Stream(StreamingResponse):
    """What the client sends, as it comes; `stack` is closed with it, whoever ends it."""

    def __init__(self, answer: Answer, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(_until_it_breaks(answer.body), answer.status, media_type=answer.content_type)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _until_it_breaks(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The page sees the end, asks again, and is told why."""
    with contextlib.suppress(ApiFailed):
        async for chunk in body:
            yield chunk


def _not_opened() -> Response:
    text = "open the address that `shadowmesh-client dashboard` printed: it has the token of this run"
    return problem_answer(401, "forbidden", text)


def _same(given: str, right: str) -> bool:
    """Compares in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


def _page() -> list[Route]:
    """A route for each file of the page; they are read once."""

    def route(path: Path) -> Route:
        body, kind = path.read_bytes(), _TYPES[path.suffix]

        async def answer(_request: Request) -> Response:
            return Response(body, media_type=kind)

        return Route("/" if path.name == "index.html" else f"/{path.name}", answer, methods=["GET"])

    return [route(path) for path in sorted(PAGE.iterdir()) if path.suffix in _TYPES]


async def run(
    client: Path, where: Address | Path, token: str, ready: Callable[[Address | Path], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    :param client: the socket of the client.
    :param where: loopback address (port 0: any that is free), or the path of a Unix socket of mode 0600.
    :param ready: is told where it listens in fact.

    Raises OSError, or SocketInUse.
    """
    dashboard = Dashboard(client, token)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(where, Path):
            await stack.enter_async_context(serve_unix(where, dashboard.app))
        else:
            listener = stack.enter_context(bind_tcp(where))
            where = _address_of(listener)
            await stack.enter_async_context(serve(listener, dashboard.app))
        stack.callback(dashboard.end_streams)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
            stack.callback(loop.remove_signal_handler, number)
        ready(where)
        await stopped.wait()


def _address_of(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host, port)

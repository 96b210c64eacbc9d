"""HTTP served by a daemon of ours on this machine: sockets, the server in its event loop, errors as JSON.

Decides nothing about what is asked; takes no signals, writes no access log, and sleeps while nobody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import h11
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import ShadowMeshError
from shadowmesh.units import Address
from shadowmesh.web.caller import Caller, caller_of
from shadowmesh.web.problem import ErrorKind, Problem

log = logging.getLogger(__name__)

MAX_BODY = 32_768
"""Bytes of a request body; the largest that makes sense has 17,500: a delegation in base64."""

MAX_CONNECTIONS = 64
"""At once at one socket; more are closed at once. A program that asks has one or two."""

MAX_GUESTS = 32
"""Of these, of users other than root and our own, so that no member of a group locks these out."""

REQUEST_TIMEOUT = 10.0
"""Seconds for a whole request, from the begin or the answer before; and for an answer to be read."""

SHUTDOWN_TIMEOUT = 2
"""Seconds that running requests (a ping, the `down` itself) get to finish when the daemon stops."""

Handler = Callable[[Request], Awaitable[Response]]
Asked = TypeVar("Asked")


class SocketInUse(ShadowMeshError):
    """Another daemon answers on the socket already."""


@contextlib.asynccontextmanager
async def serve_unix(path: Path, app: Starlette, group: int | None = None) -> AsyncIterator[None]:
    """Answer on `path` while the body runs. Raises SocketInUse, or OSError if it can't be bound.

    :param group: gid whose members may connect as well as the owner.
    """
    listener = bind_socket(path, group)
    inode = _inode(path)
    try:
        async with serve(listener, app):
            yield
    finally:
        listener.close()
        _remove_socket(path, inode)


@contextlib.asynccontextmanager
async def serve(listener: socket.socket, app: Starlette) -> AsyncIterator[None]:
    """Answer on a listening socket while the body runs."""
    server = _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what anybody sends wrong is answered, and fills no disk
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="HTTP server")
    try:
        yield
    finally:
        server.stop()
        await serving


def bind_tcp(address: Address) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=16)


def bind_socket(path: Path, group: int | None = None) -> socket.socket:
    """A listening socket of mode 0600 at `path`, 0660 and of `group` if there is one.

    A socket file that nobody answers on is replaced. Raises SocketInUse if a daemon answers there, OSError
    for everything else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _locked(path.parent):
            if path.exists():
                _refuse_if_answered(path)
                path.unlink()
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            if group is not None:
                _open_to(path, group)
            listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def _open_to(path: Path, group: int) -> None:
    """In this order nobody else can connect in between; a service manager may have set the group already."""
    if path.stat().st_gid != group:
        os.chown(path, -1, group)
    path.chmod(0o660)


class Protocol(H11Protocol):
    """uvicorn's, which would wait for ever for the rest of a request, and for who reads no answer.

    Handlers find it as `request.state.connection`.
    """

    caller: Caller | None = None
    """Who asks; None over TCP."""
    streams = False
    """Set by a handler whose answer goes on and on, and which looks itself after who does not read it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.caller = caller_of(transport.get_extra_info("socket"))
        self.app_state = {**self.app_state, "connection": self}
        self._late = self.loop.call_later(REQUEST_TIMEOUT, self._look)
        guests = sum(isinstance(one, Protocol) and one.is_guest for one in self.connections)
        if len(self.connections) > MAX_CONNECTIONS or (self.is_guest and guests > MAX_GUESTS):
            transport.abort()

    @property
    def is_guest(self) -> bool:
        """Whether it comes of a user other than root and our own."""
        return self.caller is not None and not self.caller.owns_us

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._late.cancel()
        self._late = self.loop.call_later(REQUEST_TIMEOUT, self._look)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # it is answered already, or was a HEAD, whose answer has no body
            self.transport.close()

    def _look(self) -> None:
        """It is our turn, or it is late."""
        if self.streams:
            return
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._late = self.loop.call_later(REQUEST_TIMEOUT, self._look)


class _Server(uvicorn.Server):
    """uvicorn inside somebody else's process: signals belong to the daemon, and an idle one sleeps.

    Its own loop wakes ten times a second to renew a Date header, which we don't send, and to see whether
    it should end.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._ending.wait()

    def stop(self) -> None:
        self.should_exit = True
        self._ending.set()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Without it, two daemons that start at once could each remove the other's fresh socket."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _refuse_if_answered(path: Path) -> None:
    if not path.is_socket():
        raise OSError(errno.EEXIST, "exists and is not a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # EAGAIN is a live daemon whose backlog is full.
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            raise SocketInUse(f"a program answers on {path} already")


def _remove_socket(path: Path, inode: int | None) -> None:
    """Remove our socket file, but not one that another daemon has put there since."""
    if inode is not None and _inode(path) == inode:
        path.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def application(routes: list[Route], middleware: Sequence[Middleware] = ()) -> Starlette:
    """What answers with these routes, and with a Problem for everything else: no redirect to a path without a
    slash at its end, which would name whatever host the request named."""
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: http_error})
    app.router.redirect_slashes = False
    return app


def guarded(handler: Handler) -> Handler:
    """A handler that answers every failure of its own as a Problem."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except msgspec.MsgspecError as error:
            return problem_answer(400, "bad-request", str(error))
        except HTTPException:
            raise
        except ClientDisconnect:
            return problem_answer(400, "bad-request", "a part of the request is missing")
        except Exception:
            log.exception("%s %s failed [program.bug]", request.method, request.url.path)
            return problem_answer(500, "failed", "the program failed to answer; its log says why")

    return answer


async def read_body(request: Request) -> bytes:
    """At most `MAX_BODY` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request has at most {MAX_BODY} bytes")
    return bytes(body)


async def read_struct(request: Request, kind: type[Asked]) -> Asked:
    """The body as a struct. Raises msgspec.MsgspecError, which `guarded` answers."""
    try:
        return msgspec.json.decode(await read_body(request), type=kind)
    except UNDECODABLE as error:
        raise msgspec.DecodeError(str(error)) from None


async def http_error(request: Request, error: Exception) -> Response:
    """What starlette refuses by itself, as a Problem."""
    assert isinstance(error, HTTPException)
    kinds: dict[int, ErrorKind] = {404: "not-found", 413: "too-large"}
    kind = kinds.get(error.status_code, "bad-request")
    return problem_answer(error.status_code, kind, f"{request.method} {request.url.path}: {error.detail}")


def json_answer(code: int, body: object) -> Response:
    """An answer with a struct, or anything that msgspec takes, as JSON."""
    return Response(msgspec.json.encode(body), code, media_type="application/json")


def problem_answer(code: int, error: ErrorKind, message: str) -> Response:
    """An answer that is not 2xx."""
    return json_answer(code, Problem(error=error, message=message))


def refused_answer(refusal: ShadowMeshError) -> Response:
    """What was asked for makes sense to nobody but the program, and it says no."""
    ids = [error_id for _, error_id in refusal.lines()]
    return json_answer(422, Problem(error="refused", message=str(refusal), ids=ids))

"""The daemon's side of the local control API: a starlette application on a Unix socket.

Runs inside the daemon's event loop and asks one object (`Control`) for everything; it decides nothing
about the node, takes no signals and writes no access log. Whoever can open the socket (mode 0600: its
owner) may do everything the API offers, so there is no further authentication.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shadowmesh.api.schema import (
    DelegateReply,
    ErrorKind,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationVerdict,
    Netcheck,
    PingReply,
    PingRequest,
    Problem,
    ReloadReply,
    RevocationsReply,
    RevocationsRequest,
    Status,
    VerdictReply,
    WhyReply,
    WhyRequest,
)
from shadowmesh.errors import ConfigError, ShadowMeshError

log = logging.getLogger(__name__)

MAX_BODY = 32_768
"""Bytes of a request body; the largest that makes sense has 17,500: a delegation in base64."""

SHUTDOWN_TIMEOUT = 2
"""Seconds that running requests (a ping, the `down` itself) get to finish when the daemon stops."""

Asked = TypeVar("Asked")
Handler = Callable[[Request], Awaitable[Response]]


class SocketInUse(ShadowMeshError):
    """Another daemon answers on the socket already."""


class Control(Protocol):
    """What the daemon offers to this API. All calls come from the daemon's own event loop."""

    def status(self) -> Status:
        """A snapshot, made now."""

    async def ping(self, peer: str, timeout: float) -> PingReply:  # noqa: ASYNC109
        """One round trip. Raises LookupError (no such peer) or TimeoutError (no session, no reply)."""

    def why(self, peer: str) -> WhyReply:
        """Why frames to this peer take the path that they take. Raises LookupError (no such peer)."""

    def take_revocations(self, file: str) -> RevocationsReply:
        """Read a revocation list and act on it. Raises ConfigError."""

    async def netcheck(self) -> Netcheck:
        """How the network around this node looks; takes some seconds."""

    def reload(self) -> ReloadReply:
        """Read the configuration again and use what can be changed. Raises ConfigError, changing nothing."""

    def invitations(self) -> InvitationsReply:
        """All invitations of this node. Raises ConfigError if it is in no network, as the next three do."""

    def delegate(self) -> DelegateReply:
        """The keys that a delegation must name."""

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        """Open an invitation. Raises ConfigError."""

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        """A person's word on a waiting node, or on an invitation. Raises ConfigError."""

    def request_stop(self) -> None:
        """Begin to stop; returns at once."""


@contextlib.asynccontextmanager
async def serve_api(path: Path, control: Control) -> AsyncIterator[None]:
    """Answer on `path` while the body runs. Raises SocketInUse, or OSError if it can't be bound."""
    listener = bind_socket(path)
    inode = _inode(path)
    try:
        server = _Server(
            uvicorn.Config(
                create_app(control),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="control API")
        try:
            yield
        finally:
            server.stop()
            await serving
    finally:
        listener.close()
        _remove_socket(path, inode)


def create_app(control: Control) -> Starlette:
    """The application; its routes are in docs/cli.md."""

    async def status(_request: Request) -> Response:
        return _json(200, control.status())

    async def ping(request: Request) -> Response:
        wanted = msgspec.json.decode(await _body(request), type=PingRequest)
        try:
            return _json(200, await control.ping(wanted.peer, wanted.timeout))
        except LookupError:
            return _unknown_peer(wanted.peer)
        except TimeoutError as error:
            return _problem(504, "no-reply", str(error) or f"no reply within {wanted.timeout:g} s")

    async def why(request: Request) -> Response:
        wanted = msgspec.json.decode(await _body(request), type=WhyRequest)
        try:
            return _json(200, control.why(wanted.peer))
        except LookupError:
            return _unknown_peer(wanted.peer)

    async def netcheck(_request: Request) -> Response:
        return _json(200, await control.netcheck())

    async def down(_request: Request) -> Response:
        control.request_stop()
        return _json(202, {})

    return Starlette(
        routes=[
            Route("/v1/status", _guarded(status), methods=["GET"]),
            Route("/v1/ping", _guarded(ping), methods=["POST"]),
            Route("/v1/why", _guarded(why), methods=["POST"]),
            Route("/v1/revocations", _guarded(_revocations(control)), methods=["POST"]),
            Route("/v1/netcheck", _guarded(netcheck), methods=["POST"]),
            Route("/v1/reload", _told(control.reload), methods=["POST"]),
            Route("/v1/invitations", _told(control.invitations), methods=["GET"]),
            Route("/v1/invitations", _asked(InvitationRequest, control.invite), methods=["POST"]),
            Route("/v1/invitations/delegate", _told(control.delegate), methods=["GET"]),
            Route("/v1/invitations/verdict", _asked(InvitationVerdict, control.judge), methods=["POST"]),
            Route("/v1/down", _guarded(down), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )


def _revocations(control: Control) -> Handler:
    async def revocations(request: Request) -> Response:
        wanted = msgspec.json.decode(await _body(request), type=RevocationsRequest)
        try:
            return _json(200, control.take_revocations(wanted.file))
        except ConfigError as error:
            return _problem(400, "bad-request", str(error))

    return revocations


def _told(question: Callable[[], object]) -> Handler:
    """Answers without a body; ConfigError says why not."""

    async def answer(_request: Request) -> Response:
        try:
            return _json(200, question())
        except ConfigError as error:
            return _problem(422, "refused", str(error))

    return _guarded(answer)


def _asked(kind: type[Asked], question: Callable[[Asked], object]) -> Handler:
    """The same, with a body."""

    async def answer(request: Request) -> Response:
        wanted = msgspec.json.decode(await _body(request), type=kind)
        try:
            return _json(200, question(wanted))
        except ConfigError as error:
            return _problem(422, "refused", str(error))

    return _guarded(answer)


def bind_socket(path: Path) -> socket.socket:
    """A listening socket of mode 0600 at `path`. A socket file that nobody answers on is replaced.

    Raises SocketInUse if a daemon answers there, OSError for everything else.
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
            listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


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
            raise SocketInUse(f"a client answers on {path} already")


def _remove_socket(path: Path, inode: int | None) -> None:
    """Remove our socket file, but not one that another daemon has put there since."""
    if inode is not None and _inode(path) == inode:
        path.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _guarded(handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except msgspec.MsgspecError as error:
            return _problem(400, "bad-request", str(error))
        except HTTPException:
            raise
        except Exception:
            log.exception("control API: %s %s failed", request.method, request.url.path)
            return _problem(500, "failed", "the client failed to answer; its log says why")

    return answer


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request has at most {MAX_BODY} bytes")
    return bytes(body)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds: dict[int, ErrorKind] = {404: "not-found", 413: "too-large"}
    kind = kinds.get(error.status_code, "bad-request")
    return _problem(error.status_code, kind, f"{request.method} {request.url.path}: {error.detail}")


def _json(code: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), code, media_type="application/json")


def _unknown_peer(label: str) -> Response:
    return _problem(404, "unknown-peer", f"there is no peer {label!r} in the configuration")


def _problem(code: int, error: ErrorKind, message: str) -> Response:
    return _json(code, Problem(error=error, message=message))

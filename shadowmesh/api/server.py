"""The daemon's side of the local control API: a starlette application on a Unix socket.

Runs inside the daemon's event loop and asks one object (`Control`) for everything; it decides nothing
about the node, takes no signals and writes no access log. Whoever can open the socket may read; what
changes something is for root and the daemon's own user, as the kernel names them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shadowmesh.api.events import EventStream, Stream, Streams, TooManyStreams
from shadowmesh.api.live import EventsQuery, LogQuery, LogReply, Samples, SamplesQuery
from shadowmesh.api.openapi import document
from shadowmesh.api.routes import OPERATIONS, Operation
from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationVerdict,
    Netcheck,
    PingReply,
    PingRequest,
    ReloadReply,
    RevocationsReply,
    RevocationsRequest,
    Status,
    VerdictReply,
    WhyReply,
    WhyRequest,
)
from shadowmesh.errors import ConfigError
from shadowmesh.spelling import did_you_mean
from shadowmesh.web.server import (
    Handler,
    application,
    guarded,
    json_answer,
    problem_answer,
    read_struct,
    refused_answer,
    serve_unix,
)
from shadowmesh.web.server import Protocol as Connection

Asked = TypeVar("Asked")


class Live(Protocol):
    """What the daemon tells of the time that passes."""

    @property
    def streams(self) -> Streams:
        """The readers of events."""

    def samples(self, wanted: SamplesQuery) -> Samples:
        """The latest samples; asking keeps the sampling going."""

    def log(self, wanted: LogQuery) -> LogReply:
        """The latest lines of the log."""

    def greet(self, stream: Stream, last: int | None) -> None:
        """A new stream: put into it what it begins with.

        :param last: number of the last line of the log that its reader knows.
        """


class Control(Protocol):
    """What the daemon offers to this API. All calls come from the daemon's own event loop."""

    @property
    def live(self) -> Live:
        """What passes."""

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
async def serve_api(path: Path, control: Control, group: int | None = None) -> AsyncIterator[None]:
    """Answer on `path` while the body runs. Raises SocketInUse, or OSError if it can't be bound.

    :param group: gid whose members may read.
    """
    async with serve_unix(path, create_app(control), group):
        try:
            yield
        finally:
            control.live.streams.close_all()


def create_app(control: Control) -> Starlette:
    """The application; its routes are those of `OPERATIONS`."""
    handlers: dict[str, Handler] = {
        "status": _told(control.status),
        "samples": _queried(SamplesQuery, control.live.samples),
        "log": _queried(LogQuery, control.live.log),
        "events": _events(control.live),
        "ping": _ping(control),
        "why": _why(control),
        "netcheck": _netcheck(control),
        "revocations": _revocations(control),
        "reload": _told(control.reload),
        "invitations": _told(control.invitations),
        "invite": _asked(InvitationRequest, control.invite),
        "delegate": _told(control.delegate),
        "judge": _asked(InvitationVerdict, control.judge),
        "down": _down(control),
        "openapi": _told(functools.cache(document)),
    }
    return application(
        [
            Route(one.path, guarded(_permitted(one, handlers[one.id])), methods=[one.method])
            for one in OPERATIONS
        ]
    )


def _permitted(operation: Operation, handler: Handler) -> Handler:
    """For everybody if it only reads, else for root and our own user."""
    if not operation.changes:
        return handler

    async def answer(request: Request) -> Response:
        connection: Connection = request.state.connection
        caller = connection.caller
        if caller is not None and caller.owns_us:
            return await handler(request)
        who = "whoever asks" if caller is None else f"the user with uid {caller.uid}"
        text = (
            f"{who} may read here and change nothing: {operation.method} {operation.path} is for root and "
            f"for the user that the client runs as (uid {os.geteuid()}); use sudo"
        )
        return problem_answer(403, "forbidden", text)

    return answer


def _events(live: Live) -> Handler:
    async def events(request: Request) -> Response:
        wanted = _query(request, EventsQuery)
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        connection: Connection = request.state.connection
        try:
            kinds = frozenset(wanted.kinds.split(","))
            stream = live.streams.open(kinds, connection.transport.abort, connection.is_guest)
        except TooManyStreams as error:
            return problem_answer(503, "busy", str(error))
        connection.streams = True
        last = request.headers.get("last-event-id", "")
        try:
            live.greet(stream, int(last) if last.isdecimal() and len(last) < 20 else None)
        except BaseException:
            live.streams.close(stream)  # nobody else would, and there are few places
            raise
        return EventStream(live.streams, stream)

    return events


def _ping(control: Control) -> Handler:
    async def ping(request: Request) -> Response:
        wanted = await read_struct(request, PingRequest)
        try:
            return json_answer(200, await control.ping(wanted.peer, wanted.timeout))
        except LookupError:
            return _unknown_peer(wanted.peer, control)
        except TimeoutError as error:
            return problem_answer(504, "no-reply", str(error) or f"no reply within {wanted.timeout:g} s")

    return ping


def _why(control: Control) -> Handler:
    async def why(request: Request) -> Response:
        wanted = await read_struct(request, WhyRequest)
        try:
            return json_answer(200, control.why(wanted.peer))
        except LookupError:
            return _unknown_peer(wanted.peer, control)

    return why


def _netcheck(control: Control) -> Handler:
    async def netcheck(_request: Request) -> Response:
        return json_answer(200, await control.netcheck())

    return netcheck


def _down(control: Control) -> Handler:
    async def down(_request: Request) -> Response:
        control.request_stop()
        return json_answer(202, {})

    return down


def _revocations(control: Control) -> Handler:
    async def revocations(request: Request) -> Response:
        wanted = await read_struct(request, RevocationsRequest)
        try:
            return json_answer(200, control.take_revocations(wanted.file))
        except ConfigError as error:
            return problem_answer(400, "bad-request", str(error))

    return revocations


def _told(question: Callable[[], object]) -> Handler:
    """Answers without a body; ConfigError says why not."""

    async def answer(_request: Request) -> Response:
        try:
            return json_answer(200, question())
        except ConfigError as error:
            return refused_answer(error)

    return answer


def _asked(kind: type[Asked], question: Callable[[Asked], object]) -> Handler:
    """The same, with a body."""

    async def answer(request: Request) -> Response:
        wanted = await read_struct(request, kind)
        try:
            return json_answer(200, question(wanted))
        except ConfigError as error:
            return refused_answer(error)

    return answer


def _queried(kind: type[Asked], question: Callable[[Asked], object]) -> Handler:
    """The same, with a query."""

    async def answer(request: Request) -> Response:
        return json_answer(200, question(_query(request, kind)))

    return answer


def _query(request: Request, kind: type[Asked]) -> Asked:
    """The query as a struct. Raises msgspec.ValidationError, which `guarded` answers."""
    return msgspec.convert(dict(request.query_params), kind, strict=False)


def _unknown_peer(label: str, control: Control) -> Response:
    advice = did_you_mean(label, (peer.name for peer in control.status().peers))
    text = f"there is no peer {label!r} in the configuration{'; ' if advice else ''}{advice}"
    return problem_answer(404, "unknown-peer", text)

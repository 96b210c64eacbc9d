"""The daemon's side of the local control API: a starlette application on a Unix socket.

Runs inside the daemon's event loop and asks one object (`Control`) for everything; it decides nothing
about the node, takes no signals and writes no access log. Whoever can open the socket (mode 0600: its
owner) may do everything the API offers, so there is no further authentication.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
from shadowmesh.web.server import (
    Handler,
    guarded,
    http_error,
    json_answer,
    problem_answer,
    read_struct,
    serve_unix,
)

Asked = TypeVar("Asked")


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
    async with serve_unix(path, create_app(control)):
        yield


def create_app(control: Control) -> Starlette:
    """The application; its routes are in docs/cli.md."""

    async def status(_request: Request) -> Response:
        return json_answer(200, control.status())

    async def ping(request: Request) -> Response:
        wanted = await read_struct(request, PingRequest)
        try:
            return json_answer(200, await control.ping(wanted.peer, wanted.timeout))
        except LookupError:
            return _unknown_peer(wanted.peer)
        except TimeoutError as error:
            return problem_answer(504, "no-reply", str(error) or f"no reply within {wanted.timeout:g} s")

    async def why(request: Request) -> Response:
        wanted = await read_struct(request, WhyRequest)
        try:
            return json_answer(200, control.why(wanted.peer))
        except LookupError:
            return _unknown_peer(wanted.peer)

    async def netcheck(_request: Request) -> Response:
        return json_answer(200, await control.netcheck())

    async def down(_request: Request) -> Response:
        control.request_stop()
        return json_answer(202, {})

    return Starlette(
        routes=[
            Route("/v1/status", guarded(status), methods=["GET"]),
            Route("/v1/ping", guarded(ping), methods=["POST"]),
            Route("/v1/why", guarded(why), methods=["POST"]),
            Route("/v1/revocations", guarded(_revocations(control)), methods=["POST"]),
            Route("/v1/netcheck", guarded(netcheck), methods=["POST"]),
            Route("/v1/reload", _told(control.reload), methods=["POST"]),
            Route("/v1/invitations", _told(control.invitations), methods=["GET"]),
            Route("/v1/invitations", _asked(InvitationRequest, control.invite), methods=["POST"]),
            Route("/v1/invitations/delegate", _told(control.delegate), methods=["GET"]),
            Route("/v1/invitations/verdict", _asked(InvitationVerdict, control.judge), methods=["POST"]),
            Route("/v1/down", guarded(down), methods=["POST"]),
        ],
        exception_handlers={HTTPException: http_error},
    )


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
            return problem_answer(422, "refused", str(error))

    return guarded(answer)


def _asked(kind: type[Asked], question: Callable[[Asked], object]) -> Handler:
    """The same, with a body."""

    async def answer(request: Request) -> Response:
        wanted = await read_struct(request, kind)
        try:
            return json_answer(200, question(wanted))
        except ConfigError as error:
            return problem_answer(422, "refused", str(error))

    return guarded(answer)


def _unknown_peer(label: str) -> Response:
    return problem_answer(404, "unknown-peer", f"there is no peer {label!r} in the configuration")

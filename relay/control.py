"""The relay's local control API: HTTP and JSON on a Unix socket of mode 0600, and the verbs' side of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import ConfigError
from shadowmesh.web.client import Unreachable, request
from shadowmesh.web.problem import Problem
from shadowmesh.web.server import application, guarded, json_answer, read_struct, refused_answer

from .reload import ReloadReply
from .report import Report

TIMEOUT = 10.0
"""Seconds for an answer: ten thousand clients take one."""
MAX_DRAIN = 86_400
UNPROCESSABLE = 422
"""Status of an answer that a file with a mistake brings."""


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/drain. `timeout`: seconds after which the relay ends, whoever is there still."""

    timeout: float = 300.0


class DrainReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/drain: how many clients were told to leave."""

    clients: int


def create_app(
    report: Callable[[], Report], drain: Callable[[float], int], reload: Callable[[], ReloadReply]
) -> Starlette:
    """The application; its routes are in docs/cli.md."""

    async def status(_request: Request) -> Response:
        return json_answer(200, report())

    async def begin_drain(asked: Request) -> Response:
        wanted = await read_struct(asked, DrainRequest)
        if not 0 <= wanted.timeout <= MAX_DRAIN:
            raise HTTPException(400, f"timeout is not between 0 and {MAX_DRAIN} s")
        return json_answer(202, DrainReply(clients=drain(wanted.timeout)))

    async def read_again(_request: Request) -> Response:
        try:
            return json_answer(200, reload())
        except ConfigError as error:
            return refused_answer(error)

    return application(
        [
            Route("/v1/status", guarded(status), methods=["GET"]),
            Route("/v1/reload", guarded(read_again), methods=["POST"]),
            Route("/v1/drain", guarded(begin_drain), methods=["POST"]),
        ]
    )


def ask_status(path: Path) -> bytes:
    """The report as the relay wrote it. Raises CommandFailed."""
    return _ask(path, "GET", "/v1/status", b"")


def ask_drain(path: Path, timeout: float) -> DrainReply:
    """Have the relay begin to drain. Raises CommandFailed."""
    data = _ask(path, "POST", "/v1/drain", msgspec.json.encode(DrainRequest(timeout=timeout)))
    return msgspec.json.decode(data, type=DrainReply)


def ask_reload(path: Path) -> bytes:
    """Have the relay read its admission again; the reply as it wrote it. Raises CommandFailed."""
    return _ask(path, "POST", "/v1/reload", b"")


def _ask(path: Path, method: str, target: str, body: bytes) -> bytes:
    try:
        status, data = request(path, method, target, body, TIMEOUT)
    except Unreachable as error:
        text = f"no relay runs here: {error}"
        raise CommandFailed(text, ExitCode.NOT_RUNNING, "relay.not-running") from None
    except PermissionError:
        text = f"may not open {path}; it belongs to the relay's user: use sudo"
        raise CommandFailed(text, error_id="relay.socket") from None
    except OSError as error:
        text = f"the relay on {path} does not answer: {error}"
        raise CommandFailed(text, error_id="relay.no-answer") from None
    if status >= 300:
        try:
            text = msgspec.json.decode(data, type=Problem).message
        except UNDECODABLE:
            text = f"HTTP status {status}"
        code = ExitCode.REFUSED if status == UNPROCESSABLE else ExitCode.FAILED
        raise CommandFailed(f"the relay refused: {text}", code, "relay.refused")
    return data

"""Whatever is written to the control API's socket, each answer is whole and of a documented status, the
daemon is asked nothing that its schema does not allow, and nothing fails inside.

The bytes go to the HTTP server that the daemon runs, over a transport that is posed; the daemon behind it
is a fake one that checks what it is asked.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import h11
import msgspec
import uvicorn
from uvicorn.server import ServerState

from shadowmesh.api.schema import (
    InvitationReply,
    InvitationRequest,
    InvitationVerdict,
    PingReply,
    RevocationsReply,
    VerdictReply,
    WhyReply,
)
from shadowmesh.api.server import create_app
from shadowmesh.errors import ConfigError
from shadowmesh.web.problem import Problem
from shadowmesh.web.server import MAX_BODY, Protocol
from tests.unit.test_api import FakeControl

COVERS = ("shadowmesh.api.server", "shadowmesh.web.server")
STATUSES = frozenset((200, 202, 400, 404, 405, 413, 422, 504))
PATHS = {
    "GET": ("status", "invitations", "invitations/delegate", "nothing"),
    "POST": (
        "ping",
        "why",
        "revocations",
        "netcheck",
        "reload",
        "invitations",
        "invitations/verdict",
        "down",
    ),
}
BODIES = (
    b'{"peer":"bob","timeout":1.5}',
    b'{"peer":"carol"}',
    b'{"file":"/etc/list.pem"}',
    b'{"name":"carol","delegation":"AAAA","ttl":3600,"by_hand":true}',
    b'{"label":"carol","verdict":"approved"}',
    b'{"peer":"\xff"}',
    b'{"peer":' + b"[" * 2000,
)


def _request(method: str, path: str, body: bytes = b"", more: bytes = b"") -> bytes:
    size = b"content-length: %d\r\n" % len(body) if body else b""
    return f"{method} /v1/{path} HTTP/1.1\r\nhost: here\r\n".encode() + size + more + b"\r\n" + body


SEEDS = [
    *(_request("GET", path) for path in PATHS["GET"]),
    *(_request("POST", path, body) for path in PATHS["POST"] for body in BODIES),
    _request("POST", "ping", b"", b"transfer-encoding: chunked\r\n") + b"3\r\n{}\n\r\n0\r\n\r\n",
    _request("GET", "status") * 3,
    _request("POST", "ping", b"x" * (MAX_BODY + 1))[:200],
]
logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


class Control(FakeControl):
    """Answers, and holds what it is asked to the schema."""

    async def ping(self, peer: str, timeout: float) -> PingReply:  # noqa: ASYNC109
        assert 1 <= len(peer) <= 253
        assert 0 < timeout <= 60
        if peer == "bug":  # of the fake daemon
            raise LookupError
        return await super().ping(peer, timeout)

    def why(self, peer: str) -> WhyReply:
        assert 1 <= len(peer) <= 253
        return super().why(peer)

    def take_revocations(self, file: str) -> RevocationsReply:
        assert 1 <= len(file) <= 2000
        return super().take_revocations(file)

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        assert 1 <= len(wanted.name) <= 100
        if wanted.ttl < 0:
            raise ConfigError("a time to live below 0")
        return InvitationReply(token="smesh1", relay="relay", expires=1)

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        assert wanted.verdict in ("approved", "refused", "revoked")
        return VerdictReply(name=wanted.label)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Failures(logging.Handler):
    """A handler of ours that failed says so in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


_log = logging.getLogger("shadowmesh.web.server")
_loop = asyncio.new_event_loop()
_config = uvicorn.Config(
    create_app(Control()), http="h11", ws="none", lifespan="off", log_config=None, access_log=False
)
_config.load()


def close() -> None:
    """The loop ends with the tests."""
    _loop.close()


async def converse(data: bytes) -> bytes:
    """What comes back for these bytes, all of them at once and in two pieces."""
    state, transport = ServerState(), Transport()
    protocol = Protocol(_config, state, {}, asyncio.get_running_loop())
    protocol.connection_made(cast("Any", transport))
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        if piece and not transport.closed:
            protocol.data_received(piece)
        for _ in range(50):
            await asyncio.sleep(0)
            if not state.tasks:
                break
    protocol.connection_lost(None)
    protocol.timeout_keep_alive_task = None
    for task in list(state.tasks):
        await asyncio.wait_for(task, 5)
    return bytes(transport.written)


def target(data: bytes) -> None:
    """One connection."""
    handler = Failures()
    _log.addHandler(handler)
    try:
        written = _loop.run_until_complete(converse(data))
    finally:
        _log.removeHandler(handler)
    check(written)


def check(written: bytes) -> None:
    """Whole answers, each of a status that the API has."""
    client = h11.Connection(h11.CLIENT)
    while written:
        client.send(h11.Request(method="GET", target="/", headers=[("host", "here")]))
        client.send(h11.EndOfMessage())
        client.receive_data(written)
        answer, body = None, b""
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return  # cut, where the connection was
        assert answer is not None
        check_answer(answer, body)
        written = client.trailing_data[0]
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            return
        client = h11.Connection(h11.CLIENT)


def check_answer(answer: h11.Response, body: bytes) -> None:
    """Problems are structs; the one answer that is not ours is the server's own for what is no HTTP."""
    assert answer.status_code in STATUSES, answer.status_code
    if answer.status_code >= 400 and body not in (b"", b"Invalid HTTP request received."):
        assert msgspec.json.decode(body, type=Problem).message

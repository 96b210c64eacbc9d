"""Whatever is written to the control API's socket, each answer is whole and of a documented status, the
daemon is asked nothing that its schema does not allow, and nothing fails inside. What anybody but root writes
changes nothing.

The bytes go to the HTTP server that the daemon runs, over a transport that is posed; the daemon behind it
is a fake one that checks what it is asked.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
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
    ReloadReply,
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
STATUSES = frozenset((200, 202, 400, 403, 404, 405, 413, 422, 503, 504))
PATHS = {
    "GET": (
        "status",
        "samples",
        "samples?seconds=7",
        "log",
        "log?lines=3&level=warning",
        "events",
        "events?kinds=log,sample",
        "openapi.json",
        "invitations",
        "invitations/delegate",
        "nothing",
    ),
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
    _request("GET", "events?kinds=log", b"", b"last-event-id: 1\r\n"),
    _request("HEAD", "events"),
    _request("POST", "ping", b"x" * (MAX_BODY + 1))[:200],
]
logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


class Control(FakeControl):
    """Answers, and holds what it is asked to the schema."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = 0
        """How often it was asked to change something."""
        for text in ("bob: connected", "bob: gone"):
            self.recent.handle(logging.LogRecord("shadowmesh", logging.INFO, "", 0, text, (), None))

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
        self.changed += 1
        assert 1 <= len(file) <= 2000
        return super().take_revocations(file)

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        self.changed += 1
        assert 1 <= len(wanted.name) <= 100
        if wanted.ttl < 0:
            raise ConfigError("a time to live below 0")
        return InvitationReply(token="smesh1", relay="relay", expires=1)

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        self.changed += 1
        assert wanted.verdict in ("approved", "refused", "revoked")
        return VerdictReply(name=wanted.label)

    def reload(self) -> ReloadReply:
        self.changed += 1
        return super().reload()

    def request_stop(self) -> None:
        self.changed += 1


class Socket:
    """A connected Unix socket with a process of this user at its other end."""

    family = socket.AF_UNIX

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def getsockname(self) -> str:
        return "/run/shadowmesh.sock"

    def getpeername(self) -> str:
        return ""

    def getsockopt(self, *_: int) -> bytes:
        return struct.pack("=iII", 1, self._uid, self._uid)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, uid: int) -> None:
        super().__init__()
        self._socket = Socket(uid)
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
        return self._socket if name == "socket" else default


class Failures(logging.Handler):
    """A handler of ours that failed says so in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


_log = logging.getLogger("shadowmesh.web.server")
_loop = asyncio.new_event_loop()
_control = Control()
_config = uvicorn.Config(
    create_app(_control), http="h11", ws="none", lifespan="off", log_config=None, access_log=False
)
_config.load()


def close() -> None:
    """The loop ends with the tests."""
    _loop.close()


async def converse(data: bytes, uid: int) -> bytes:
    """What this user gets back for these bytes, in two pieces."""
    state, transport = ServerState(), Transport(uid)
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
    """One connection of root, and one of somebody else."""
    handler = Failures()
    _log.addHandler(handler)
    try:
        check(data, _loop.run_until_complete(converse(data, 0)))
        _control.changed = 0
        check(data, _loop.run_until_complete(converse(data, 1000)))
        assert not _control.changed
    finally:
        _log.removeHandler(handler)


def check(data: bytes, written: bytes) -> None:
    """Whole answers, each of a status that the API has."""
    if b"HEAD" in data:
        return  # its answer has a length and no body: where the next one begins can't be told from here
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

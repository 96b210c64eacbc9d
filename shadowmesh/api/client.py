"""The verbs' side of the local control API: HTTP over a Unix socket, with the standard library only.

Blocking, one request per connection; used by the verbs, never by the daemon.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from shadowmesh.api.live import (
    LOG_LINES,
    WINDOW,
    EventKind,
    Level,
    LogLine,
    LogReply,
    Sample,
    Samples,
)
from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationVerdict,
    Netcheck,
    PingReply,
    PingRequest,
    ReloadReply,
    RevocationsReply,
    RevocationsRequest,
    Status,
    VerdictReply,
    WhyRequest,
)
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import ConfigError, ShadowMeshError
from shadowmesh.web.caller import caller_of
from shadowmesh.web.client import Unreachable, reading, request
from shadowmesh.web.problem import Problem

TIMEOUT = 5.0
"""Seconds for an answer that needs no network: the daemon's event loop never blocks that long."""

NETCHECK_TIMEOUT = 30.0
"""Seconds for a netcheck, which takes 8 at most (`node.netcheck.TIMEOUT`)."""

EVENTS_TIMEOUT = 40.0
"""Seconds without a word on a stream of events, on which a comment comes every 15 (`events.HEARTBEAT`)."""

Event = Status | Sample | LogLine
_EVENTS: dict[str, type[Event]] = {"status": Status, "sample": Sample, "log": LogLine}


Answer = TypeVar("Answer")


class NotRunning(ShadowMeshError):
    """No client answers on the socket."""

    error_id = "client.not-running"


class UnknownPeer(ShadowMeshError):
    """The running client has no such peer."""

    error_id = "peer.unknown"


class NoReply(ShadowMeshError):
    """The peer did not answer in time; the text says why if it is known."""

    error_id = "peer.no-reply"


class ApiFailed(ShadowMeshError):
    """The running client refused or failed the request, or what answers there is no client of ours."""

    error_id = "client.no-answer"


class Forbidden(ApiFailed):
    """This user may not open the socket, or may only read."""

    error_id = "client.forbidden"


class ApiClient:
    """Asks the client that answers on the socket at `path`. docs/api.md shows how to use it elsewhere.

    Every method raises NotRunning if no client answers, and ApiFailed if it refuses or fails, or if this user
    may not ask. Nothing is kept open between two questions; an object may serve several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def status_json(self) -> bytes:
        """The status as the client wrote it (struct Status)."""
        return self._request("GET", "/v1/status")

    def status(self) -> Status:
        """The client, its relays and its peers now."""
        return _decode(self.status_json(), Status)

    def samples(self, seconds: int = WINDOW) -> Samples:
        """The latest samples, at most 300. The first question only begins the sampling."""
        return _decode(self._request("GET", f"/v1/samples?seconds={seconds}"), Samples)

    def log_json(self, lines: int = LOG_LINES, level: Level = "debug") -> bytes:
        """The latest lines of the log as the client wrote them (struct LogReply)."""
        return self._request("GET", f"/v1/log?lines={lines}&level={level}")

    def log(self, lines: int = LOG_LINES, level: Level = "debug") -> LogReply:
        """The latest lines of the log, at most 1000, of `level` and above."""
        return _decode(self.log_json(lines, level), LogReply)

    def events(self, *kinds: EventKind, after: int | None = None) -> Iterator[Event]:
        """What happens, as it comes, until the client stops; without `kinds`: everything.

        A reader that falls behind is cut off: that looks like the end as well.

        :param after: begin with the lines of the log that came after the one of this number.
        """
        target = "/v1/events" + (f"?kinds={','.join(kinds)}" if kinds else "")
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self._translated(), reading(self.path, target, headers, EVENTS_TIMEOUT) as answer:
            if answer.status >= 300:
                raise answered(answer.status, answer.read())
            with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                yield from _events(answer)

    def ping(self, peer: str, timeout: float) -> PingReply:
        """One round trip to `peer`, at most `timeout` seconds. Raises UnknownPeer and NoReply too."""
        body = msgspec.json.encode(PingRequest(peer=peer, timeout=timeout))
        return msgspec.json.decode(self._request("POST", "/v1/ping", body, timeout + TIMEOUT), type=PingReply)

    def why_json(self, peer: str) -> bytes:
        """Why frames to `peer` take their path (struct WhyReply). Raises UnknownPeer too."""
        return self._request("POST", "/v1/why", msgspec.json.encode(WhyRequest(peer=peer)))

    def spread(self, file: Path) -> RevocationsReply:
        """Hand in the revocation list in `file`. Raises NotRunning or ApiFailed."""
        body = msgspec.json.encode(RevocationsRequest(file=str(file.absolute())))
        return msgspec.json.decode(self._request("POST", "/v1/revocations", body), type=RevocationsReply)

    def netcheck(self) -> Netcheck:
        """How the network around the client looks. Raises NotRunning or ApiFailed."""
        data = self._request("POST", "/v1/netcheck", timeout=NETCHECK_TIMEOUT)
        return msgspec.json.decode(data, type=Netcheck)

    def reload(self) -> ReloadReply:
        """Have the client read its configuration again. Raises ConfigError if it refuses the file."""
        return msgspec.json.decode(self._request("POST", "/v1/reload"), type=ReloadReply)

    def invitations_json(self) -> bytes:
        """All invitations (struct InvitationsReply). Raises ConfigError if the client is in no network."""
        return self._request("GET", "/v1/invitations")

    def delegate(self) -> DelegateReply:
        """Who signs for joining nodes. Raises ConfigError as the two below do."""
        return msgspec.json.decode(self._request("GET", "/v1/invitations/delegate"), type=DelegateReply)

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        """Open an invitation."""
        data = self._request("POST", "/v1/invitations", msgspec.json.encode(wanted))
        return msgspec.json.decode(data, type=InvitationReply)

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        """A person's word on a node that waits, or on an invitation."""
        data = self._request("POST", "/v1/invitations/verdict", msgspec.json.encode(wanted))
        return msgspec.json.decode(data, type=VerdictReply)

    def down(self, timeout: float) -> None:
        """Stop the client and wait until socket and process are gone (with it the interface).

        Raises NotRunning, or ApiFailed after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        process = self._server_process()
        try:
            self._request("POST", "/v1/down")
            while self.path.exists() or (process is not None and not _ended(process)):
                if time.monotonic() > deadline:
                    raise ApiFailed(f"the client has not stopped within {timeout:g} s; its log says why")
                time.sleep(0.02)
        finally:
            if process is not None:
                os.close(process)

    def _server_process(self) -> int | None:
        """A pidfd of the process that listens, which the kernel names (SO_PEERCRED, unix(7))."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(TIMEOUT)
            probe.connect(str(self.path))
            server = caller_of(probe)
            if server is not None and server.pid not in (0, os.getpid()):
                return os.pidfd_open(server.pid)
        return None

    def _request(self, method: str, target: str, body: bytes = b"", timeout: float = TIMEOUT) -> bytes:
        with self._translated():
            status, data = request(self.path, method, target, body, timeout)
        if status >= 300:
            raise answered(status, data)
        return data

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Unreachable as error:
            raise NotRunning(f"no client runs here: {error}") from None
        except PermissionError:
            whose = "the socket belongs to root: use sudo, or set its node.socket_group to a group of yours"
            raise Forbidden(f"may not open {self.path}; {whose}") from None
        except OSError as error:
            raise ApiFailed(f"the client on {self.path} does not answer: {error}") from error


def _events(answer: http.client.HTTPResponse) -> Iterator[Event]:
    """Source: WHATWG HTML, section 9.2.6. Our server writes the data of an event on one line."""
    kind = ""
    for line in answer:
        name, _, value = line.rstrip(b"\n").partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data" and kind in _EVENTS:
            yield _decode(value, _EVENTS[kind])


def _decode(data: bytes, kind: type[Answer]) -> Answer:
    """What a client answered. Raises ApiFailed if it is something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        raise ApiFailed(f"the client's answer is not what this version understands: {error}") from None


def _ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def answered(status: int, data: bytes) -> ShadowMeshError:
    """What an answer that is not 2xx means."""
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except UNDECODABLE:
        return ApiFailed(f"the client answered with HTTP status {status}")
    if problem.error == "refused":
        lines = problem.message.splitlines()
        mistakes = list(zip(lines, problem.ids, strict=True)) if len(lines) == len(problem.ids) else []
        return ConfigError(problem.message, mistakes=mistakes)
    kinds: dict[str, type[ShadowMeshError]]
    kinds = {"unknown-peer": UnknownPeer, "no-reply": NoReply, "forbidden": Forbidden}
    return kinds.get(problem.error, ApiFailed)(problem.message)

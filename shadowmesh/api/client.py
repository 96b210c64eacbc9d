"""The verbs' side of the local control API: HTTP over a Unix socket, with the standard library only.

Blocking, one request per connection; used by the verbs, never by the daemon.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from pathlib import Path

import msgspec

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
    VerdictReply,
    WhyRequest,
)
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import ConfigError, ShadowMeshError
from shadowmesh.web.client import Unreachable, request
from shadowmesh.web.problem import Problem

TIMEOUT = 5.0
"""Seconds for an answer that needs no network: the daemon's event loop never blocks that long."""

NETCHECK_TIMEOUT = 30.0
"""Seconds for a netcheck, which takes 8 at most (`node.netcheck.TIMEOUT`)."""

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred: pid, uid, gid; pid 0 is a process of a PID namespace that we can't see."""


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


class ApiClient:
    """Asks the client that answers on the socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def status_json(self) -> bytes:
        """The status as the client wrote it (struct Status). Raises NotRunning or ApiFailed."""
        return self._request("GET", "/v1/status")

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
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid = int(_CREDENTIALS.unpack(credentials)[0])
            if pid not in (0, os.getpid()):
                return os.pidfd_open(pid)
        return None

    def _request(self, method: str, target: str, body: bytes = b"", timeout: float = TIMEOUT) -> bytes:
        try:
            status, data = request(self.path, method, target, body, timeout)
        except Unreachable as error:
            raise NotRunning(f"no client runs here: {error}") from None
        except PermissionError:
            raise ApiFailed(f"may not open {self.path}; the socket belongs to root: use sudo") from None
        except OSError as error:
            raise ApiFailed(f"the client on {self.path} does not answer: {error}") from error
        if status >= 300:
            raise _error(status, data)
        return data


def _ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def _error(status: int, data: bytes) -> ShadowMeshError:
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except UNDECODABLE:
        return ApiFailed(f"the client answered with HTTP status {status}")
    kinds: dict[str, type[ShadowMeshError]]
    kinds = {"unknown-peer": UnknownPeer, "no-reply": NoReply, "refused": ConfigError}
    return kinds.get(problem.error, ApiFailed)(problem.message)

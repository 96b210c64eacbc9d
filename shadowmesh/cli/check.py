"""`status --check`: a supervisor asks one thing about the client that runs. Prints nothing itself."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from shadowmesh.api.checks import CheckName, check
from shadowmesh.api.client import ApiClient, ApiFailed, Forbidden, NotRunning
from shadowmesh.api.schema import Status
from shadowmesh.cli.replies import CheckReply
from shadowmesh.command import ExitCode

POLL = 0.1
"""Seconds between two looks at a client that is waited for."""


def wait_for(name: CheckName, path: Path, wait: float) -> tuple[CheckReply, ExitCode]:
    """The answer, as soon as it is yes, or when `wait` seconds are over; a client that hangs takes 5 s more.

    Raises Forbidden.
    """
    end = time.monotonic() + wait
    while True:
        reply, code = _ask(name, path)
        left = end - time.monotonic()
        if reply.ok or left <= 0:
            return reply, code
        time.sleep(min(POLL, left))


def _ask(name: CheckName, path: Path) -> tuple[CheckReply, ExitCode]:
    try:
        status = msgspec.json.decode(ApiClient(path).status_json(), type=Status)
    except Forbidden:
        raise  # says nothing about the client
    except (NotRunning, ApiFailed) as error:
        code = ExitCode.NOT_RUNNING if isinstance(error, NotRunning) else ExitCode.FAILED
        return CheckReply(check=name, ok=False, reason=error.told), code
    ok, reason = check(name, status)
    return CheckReply(check=name, ok=ok, reason=reason), ExitCode.OK if ok else ExitCode.FAILED

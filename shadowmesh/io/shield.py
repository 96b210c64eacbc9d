"""The last line between a mistake of ours and the life of the process.

Network bytes raise BadPacket only, and that is dealt with deep inside.  Should anything else escape,
one event is lost and the log has the traceback, but the loop goes on serving everybody else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("shadowmesh")

PAUSE = 0.1
"""Seconds until timers run again after a failure, so that a failing one can't take the whole core."""


def survives(step: Callable[..., None], *arguments: object) -> bool:
    """Call `step`; False if it failed, which is in the log then."""
    try:
        step(*arguments)
    except Exception:
        log.exception("internal error; please report it [program.bug]")
        return False
    return True

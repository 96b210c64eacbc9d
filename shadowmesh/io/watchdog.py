"""The watchdog of the service manager: told that all is well, only while the program really works.

"Works" is: the event loop turns, and so does each thread of the data plane that has something to do.  It
measures nothing else; whether peers or relays can be reached is no matter of a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import select
import socket
from collections.abc import Callable, Iterator, Sequence

from shadowmesh.io import notify

log = logging.getLogger(__name__)


class Pulse:
    """Whether the threads of a data plane serve what there is.

    A thread without work stands still as well, and is not woken to be asked.  So one counts as stuck if,
    since the last look, it has stayed within one batch, or has not begun one though there was something to
    read then.

    :param turns: of each thread, how often it began or ended a batch; odd within one.
    :param descriptors: what each thread reads, in the same order.
    """

    def __init__(self, turns: Callable[[], Sequence[int]], descriptors: Sequence[int]) -> None:
        self._turns = turns
        self._descriptors = descriptors
        self._before: Sequence[int] = ()
        self._work: set[int] = set()

    def stuck(self) -> list[int]:
        """The numbers of those that have stood still since the last call."""
        now = self._turns()
        found = [
            number
            for number, (before, turns) in enumerate(zip(self._before, now, strict=False))
            if before == turns and (turns & 1 or self._descriptors[number] in self._work)
        ]
        # Looked at after the turns were: whoever begins a batch for it is seen to have moved the next time.
        self._before, self._work = now, self._readable()
        return found

    def _readable(self) -> set[int]:
        poll = select.poll()
        for descriptor in self._descriptors:
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, events in poll.poll(0) if events & select.POLLIN}


async def _tell(pulse: Pulse, sender: socket.socket, pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        stuck = pulse.stuck()
        if not stuck:
            notify.alive(sender)
            continue
        names = ", ".join(map(str, stuck))
        line = "the data plane hangs (part %s); the service manager will start us again [program.bug]"
        log.error(line, names)


@contextlib.contextmanager
def watched(pulse: Pulse) -> Iterator[None]:
    """Within a running event loop: tell the manager twice in its time that all is well, if it wants to know.

    It ends a program that it hears nothing of by SIGABRT; then the stacks of Python go to standard error.
    """
    limit = notify.watchdog_limit()
    if limit is None:
        yield
        return
    if not faulthandler.is_enabled():
        faulthandler.enable()
    with notify.new_sender() as sender:
        telling = asyncio.create_task(_tell(pulse, sender, limit / 2))
        try:
            yield
        finally:
            telling.cancel()

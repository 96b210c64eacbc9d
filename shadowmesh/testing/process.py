"""Processes of the namespace lab: start with a log file, wait for a condition, end by id.

Every process gets a session (and so a process group) of its own, and is only ever signalled by the
id that starting it returned.  This module knows nothing of namespaces and nothing of ShadowMesh.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

POLL_INTERVAL = 0.02
"""Seconds between two looks at a condition: well under what any test asserts, cheap on two cores."""

TERMINATE_TIMEOUT = 5.0
"""Seconds that a process has to end after SIGTERM before it gets SIGKILL."""

TAIL_LINES = 40


class LabError(Exception):
    """A step of the lab failed; the text holds the command and what it printed."""


class LabTimeout(LabError):
    """A condition did not become true before its deadline; the text names the condition."""


def wait_until(
    condition: Callable[[], T | None],
    timeout: float,
    what: str | Callable[[], str],
    interval: float = POLL_INTERVAL,
) -> T:
    """Return the first true value of `condition`, looked at every `interval` seconds.

    Raises `LabTimeout` after `timeout` seconds; `what` (text, or a function called only then) says
    what was waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            text = what if isinstance(what, str) else what()
            raise LabTimeout(f"after {timeout:g} s: {text}")
        time.sleep(interval)


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last `lines` lines of `text`."""
    return "\n".join(text.splitlines()[-lines:])


class Process:
    """One running command whose output (both streams) is appended to `log`."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        with log.open("ab") as stream:
            self._begin = stream.tell()
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def __str__(self) -> str:
        return f"{' '.join(self.command)} (pid {self.pid})"

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number if a signal ended it, None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._popen.poll() is None

    def output(self) -> str:
        """Everything that this process has printed so far; not what was in the file before."""
        with self.log.open("rb") as stream:
            stream.seek(self._begin)
            return stream.read().decode(errors="replace")

    def report(self) -> str:
        """State and the end of the log, for the text of a failure."""
        state = "running" if self.running else f"exit code {self.returncode}"
        return f"--- {self}: {state}; end of {self.log.name}:\n{tail(self.output())}"

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code; `LabTimeout` if it still runs after `timeout` s."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabTimeout(f"after {timeout:g} s still running\n{self.report()}") from None

    def wait_for(self, condition: Callable[[], T | None], timeout: float, what: str) -> T:
        """`wait_until`, but fails at once (with the log) when the process ends meanwhile."""

        def check() -> T | None:
            ended = not self.running
            value = condition()
            if not value and ended:
                raise LabError(f"ended while waiting for {what}\n{self.report()}")
            return value

        return wait_until(check, timeout, lambda: f"{what}\n{self.report()}")

    def wait_for_line(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until the log has a line in which the regular expression is found."""
        expression = re.compile(pattern, re.MULTILINE)
        return self.wait_for(lambda: expression.search(self.output()), timeout, f"a line like {pattern!r}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens if it has ended."""
        # poll() inside send_signal makes sure that the id is still that of our child.
        self._popen.send_signal(number)

    def kill(self) -> int:
        """SIGKILL to the whole process group, and wait."""
        if self._popen.poll() is None:
            # The child is not reaped yet, so the group id can't belong to anybody else.
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait(TERMINATE_TIMEOUT)

    def terminate(self, timeout: float = TERMINATE_TIMEOUT, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end, SIGKILL it after `timeout` s, and return the exit code."""
        self.send(number)
        try:
            return self.wait(timeout)
        except LabTimeout:
            return self.kill()

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, in seconds, with the resolution of the scheduler."""
        # clock_getcpuclockid(3): the clock of a process is (~pid << 3) | CPUCLOCK_SCHED.
        return time.clock_gettime((~self.pid << 3) | 2)

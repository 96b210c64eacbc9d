"""Messages to the service manager: the datagram protocol of sd_notify(3).

Silent where no manager listens (NOTIFY_SOCKET unset). Knows nothing of the node; a manager that can't
be reached is no reason to stop, so errors are logged and swallowed.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that a manager may take to make room for a message that it must get; for others nobody waits."""


def ready(text: str) -> bool:
    """The service works now. `text` is one line for people. True if a manager got it."""
    return _tell(f"READY=1\nSTATUS={_one_line(text)}", PATIENCE)


def status(text: str) -> bool:
    """One line for people on how the service does."""
    return _tell(f"STATUS={_one_line(text)}")


def stopping() -> bool:
    """The service begins to stop."""
    return _tell("STOPPING=1", PATIENCE)


def alive(sender: socket.socket) -> bool:
    """The service does its work.

    :param sender: of `new_sender`, kept, as there may be no descriptor left for another when this is due.
    """
    return _send(sender, "WATCHDOG=1")


def watchdog_limit() -> float | None:
    """Seconds without `alive` after which the manager ends this process; None: it does not.

    Source: sd_watchdog_enabled(3).
    """
    limit, of_process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if _target() is None or of_process not in (None, str(os.getpid())):
        return None
    return int(limit) / 1e6 if limit.isdecimal() and int(limit) else None


def new_sender() -> socket.socket:
    """What messages are sent from; a manager that does not read them holds nobody up."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _target() -> str | None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return None
    # A leading @ stands for the NUL of an abstract socket address (unix(7)).
    return "\0" + path[1:] if path.startswith("@") else path


def _tell(message: str, patience: float = 0.0) -> bool:
    if _target() is None:
        return False
    try:
        with new_sender() as sender:
            sender.settimeout(patience)
            return _send(sender, message)
    except OSError as error:
        log.warning("the service manager can't be told: %s [machine.resource]", error)
        return False


def _send(sender: socket.socket, message: str) -> bool:
    target = _target()
    if target is None:
        return False
    try:
        # To an address, not connected: a manager that started again has another socket there.
        sender.sendto(message.encode(), target)
    except OSError as error:
        line = "the service manager at %s can't be told: %s [machine.manager]"
        log.warning(line, os.environ["NOTIFY_SOCKET"], error)
        return False
    return True


def _one_line(text: str) -> str:
    return " ".join(text.split())

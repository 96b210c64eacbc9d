"""Messages to the service manager: the datagram protocol of sd_notify(3).

Silent where no manager listens (NOTIFY_SOCKET unset). Knows nothing of the node; a manager that can't
be reached is no reason to stop, so errors are logged and swallowed.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def ready(text: str) -> bool:
    """The service works now. `text` is one line for people. True if a manager got it."""
    return _send(f"READY=1\nSTATUS={_one_line(text)}")


def status(text: str) -> bool:
    """One line for people on how the service does."""
    return _send(f"STATUS={_one_line(text)}")


def stopping() -> bool:
    """The service begins to stop."""
    return _send("STOPPING=1")


def _send(message: str) -> bool:
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target.startswith(("/", "@")):
        return False
    # A leading @ stands for the NUL of an abstract socket address (unix(7)).
    address = "\0" + target[1:] if target.startswith("@") else target
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(message.encode())
    except OSError as error:
        log.warning("the service manager at %s can't be told: %s", target, error)
        return False
    return True


def _one_line(text: str) -> str:
    return " ".join(text.split())

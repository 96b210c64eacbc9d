"""One HTTP request over a Unix socket, blocking, by the standard library; for verbs, never for daemons."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class Unreachable(Exception):
    """Nobody answers on the socket; the text says why."""


def request(path: Path, method: str, target: str, body: bytes, timeout: float) -> tuple[int, bytes]:
    """Status and body of the answer, within `timeout` seconds.

    Raises Unreachable, PermissionError, or OSError for all that goes wrong on the way.
    """
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except FileNotFoundError:
        raise Unreachable(f"there is no socket {path}") from None
    except ConnectionRefusedError:
        raise Unreachable(f"nobody answers on {path}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTPConnection whose transport is a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

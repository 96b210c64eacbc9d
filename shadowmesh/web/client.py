"""HTTP requests over a Unix socket, blocking, by the standard library; for verbs, never for daemons."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path


class Unreachable(Exception):
    """Nobody answers on the socket; the text says why."""


def request(path: Path, method: str, target: str, body: bytes, timeout: float) -> tuple[int, bytes]:
    """Status and body of the answer, within `timeout` seconds.

    Raises Unreachable, PermissionError, or OSError for all that goes wrong on the way.
    """
    with _asking(path, timeout) as connection:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def reading(
    path: Path, target: str, headers: Mapping[str, str], timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, to be read line by line.

    :param timeout: seconds between two lines. Raises as `request` does, also inside the body.
    """
    with _asking(path, timeout) as connection:
        connection.request("GET", target, headers=dict(headers))
        yield connection.getresponse()


@contextlib.contextmanager
def _asking(path: Path, timeout: float) -> Iterator[_UnixConnection]:
    connection = _UnixConnection(path, timeout)
    try:
        yield connection
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

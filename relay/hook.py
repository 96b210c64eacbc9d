"""Asks the operator's own program, over HTTP on this machine, whether a node may connect; fail closed.

    POST {"node": "52 characters", "address": "192.0.2.1", "port": 4433, "network": "52 characters" or null,
          "relay": "52 characters"}
    200  {"admit": true} or {"admit": false, "reason": "for people, shown to the client"}

Any other answer, none within `TIMEOUT`, or no connection: the node is not admitted.  At most `CONCURRENT`
questions are under way; more wait, within their own time.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import msgspec

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.units import Address, NodeId
from shadowmesh.values import printable

TIMEOUT = 3.0
"""Seconds for one question, waiting included: a client gives up after ten."""
CONCURRENT = 16
MAX_ANSWER = 4096
MAX_REASON = 200


@dataclass(frozen=True)
class Question:
    """Who wants in. `network` is what the certificate claims that it showed; nobody has checked that."""

    number: int
    node: NodeId
    address: Address
    network: bytes | None


@dataclass(frozen=True)
class Verdict:
    """The answer; `failed` if there was none that counts, which admits nobody."""

    admitted: bool
    reason: str = ""
    failed: bool = False


class _Answer(msgspec.Struct, frozen=True):
    admit: bool
    reason: str = ""


class HookFailed(Exception):
    """The program gave no answer that counts; the text says why."""


def parse_hook(text: str) -> str:
    """A URL on this machine. Raises ValueError."""
    parts = urlsplit(text)
    try:
        local = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local or parts.username or parts.fragment or parts.port is None:
        raise ValueError(
            f"{text!r} is not http:// with an address of this machine (127.0.0.1, [::1]) and port"
        )
    return text


class Hook:
    """The program at `url`, which `parse_hook` has checked.

    :param relay: the relay's own NodeID, for programs that serve several.
    """

    def __init__(self, url: str, relay: NodeId) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._netloc = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._relay = relay
        self._free = asyncio.Semaphore(CONCURRENT)

    async def ask(self, question: Question) -> Verdict:
        """Never raises: whatever goes wrong is a verdict."""
        try:
            async with asyncio.timeout(TIMEOUT), self._free:
                answer = await self._post(self._body(question))
            decided = msgspec.json.decode(answer, type=_Answer)
        except TimeoutError:
            return Verdict(False, f"did not answer within {TIMEOUT:g} s", failed=True)
        except (OSError, HookFailed, h11.ProtocolError, *UNDECODABLE) as error:
            return Verdict(False, str(error) or type(error).__name__, failed=True)
        reason = printable(decided.reason[:MAX_REASON])
        return Verdict(decided.admit, reason)

    def _body(self, question: Question) -> bytes:
        return msgspec.json.encode(
            {
                "node": node_id_text(question.node),
                "address": question.address.host,
                "port": question.address.port,
                "network": node_id_text(question.network) if question.network is not None else None,
                "relay": node_id_text(self._relay),
            }
        )

    async def _post(self, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            connection = h11.Connection(h11.CLIENT)
            headers = [
                ("Host", self._netloc),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            request = h11.Request(method="POST", target=self._target, headers=headers)
            for event in (request, h11.Data(body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            return await _read(connection, reader)
        finally:
            writer.close()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_ANSWER))
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise HookFailed(f"answered with HTTP status {event.status_code}")
        elif isinstance(event, h11.Data):
            answer += event.data
            if len(answer) > MAX_ANSWER:
                raise HookFailed(f"answered with more than {MAX_ANSWER} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(answer)
        elif isinstance(event, h11.ConnectionClosed):
            raise HookFailed("closed the connection without an answer")

"""The admission hook against programs that answer well, badly, slowly or not at all; over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shadowmesh.units import Address
from shadowmesh_relay import hook as module
from shadowmesh_relay.hook import Hook, Question, Verdict, parse_hook

QUESTION = Question(1, bytes(32), Address("192.0.2.1", 4433), b"\1" * 32)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def program(serve: Serve) -> AsyncIterator[Hook]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield Hook(parse_hook(f"http://127.0.0.1:{port}/admit?relay=1"), b"\2" * 32)


def answering(status: str, body: bytes, seen: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        if seen is not None:
            seen.extend([head, await reader.readexactly(size)])
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)) + body)
        await writer.drain()
        writer.close()

    return serve


async def test_the_program_is_told_who_it_is_and_decides() -> None:
    seen: list[bytes] = []
    async with program(answering("200 OK", b'{"admit": true}', seen)) as hook:
        assert await hook.ask(QUESTION) == Verdict(True)
    assert seen[0].startswith(b"POST /admit?relay=1 HTTP/1.1\r\n")
    told = json.loads(seen[1])
    assert told == {
        "node": "a" * 52,
        "address": "192.0.2.1",
        "port": 4433,
        "network": "aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq",
        "relay": "aibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaiba",
    }


async def test_a_refusal_has_a_reason_for_people() -> None:
    async with program(answering("200 OK", b'{"admit": false, "reason": "not\\n paid"}')) as hook:
        assert await hook.ask(QUESTION) == Verdict(False, "not? paid")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oops", b'{"admit": true}'),
        ("204 No Content", b""),
        ("200 OK", b""),
        ("200 OK", b'{"admit": "yes"}'),
        ("200 OK", b'{"reason": "?"}'),
        ("200 OK", b"[true]"),
        ("200 OK", b'{"admit": true, "reason": "\xff"}'),
        ("200 OK", b'{"admit": true, "more": ' + b"[" * 3000),
        ("200 OK", b'{"admit": true, "reason": "' + b"x" * 5000 + b'"}'),
    ],
)
async def test_any_other_answer_admits_nobody(status: str, body: bytes) -> None:
    async with program(answering(status, body)) as hook:
        verdict = await hook.ask(QUESTION)
    assert (verdict.admitted, verdict.failed) == (False, True)
    assert verdict.reason


async def test_garbage_and_silence_admit_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    done = asyncio.Event()

    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\1\2 not HTTP\r\n\r\n")
        writer.close()

    async def closing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    for serve in (garbage, closing, silent):
        async with program(serve) as hook:
            verdict = await hook.ask(QUESTION)
            assert (verdict.admitted, verdict.failed) == (False, True), serve
            done.set()
            await asyncio.sleep(0)
    nobody = Hook("http://127.0.0.1:9/", bytes(32))
    assert (await nobody.ask(QUESTION)).failed


async def test_questions_at_once_are_bounded() -> None:
    at_once = 0
    full = asyncio.Event()
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once
        at_once += 1
        if at_once == module.CONCURRENT:
            full.set()
        await release.wait()
        writer.close()

    async with program(slow) as hook:
        asking = asyncio.gather(*(hook.ask(QUESTION) for _ in range(3 * module.CONCURRENT)))
        await full.wait()
        for _ in range(100):  # time for one more to come, if one could
            await asyncio.sleep(0)
        assert at_once == module.CONCURRENT
        release.set()
        assert all(verdict.failed for verdict in await asking)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:80/",
        "https://127.0.0.1:80/",
        "http://localhost:80/",
        "http://127.0.0.1/",
        "http://user@127.0.0.1:80/",
        "127.0.0.1:80",
        "http://[::1]:99999/",
    ],
)
def test_only_this_machine_is_asked(url: str) -> None:
    with pytest.raises(ValueError):
        parse_hook(url)


def test_ipv6_is_taken() -> None:
    assert parse_hook("http://[::1]:8080/x") == "http://[::1]:8080/x"

"""Who sends half of a request to a local API or to the metrics, or comes too often, holds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shadowmesh.units import Address
from shadowmesh.web import server

HASTE = 0.1
"""Seconds, in place of ten."""
LARGE = 16 << 20
"""Bytes: more than the system keeps for who does not read."""
GET = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def slow(_request: Request) -> Response:
    await asyncio.sleep(3 * HASTE)
    return Response(b"done")


async def large(_request: Request) -> Response:
    return Response(bytes(LARGE))


async def endless(_request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)
            await asyncio.sleep(0)

    return StreamingResponse(body())


async def read(request: Request) -> Response:
    return Response(await server.read_body(request))


@contextlib.asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, int]]:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", HASTE)
    app = Starlette(
        routes=[
            Route("/slow", slow),
            Route("/large", large),
            Route("/endless", endless),
            Route("/read", server.guarded(read), methods=["POST"]),
        ]
    )
    with server.bind_tcp(Address("127.0.0.1", 0)) as listener:
        async with server.serve(listener, app):
            yield listener.getsockname()[:2]


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other end has gone; it waits for that for as long as a test may take."""
    try:
        async with asyncio.timeout(15.0):
            while await reader.read(65536):
                pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /slow HTTP/1.1\r\nHost:",
        b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
        GET + b"GET /sl",
    ],
)
async def test_half_a_request_is_not_waited_for(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(sent)
        assert await ended(reader)
        writer.close()


async def test_a_body_that_no_longer_matters_may_be_no_http(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered before its body is there: found by fuzz/targets/api.py."""
    async with serving(monkeypatch) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        writer.write(b"no length of a chunk\r\n")
        assert await ended(reader)
        writer.close()
    assert not caplog.records


async def test_a_request_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as where:
        reader, writer = await asyncio.open_connection(*where)
        gone = asyncio.create_task(ended(reader))
        for byte in b"GET /slow HTTP/1.1\r\n" + b"X: y\r\n" * 200:
            writer.write(bytes((byte,)))
            await asyncio.sleep(HASTE / 20)
            if gone.done():
                break
        else:
            pytest.fail("it was waited for")
        assert gone.result()
        writer.close()


async def test_a_long_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the program that is slow: `ping` and `netcheck` take seconds."""
    async with serving(monkeypatch) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(2 * GET)
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(4) == b"done"
        writer.close()


@pytest.mark.parametrize("answer", ["large", "endless"])
async def test_who_reads_no_answer_is_not_waited_for(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as where:
        with socket.create_connection(where) as link:
            link.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(link, f"GET /{answer} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await asyncio.sleep(5 * HASTE)
            with contextlib.suppress(ConnectionError):
                came = 0
                async with asyncio.timeout(15.0):
                    while data := await loop.sock_recv(link, 1 << 20):
                        came += len(data)
                assert came < LARGE


async def test_there_is_room_for_so_many_and_the_others_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as where:
        monkeypatch.setattr(server, "REQUEST_TIMEOUT", 60.0)
        monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
        held = [await asyncio.open_connection(*where) for _ in range(3)]
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(*where)
        assert await ended(reader)
        writer.close()
        held[0][1].write(GET)
        assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200"), "who was there is served"
        held[1][1].close()
        await held[1][1].wait_closed()
        for _, one in held:
            one.close()


async def test_what_is_no_http_fills_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(monkeypatch) as where:
        for sent in (
            b"\x16\x03\x01 hello\r\n\r\n",
            GET.replace(b"\r\n\r\n", b"\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ):
            reader, writer = await asyncio.open_connection(*where)
            writer.write(sent)
            await ended(reader)
            writer.close()
    assert caplog.text == ""


def test_a_daemon_whose_backlog_is_full_is_there(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        while True:
            caller = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            )
            if caller.connect_ex(str(path)) == errno.EAGAIN:
                break
        with pytest.raises(server.SocketInUse):
            server.bind_socket(path)


def test_of_two_daemons_that_start_at_once_only_one_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks whether a socket is used holds the folder's lock."""
    path = tmp_path / "api.sock"
    server.bind_socket(path).close()  # its file stays
    refuse_if_answered = server._refuse_if_answered

    def look(found: Path) -> None:
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        looked.append(found)
        refuse_if_answered(found)

    looked: list[Path] = []
    monkeypatch.setattr(server, "_refuse_if_answered", look)
    server.bind_socket(path).close()
    assert looked == [path]

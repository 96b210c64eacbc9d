"""The resolver's sockets: what one asker may cost, and what is left when they can't be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io import names
from shadowmesh.io.names import MAX_CONNECTIONS, MAX_QUESTION, MAX_QUESTIONS, NamesServer


def echo(data: bytes, by_tcp: bool) -> bytes | None:
    return None if data == b"silence" else (b"tcp " if by_tcp else b"udp ") + data


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    monkeypatch.setattr(names, "PORT", number)
    server = NamesServer(["127.0.0.1"], echo)
    await server.start()
    yield number
    await server.stop()
    await server.stop()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def talk(port: int, *pieces: bytes) -> bytes:
    """What comes back until the server ends the connection, or we have said all."""
    reader, writer = await connect(port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


async def test_udp(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        asker.connect(("127.0.0.1", port))
        for number in range(100):
            asker.send(b"%d" % number)
        for number in range(100):
            assert await asyncio.wait_for(loop.sock_recv(asker, 100), 10) == b"udp %d" % number
        asker.send(b"silence")
        asker.send(b"last")
        assert await asyncio.wait_for(loop.sock_recv(asker, 100), 10) == b"udp last"


async def test_tcp_in_pieces_and_several_questions(port: int) -> None:
    assert await talk(port, framed(b"one") + framed(b"two")) == framed(b"tcp one") + framed(b"tcp two")
    assert await talk(port, b"\0", b"\3o", b"ne") == framed(b"tcp one")
    assert await talk(port, b"\0\3on") == b"", "half a question is none"


async def test_no_answer_ends_the_connection(port: int) -> None:
    assert await talk(port, framed(b"one") + framed(b"silence") + framed(b"two")) == framed(b"tcp one")


async def test_a_question_above_all_sizes_ends_it_too(port: int) -> None:
    whole = framed(b"x" * MAX_QUESTION)
    assert await talk(port, whole) == framed(b"tcp " + b"x" * MAX_QUESTION)
    assert await talk(port, framed(b"x" * (MAX_QUESTION + 1))) == b""


async def test_a_connection_has_its_number_of_questions(port: int) -> None:
    answers = await talk(port, framed(b"q") * (MAX_QUESTIONS + 1))
    assert answers == framed(b"tcp q") * MAX_QUESTIONS


async def test_who_says_nothing_is_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "IDLE_TIMEOUT", 0.05)
    reader, writer = await connect(port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_who_talks_for_ever_is_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LIFE", 0.1)
    monkeypatch.setattr(names, "MAX_QUESTIONS", 1 << 30)
    reader, writer = await connect(port)

    async def ask_on() -> None:
        while True:
            writer.write(framed(b"q"))
            await reader.readexactly(7)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(ask_on(), 10)
    writer.close()


async def test_connections_are_bounded_and_come_free_again(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "IDLE_TIMEOUT", 60.0)
    monkeypatch.setattr(names, "LIFE", 60.0)
    held = [await connect(port) for _ in range(MAX_CONNECTIONS)]
    for reader, writer in held:
        writer.write(framed(b"q"))
        assert await asyncio.wait_for(reader.readexactly(7), 10) == b"\0\5tcp q"
    more, writer = await connect(port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(more.readexactly(1), 10)
    writer.close()
    held[0][1].close()
    await held[0][1].wait_closed()
    for _ in range(100):
        try:
            answer = await talk(port, framed(b"q"))
        except ConnectionError:
            answer = b""
        if answer:
            break
        await asyncio.sleep(0.05)
    assert answer == framed(b"tcp q")
    for _, writer in held:
        writer.close()


async def test_a_taken_port_leaves_nothing_open(port: int) -> None:
    again = NamesServer(["127.0.0.9", "127.0.0.1"], echo, moves=False)
    with pytest.raises(DeviceError, match=rf"port {port} of 127.0.0.1: another program listens there"):
        await again.start()
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as free:
            free.bind(("127.0.0.9", port))


async def test_another_port_where_the_first_is_taken(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = int(free.getsockname()[1])
    monkeypatch.setattr(names, "OTHER_PORT", other)
    again = NamesServer(["127.0.0.1"], echo)
    assert not again.moved
    await again.start()
    assert (again.port, again.moved) == (other, True)
    assert await talk(other, framed(b"q")) == framed(b"tcp q")
    third = NamesServer(["127.0.0.1"], echo)
    with pytest.raises(DeviceError, match=rf"port {port} of .* listens there; port {other} of .* there"):
        await third.start()
    await again.stop()

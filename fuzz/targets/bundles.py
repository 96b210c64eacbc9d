"""Whatever message a stream brings: a bundle comes out as its datagrams, all else is refused whole."""

from __future__ import annotations

from shadowmesh._ext.bundle import Bundler
from shadowmesh.io.tunnel import Tunnel
from shadowmesh.io.udp import local_address, open_udp

COVERS: tuple[str, ...] = ()
ENGINE = open_udp("127.0.0.1", 0)
TUNNEL = Tunnel(Bundler(), local_address(ENGINE))
ENGINE.settimeout(5.0)


def bundle(*sizes: int) -> bytes:
    return b"".join(size.to_bytes(2, "big") + bytes(size) for size in sizes)


SEEDS = [bundle(21), bundle(35, 35, 35, 25), bundle(1200, 1200, 27), bundle(*[22] * 300), bundle(9000, 21)]


def split(data: bytes) -> list[bytes]:
    """The obvious twin; empty if it is no bundle."""
    found = []
    while data:
        size = int.from_bytes(data[:2], "big")
        if len(data) < 2 or not 21 <= size <= min(len(data) - 2, 65507):
            return []
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def target(data: bytes) -> None:
    """Into the tunnel, and out at the engine's socket."""
    wanted = split(data)
    try:
        TUNNEL.deliver(data)
    except ValueError:
        assert wanted == []
        return
    assert wanted
    assert [ENGINE.recv(65536) for _ in wanted] == wanted


def close() -> None:
    TUNNEL.close()
    ENGINE.close()

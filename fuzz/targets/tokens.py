"""Of whatever text is pasted, a token parses to what its own text parses to, or is refused in words."""

from __future__ import annotations

import base64
import zlib

from shadowmesh.membership.token import PREFIX, BadToken, Token

COVERS = ("shadowmesh.membership.token",)
TOKEN = Token(b"n" * 32, b"i" * 32, b"r" * 32, "relay.example.net:4433", b"s" * 32)
SEEDS = [
    b"\0" + TOKEN.encode().encode(),
    b"\0" + TOKEN.encode().upper().encode() + b"\n",
    b"\0" + TOKEN.encode()[:-9].encode(),
    b"\0smesh2" + b"a" * 50,
    b"\1" + TOKEN.network + TOKEN.inviter + TOKEN.relay + TOKEN.secret + TOKEN.address.encode(),
    b"\1" + bytes(128) + b"[2001:db8::1]:4433",
]


def _sealed(body: bytes) -> str:
    """A token around whatever, its size and checksum right, so that what is behind them is reached."""
    whole = (len(body) + 6 & 0xFFFF).to_bytes(2, "big") + body
    whole += zlib.crc32(whole).to_bytes(4, "big")
    return PREFIX + base64.b32encode(whole).decode().rstrip("=").lower()


def target(data: bytes) -> None:
    """As text, or inside a token that is undamaged."""
    text = data[1:].decode("utf-8", "replace") if data[:1] == b"\0" else _sealed(data[1:])
    try:
        token = Token.parse(text)
    except BadToken:
        return
    assert Token.parse(token.encode()) == token

"""A reverse proxy as small as can be, for tests: TLS in front, plain HTTP behind, and who asked in a header.

    python -m shadowmesh.testing.front PORT BACKEND-ADDRESS:PORT CERTIFICATE KEY

Only for one request on each connection, as WebSockets have it.  Imports nothing of the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

HEAD_LIMIT = 65536


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(port: int, backend: str, certificate: str, key: str) -> None:
    """Serve for ever."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    host, _, backend_port = backend.rpartition(":")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        client = writer.get_extra_info("peername")[0]
        inner_reader, inner_writer = await asyncio.open_connection(host, int(backend_port))
        inner_writer.write(head[:-2] + f"X-Forwarded-For: {client}\r\n\r\n".encode())
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    server = await asyncio.start_server(handle, None, port, ssl=context, limit=HEAD_LIMIT)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:5]))

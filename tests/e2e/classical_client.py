"""A QUIC client without post-quantum key exchange: prints the error code that it is closed with."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent


class Client(QuicConnectionProtocol):
    """Says how it ended."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            print(f"0x{event.error_code:x}", flush=True)


async def run(host: str, port: int) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["shadowmesh/1"])
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(host, port, configuration=configuration, create_protocol=Client):
        print("connected", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(run(sys.argv[1], int(sys.argv[2])))
    except ConnectionError:
        sys.exit(1)

"""Where relay legs over TCP end: a WebSocket service whose clients look to the forwarder like any others.

Each WebSocket gets a tunnel (`shadowmesh.io.tunnel`): a UDP socket of this machine from which its datagrams
go to the relay's own port.  So admission, channels and limits are those of the protocol; what is bounded
here is what a TCP connection costs before a client is known by its session: connections at all and per
address, the time that each step may take, and the size of a message.

The TLS here is for the network in between, and nothing trusts it: behind a reverse proxy there is none.
Everything but the one path is answered with 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from shadowmesh._ext.bundle import MAX_BUNDLE, Bundler
from shadowmesh.errors import DeviceError
from shadowmesh.io.tunnel import Tunnel, arrange_stream
from shadowmesh.io.udp import why_not
from shadowmesh.units import Address

from .certificate import Certificate, tls_context
from .config import WebSocketSection
from .places import Places, dispensable

log = logging.getLogger("shadowmesh.relay")

PATH = "/shadowmesh"
"""As in `shadowmesh.io.carrier`, which a relay does not load."""
OPEN_TIMEOUT = 5.0
"""Seconds for TLS, and again for the request: whoever sends it byte by byte is not waited for."""
CLOSE_TIMEOUT = 1.0
"""Seconds for what is left to be sent, and for the other end's goodbye; the connection counts until then."""
IDLE_TIMEOUT = 60.0
"""Seconds without a byte; a client pings every 20."""
SWEEP = 15.0
"""Seconds between looks for connections that no admitted client uses."""
READ_SIZE = 256 << 10
TRIAL = 256 << 10
"""Bytes of a client that is not admitted yet: several handshakes with the largest certificates."""
TRIAL_READ_SIZE = 16 << 10
"""At once from it: small frames cost the most, and everybody waits for them."""
BACKLOG = 128
TUNNEL_TRIES = 8
"""Sockets until one has a port of its own; the system picks them by chance out of 28,000."""
OTHER_DESCRIPTORS = 256
"""Of everything else in the process, with a margin."""
MAX_FORWARDED = 1024
"""Characters of X-Forwarded-For that are looked at."""

_quiet = logging.getLogger("shadowmesh.relay.websocket")
_quiet.setLevel(logging.CRITICAL)  # what strangers send wrong is counted, not logged


class Origins:
    """Who is behind the tunnels: source address on this machine -> address of the TCP connection's client."""

    def __init__(self) -> None:
        self._origins: dict[Address, Address] = {}

    def __call__(self, source: Address) -> Address:
        """The client's own address; `source` itself if it comes by UDP."""
        return self._origins.get(source, source)

    @contextlib.contextmanager
    def noted(self, source: Address, origin: Address) -> Iterator[None]:
        """While a tunnel stands."""
        self._origins[source] = origin
        try:
            yield
        finally:
            del self._origins[source]


class WebSocketService:
    """Call `open` first (it may need privileges), `start` in the event loop, `stop` at the end.

    :param bound: where the forwarder's UDP socket is bound.
    :param origins: is told of every tunnel.
    :param in_use: the addresses at which admitted clients are now.
    :param taken: those, and the addresses of handshakes under way.
    """

    def __init__(
        self,
        config: WebSocketSection,
        bound: Address,
        origins: Origins,
        in_use: Callable[[], set[Address]],
        taken: Callable[[], set[Address]],
    ) -> None:
        self.config = config
        self.bound = bound
        self.origins = origins
        self.bundler = Bundler()
        self.drops: Counter[str] = Counter()
        self._certificate: Certificate[ssl.SSLContext] | None = None
        self._in_use = in_use
        self._taken = taken
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[Connection, None] = {}
        """The oldest first."""
        self._places = Places(self.drops, config.max_connections, config.max_per_address)

    @property
    def connected(self) -> int:
        """TCP connections that stand now."""
        return len(self._connections)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For the next connection; a renewed certificate comes with a new one. None: plain HTTP."""
        return self._certificate.value if self._certificate is not None else None

    def open(self) -> None:
        """Listen, and read the certificate. Raises DeviceError and ConfigError."""
        _allow_descriptors(2 * self.config.max_connections + OTHER_DESCRIPTORS)
        if self.config.certificate is not None and self.config.key is not None:
            self._certificate = Certificate(self.config.certificate, self.config.key, tls_context)
        where = Address(self.config.host, self.config.port)
        ipv6 = ":" in where.host and (where.host != "::" or socket.has_dualstack_ipv6())
        host = where.host if ipv6 or where.host != "::" else "0.0.0.0"
        listener = socket.socket(
            socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        )
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ipv6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((host, where.port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            text = f"can't listen on TCP {where}: {why_not(error)}"
            raise DeviceError(text, "device.listen") from error
        self._listener = listener

    def start(self) -> None:
        """Begin to accept."""
        self._keep(self._accept())
        self._keep(self._sweep())

    async def stop(self) -> None:
        """Close everything; the clients were told by the protocol."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()

    def dropped(self) -> Counter[str]:
        """Everything that was refused or lost here, by reason."""
        drops = Counter(self.drops)
        drops["websocket_queue_full"] += sum(one.queue_drops for one in self._connections)
        return drops

    def admit(self, stack: contextlib.ExitStack, origin: Address) -> bool:
        """Count a connection of `origin` until the stack ends; False if that has too many."""
        return self._places.admit(stack, origin.host)

    def open_tunnel(self) -> Tunnel:
        """A tunnel at an address where no client is: one may have lost its own, and not know it yet.

        Raises OSError.
        """
        taken = self._taken()
        with contextlib.ExitStack() as tried:
            for _ in range(TUNNEL_TRIES):
                tunnel = Tunnel(self.bundler, self.bound)
                if tunnel.address not in taken:
                    return tunnel
                tried.callback(tunnel.close)  # held meanwhile, so that the next one is another
        raise OSError(errno.EADDRNOTAVAIL, "no port is free")

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, where = await loop.sock_accept(self._listener)
            except OSError as error:  # no descriptor left, or the connection is gone already
                self.drops["websocket_accept_failed"] += 1
                log.debug("accepting a TCP connection failed: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            if len(self._connections) >= self.config.max_connections and not self._make_room():
                self.drops["websocket_too_many"] += 1
                accepted.close()
                continue
            host = where[0].removeprefix("::ffff:") if "." in where[0] else where[0]
            connection = Connection(self, accepted, Address(host, where[1]))
            self._connections[connection] = None
            connection.task = self._keep(self._serve(connection))

    def _make_room(self) -> bool:
        """End the oldest connection that no admitted client uses; False if there is none."""
        oldest = dispensable(self._connections, self._in_use())
        if oldest is None:
            return False
        self.drops["websocket_displaced"] += 1
        oldest.displace()
        return True

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            self._connections.pop(connection, None)
            self.drops["websocket_queue_full"] += connection.queue_drops
            connection.close()

    def used(self, tunnel: Tunnel) -> bool:
        """Whether an admitted client is at this tunnel now; looks at all of them."""
        return tunnel.address in self._in_use()

    async def _sweep(self) -> None:
        """A tunnel is for admitted clients; whoever is none after a whole round has to go."""
        while True:
            await asyncio.sleep(SWEEP)
            if self._certificate is not None:
                self._certificate.renew()
            in_use = self._in_use()
            for connection in list(self._connections):
                if connection.tunnel is None or connection.tunnel.address in in_use:
                    connection.doubted = False
                elif connection.doubted:
                    self.drops["websocket_unused"] += 1
                    connection.abort()
                else:
                    connection.doubted = True


class Connection:
    """One TCP connection, from its first byte to its last."""

    def __init__(self, service: WebSocketService, accepted: socket.socket, peer: Address) -> None:
        self.tunnel: Tunnel | None = None
        self.task: asyncio.Task[None] | None = None
        self.doubted = False
        """No client was at its tunnel when that was last looked at."""
        self.leaving = False
        self._service = service
        self._accepted = accepted
        self._peer = peer
        self._protocol = ServerProtocol(max_size=MAX_BUNDLE, logger=_quiet)
        self._message = bytearray()
        self._trial = TRIAL
        """Bytes that it may still send before somebody looks whether it was admitted; 0: it was."""
        self._writer: asyncio.StreamWriter | None = None

    @property
    def queue_drops(self) -> int:
        """Datagrams for the client that found its queue full."""
        return self.tunnel.dropped if self.tunnel is not None else 0

    @property
    def address(self) -> Address | None:
        """Of its tunnel: where an admitted client is, if one uses it."""
        return self.tunnel.address if self.tunnel is not None else None

    def displace(self) -> None:
        """End it now, for somebody else, however far it has come."""
        self.leaving = True
        self.abort()
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        """End it now; `serve` returns soon."""
        if self._writer is not None:
            self._writer.transport.abort()

    def close(self) -> None:
        """Give everything back."""
        if self.tunnel is not None:
            self.tunnel.close()
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._accepted.close()

    async def serve(self) -> None:
        """Until it ends, whoever ends it."""
        service, trusted = self._service, self._service.config.trusts(self._peer.host)
        with contextlib.ExitStack() as stack:
            if not trusted and not service.admit(stack, self._peer):
                return
            try:
                reader, writer = await self._secure()
                origin = await self._negotiate(reader, writer, trusted)
                if origin is None or (trusted and not service.admit(stack, origin)):
                    return
                self.tunnel = service.open_tunnel()
                stack.enter_context(service.origins.noted(self.tunnel.address, origin))
                await self._carry(reader, writer, self.tunnel)
            except TimeoutError:
                service.drops["websocket_timeout"] += 1
            except (OSError, EOFError, ssl.SSLError, RuntimeError, InvalidState):
                # The last two: somebody writes while the stream or the WebSocket is being closed.
                service.drops["websocket_broken"] += 1
            except ValueError:
                service.drops["websocket_malformed"] += 1
            finally:
                await self._end()

    async def _end(self) -> None:
        """Close the TCP connection in bounded time: as long as it holds a descriptor it has to count."""
        if self._writer is None:
            return
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    self._writer.close()
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()

    async def _secure(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """TLS, if we do that ourselves."""
        loop = asyncio.get_running_loop()
        arrange_stream(self._accepted)
        reader = asyncio.StreamReader(limit=READ_SIZE)
        glue = asyncio.StreamReaderProtocol(reader)
        tls = self._service.tls
        async with asyncio.timeout(OPEN_TIMEOUT):
            transport, _ = await loop.connect_accepted_socket(
                lambda: glue,
                self._accepted,
                ssl=tls,
                ssl_handshake_timeout=OPEN_TIMEOUT if tls is not None else None,
                ssl_shutdown_timeout=CLOSE_TIMEOUT if tls is not None else None,
            )
        self._writer = asyncio.StreamWriter(transport, glue, reader, loop)
        return reader, self._writer

    async def _negotiate(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, trusted: bool
    ) -> Address | None:
        """Answer the request; the client's address if it is a WebSocket on our path, else None."""
        protocol = self._protocol
        async with asyncio.timeout(OPEN_TIMEOUT):
            request: Request | None = None
            while request is None and protocol.handshake_exc is None and not reader.at_eof():
                protocol.receive_data(await reader.read(4096))
                request = next((one for one in protocol.events_received() if isinstance(one, Request)), None)
            # What came right behind the request may have failed already, and ended our side of it.
            if request is not None and not protocol.eof_sent:
                ours = request.path.partition("?")[0] == PATH
                protocol.send_response(
                    protocol.accept(request) if ours else protocol.reject(404, "There is nothing here.\n")
                )
            await self._flush(writer)
        if request is None or protocol.state is not OPEN:
            self._service.drops["websocket_refused"] += 1
            return None
        return self._origin(request, trusted)

    def _origin(self, request: Request, trusted: bool) -> Address:
        """The client's address: what the last proxy that we don't know says of whom it forwards for."""
        hops = ",".join(request.headers.get_all("X-Forwarded-For"))[-MAX_FORWARDED:].split(",")
        for hop in reversed([hop.strip() for hop in hops] if trusted else []):
            try:
                address = ipaddress.ip_address(hop)
            except ValueError:
                break
            host = str(getattr(address, "ipv4_mapped", None) or address)
            if not self._service.config.trusts(host):
                return Address(host, self._peer.port)
        return self._peer

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tunnel: Tunnel
    ) -> None:
        async def send(bundle: bytes) -> None:
            self._protocol.send_binary(bundle)
            await self._flush(writer)

        out = asyncio.create_task(tunnel.pump(send))
        try:
            await self._receive(reader, writer, tunnel)
        finally:
            out.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, RuntimeError, InvalidState):
                await out

    async def _receive(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tunnel: Tunnel
    ) -> None:
        """Messages into the tunnel; a ping is answered by the protocol."""
        protocol = self._protocol
        while protocol.state is OPEN:
            for frame in protocol.events_received():
                if isinstance(frame, Frame):
                    self._take(frame.opcode, frame.data, frame.fin, tunnel)
                    await asyncio.sleep(0)  # others have their turn
            await self._flush(writer)
            async with asyncio.timeout(IDLE_TIMEOUT):
                data = await reader.read(TRIAL_READ_SIZE if self._trial else READ_SIZE)
            if not data or not self._may_go_on(len(data), tunnel):
                return
            protocol.receive_data(data)
        await self._flush(writer)

    def _may_go_on(self, size: int, tunnel: Tunnel) -> bool:
        """Whether to read what came: all of an admitted client, and so much of everybody else."""
        if self._trial:
            self._trial = max(self._trial - size, 0)
            if not self._trial and not self._service.used(tunnel):
                self._service.drops["websocket_not_admitted"] += 1
                return False
        return True

    def _take(self, opcode: Opcode, data: bytes | bytearray | memoryview, last: bool, tunnel: Tunnel) -> None:
        """A frame of the WebSocket; a message may come in several. Raises ValueError."""
        if opcode is Opcode.TEXT:
            raise ValueError("text is no bundle")
        if opcode not in (Opcode.BINARY, Opcode.CONT):
            return
        if last and not self._message:
            tunnel.deliver(data)
            return
        self._message += data
        if last:
            tunnel.deliver(bytes(self._message))
            self._message.clear()

    async def _flush(self, writer: asyncio.StreamWriter) -> None:
        for data in self._protocol.data_to_send():
            if data:
                writer.write(data)
            elif writer.can_write_eof():
                writer.write_eof()
        await writer.drain()


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit, which is 1024 by old custom, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        if hard < wanted:
            line = "max_connections needs %d descriptors, the system allows %d [machine.resource]"
            log.warning(line, wanted, hard)

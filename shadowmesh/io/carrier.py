"""The client's end of a relay leg over TCP: a WebSocket on TLS 1.3, directly or through an HTTP proxy.

The outer TLS is for the network in between: it looks like any web traffic and passes where that passes.
It proves nothing that we rely on: the relay proves its NodeID in the session inside, and all that this TLS
protects is protected again there.  `tls:` in the configuration can ask for more.

Does NOT decide when a leg runs over TCP: `shadowmesh.core.leg` does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import websockets
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import ClientConnection, connect

from shadowmesh._ext.bundle import MAX_BUNDLE, Bundler
from shadowmesh.config import RelayPeer
from shadowmesh.io.tunnel import Tunnel, arrange_stream
from shadowmesh.units import Address
from shadowmesh.values import ANY_TLS, VERIFIED_TLS, printable

log = logging.getLogger("shadowmesh")

PATH = "/shadowmesh"
"""Of the URL; a relay answers 404 to every other."""
OPEN_TIMEOUT = 8.0
"""Seconds for name, TCP, proxy, TLS and WebSocket together; a slow proxy takes three."""
PING_INTERVAL = 20.0
"""Seconds between pings of the WebSocket: below the 30 to 60 s after which proxies close what is silent."""
PING_TIMEOUT = 20.0
CLOSE_TIMEOUT = 1.0
MAX_FAULTS = 16
"""Different faults that are told; each once."""
MAX_WORDS = 100
"""Characters of what a relay or a proxy said that are shown."""
WRITE_LIMIT = 64 << 10
"""Bytes that wait in the process before the pump waits too."""

websockets_log = logging.getLogger("shadowmesh.websocket")
websockets_log.setLevel(logging.CRITICAL)  # what ends a connection is told by us


@dataclass(frozen=True)
class Secured:
    """What the outer TLS came to, for people."""

    version: str
    cipher: str
    key_exchange: str


def hybrid_offered() -> bool:
    """Whether the TLS library offers X25519MLKEM768 by itself: OpenSSL since 3.5."""
    return ssl.OPENSSL_VERSION_INFO[:2] >= (3, 5)


def key_exchange_of(tls: ssl.SSLObject | None) -> str:
    """What is known of the outer key exchange; Python tells the group from 3.15 on."""
    group = getattr(tls, "group", None)
    if group is not None:
        return str(group())
    library = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return f"hybrid offered ({library})" if hybrid_offered() else f"classical ({library} has no hybrid)"


class Carrier:
    """One WebSocket to one relay; lives from its making until `close`, or until it breaks.

    :param bound: where the engine's UDP socket is bound.
    :param on_change: called once with the tunnel's address when it stands, and once with None and the
        reason when it is over; never from inside `close`.
    """

    def __init__(
        self,
        relay: RelayPeer,
        bundler: Bundler,
        bound: Address,
        on_change: Callable[[Carrier, Address | None, str], None],
    ) -> None:
        self.secured: Secured | None = None
        self.tunnel: Tunnel | None = None
        self.remote: Address | None = None
        """Where the TCP connection leads: to the relay or a reverse proxy, or to an HTTP proxy."""
        self._relay = relay
        self._bundler = bundler
        self._bound = bound
        self._on_change = on_change
        self._task = asyncio.create_task(self._run())

    def close(self) -> asyncio.Task[None]:
        """Begin to end it; whoever must know waits for the task."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        problem = ""
        try:
            problem = await self._serve()
        except asyncio.CancelledError:
            return
        except (OSError, EOFError, ValueError, ImportError, websockets.WebSocketException) as error:
            problem = _words(error)
        except Exception as error:
            # A fault of ours or of a library. Whoever waits for this connection must hear of its end all the
            # same, and tries again, later each time.
            problem = _fault(error)
        finally:
            if self.tunnel is not None:
                self.tunnel.close()
        self._on_change(self, None, problem)

    async def _serve(self) -> str:
        """Carry until it breaks, and say why."""
        async with await self._connect() as connection:
            tls = connection.transport.get_extra_info("ssl_object")
            _check_pin(self._relay.tls, tls)
            self.secured = Secured(tls.version() or "", tls.cipher()[0], key_exchange_of(tls))
            with contextlib.suppress(OSError):
                arrange_stream(connection.transport.get_extra_info("socket"))
            self.remote = _address_of(connection.remote_address)
            self.tunnel = tunnel = Tunnel(self._bundler, self._bound)
            self._on_change(self, tunnel.address, "")
            out = asyncio.create_task(tunnel.pump(connection.send))
            try:
                async for message in connection:
                    if isinstance(message, str):
                        return "the relay sent text"
                    tunnel.deliver(message)
            finally:
                out.cancel()
                with contextlib.suppress(asyncio.CancelledError, websockets.ConnectionClosed):
                    await out
        return "the relay closed it"

    async def _connect(self) -> ClientConnection:
        relay = self._relay
        assert relay.tcp is not None
        proxy: str | Literal[True] | None = True
        if relay.proxy != "auto":
            proxy = None if relay.proxy == "off" else relay.proxy
        return await _Connect(
            f"wss://{relay.tcp}{PATH}",
            ssl=_context(relay.tls),
            proxy=proxy,
            compression=None,  # what we carry is ciphertext
            user_agent_header=None,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_BUNDLE,
            write_limit=WRITE_LIMIT,
            logger=websockets_log,
        )


def _address_of(name: tuple[Any, ...] | None) -> Address | None:
    return Address(*name[:2]) if name else None


class _Connect(connect):
    """Follows no redirect: no relay sends one, and nobody else shall send us elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _context(tls: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if tls == VERIFIED_TLS:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_pin(wanted: str, tls: ssl.SSLObject) -> None:
    """Compare the certificate's key with the pin of the configuration, if that has one. Raises ValueError."""
    if wanted in (ANY_TLS, VERIFIED_TLS):
        return
    certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    key = x509.load_der_x509_certificate(certificate).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    found = f"sha256//{base64.b64encode(digest).decode()}"
    if found != wanted:
        raise ValueError(f"its key is {found}, not that of the configuration")


_faults: set[tuple[str, str]] = set()


def _fault(error: Exception) -> str:
    """What nobody expected, in one line; the log has all of it, once."""
    problem = f"{type(error).__name__}: {_printable(str(error))}"
    if len(_faults) < MAX_FAULTS and (type(error).__name__, str(error)) not in _faults:
        _faults.add((type(error).__name__, str(error)))
        line = "a connection to a relay over TCP failed, and is tried again: %s [program.bug]"
        log.error(line, problem, exc_info=error)
    return f"an error of the program, see its log: {type(error).__name__}"


def _words(error: BaseException) -> str:
    """What went wrong, in one line that is fit for `status`; no URL in it, a proxy's may hold a password."""
    if isinstance(error, TimeoutError):
        return "nothing answered in time"
    if isinstance(error, websockets.InvalidStatus):
        return f"the web server there answered {error.response.status_code}: it does not lead to a relay"
    if isinstance(error, websockets.ConnectionClosed):
        reason = _printable(error.rcvd.reason) if error.rcvd is not None else ""
        return reason or "the connection broke"
    if isinstance(error, websockets.InvalidProxy):
        return "the URL of the proxy is not valid"
    if isinstance(error, websockets.ProxyError):
        cause = error.__cause__
        return f"the proxy refused: {_printable(str(cause or error))}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, socket.gaierror | ssl.SSLError):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts the address in, that of a proxy too
    return _printable(str(error)) or type(error).__name__


def _printable(text: str) -> str:
    """What the other end said, fit for terminals and logs."""
    return printable(text[:MAX_WORDS])

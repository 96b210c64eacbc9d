"""The relay as a running process: protocol, forwarder and socket in one event loop; start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from shadowmesh._ext.forward import EVENT_ENDPOINT, Forwarder
from shadowmesh._ext.lanes import SendKeys
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.io.udp import from_sockaddr, local_address, open_udp, send, to_sockaddr
from shadowmesh.units import Address

from .admission import Admission
from .config import RelayConfig
from .protocol import RelayCore

log = logging.getLogger("shadowmesh.relay")

DRAIN = 0.05
"""Seconds between the goodbyes and the end of the socket."""


class ForwarderTables:
    """`protocol.Tables` over a `Forwarder`: addresses become sockaddr, nothing else."""

    def __init__(self, forwarder: Forwarder, family: int) -> None:
        self._forwarder = forwarder
        self._family = family
        self.remove_client = forwarder.remove_client
        self.install_channel = forwarder.install_channel
        self.install_control = forwarder.install_control
        self.remove = forwarder.remove

    def add_client(self, client: int, address: Address) -> None:
        self._forwarder.add_client(client, to_sockaddr(address, self._family))

    def new_send_keys(self, material: bytearray) -> Any:
        return SendKeys(material)

    def set_lane(self, client: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        self._forwarder.set_lane(client, keys, lane, receiver_id)

    def install_receive(self, client: int, ids: Sequence[bytes], material: bytearray) -> None:
        self._forwarder.install_receive(client, ids, material)

    def last_bind(self, client: int) -> float:
        return float(self._forwarder.client_counters(client)["last_bind"])


class Server:
    """Moves datagrams between protocol and socket, and wakes the protocol at its deadline."""

    def __init__(self, core: RelayCore, forwarder: Forwarder, udp: socket.socket) -> None:
        self._core = core
        self._forwarder = forwarder
        self._udp = udp
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then say goodbye."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_reader(self._forwarder.fileno(), self._serve_forwarder)
        self._drive()
        await stop.wait()
        loop.remove_reader(self._forwarder.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._core.close(time.monotonic())
        self._flush()
        await asyncio.sleep(DRAIN)

    def _serve_forwarder(self) -> None:
        now = time.monotonic()
        for kind, handle, _, source, data in self._forwarder.poll():
            if kind == EVENT_ENDPOINT:
                self._core.handle_endpoint(handle, from_sockaddr(source))
            else:
                self._core.handle_datagram(data, from_sockaddr(source), now)
        self._drive()

    def _serve_timer(self) -> None:
        self._core.handle_timer(time.monotonic())
        self._drive()

    def _drive(self) -> None:
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self._core.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)

    def _flush(self) -> None:
        for data, address in self._core.poll_transmit():
            send(self._udp, data, address)
        for line in self._core.poll_events():
            log.info("%s", line)


def run(config: RelayConfig) -> int:
    """Run a relay until it is told to stop; returns the exit code of the command."""
    identity = identities.load(config.relay.state_dir)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("shadowmesh").setLevel(logging.INFO)
    logging.getLogger("quic").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        udp = stack.enter_context(open_udp(config.relay.host, config.relay.port))
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        forwarder = Forwarder(udp.fileno(), event_fd)
        core = RelayCore(
            identity,
            Admission(config.admission.open, config.admission.nodes),
            ForwarderTables(forwarder, udp.family),
            secrets.token_bytes,
            time.monotonic(),
        )
        forwarder.start()
        stack.callback(forwarder.stop)
        log.info(
            "%s (%s) serves on UDP %s, admits %s",
            config.relay.name,
            node_id_text(identity.node_id),
            local_address(udp),
            "everybody" if config.admission.open else f"{len(config.admission.nodes)} nodes",
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Server(core, forwarder, udp).serve())
        log.info("stopped; %s", _totals(forwarder))
    return 0


def _totals(forwarder: Forwarder) -> str:
    counted = forwarder.counters() | {name: count for name, count in forwarder.drops().items() if count}
    return ", ".join(f"{name} {count}" for name, count in counted.items())

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
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import uvloop

from shadowmesh import __version__
from shadowmesh._ext.forward import EVENT_ENDPOINT, Forwarder
from shadowmesh._ext.lanes import SendKeys
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.io import notify
from shadowmesh.io.logs import log_to
from shadowmesh.io.membership import open_guard
from shadowmesh.io.shield import PAUSE, survives
from shadowmesh.io.tokens import load_tokens
from shadowmesh.io.udp import from_sockaddr, local_address, open_udp, receive, send, to_sockaddr
from shadowmesh.units import Address

from .admission import Admission
from .config import RelayConfig, admits
from .hook import Hook, Question, Verdict
from .observer import Observer
from .protocol import RelayCore

log = logging.getLogger("shadowmesh.relay")

DRAIN = 0.05
"""Seconds between the goodbyes and the end of the socket."""
SECOND_PORT_BATCH = 64
"""Datagrams of the second port served in one go: whoever floods it must not stop the rest."""


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
    """Moves datagrams between protocol and sockets, and wakes the protocol at its deadline.

    :param second: the socket of the second port, if there is one.
    :param hook: answers the questions of the protocol; without one every answer is no.
    """

    def __init__(
        self,
        core: RelayCore,
        forwarder: Forwarder,
        udp: socket.socket,
        second: socket.socket | None = None,
        hook: Hook | None = None,
    ) -> None:
        self._core = core
        self._forwarder = forwarder
        self._udp = udp
        self._second = second
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._hook = hook
        self._answers: set[asyncio.Task[None]] = set()

    async def serve(self, up: str) -> None:
        """Serve until SIGTERM or SIGINT, then say goodbye; SIGUSR1 asks for a line with the totals.

        :param up: the line that says that the relay serves.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: log.info("%s", self.totals()))
        loop.add_reader(self._forwarder.fileno(), self._serve_forwarder)
        if self._second is not None:
            loop.add_reader(self._second, self._serve_second, self._second)
        self._drive()
        log.info("%s", up)
        notify.ready(up)
        await stop.wait()
        notify.stopping()
        loop.remove_reader(self._forwarder.fileno())
        if self._second is not None:
            loop.remove_reader(self._second)
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._core.close(time.monotonic())
        self._flush()
        await asyncio.sleep(DRAIN)

    def totals(self) -> str:
        """What was carried and what was dropped since the start, in one line."""
        drops = Counter(self._forwarder.drops())
        drops.update(self._core.drops)
        drops["control_send_failed"] += self._unsent
        return totals(len(self._core.clients), self._forwarder.counters(), drops)

    async def _answer(self, question: Question) -> None:
        verdict = Verdict(False, failed=True)
        try:
            if self._hook is not None:
                verdict = await self._hook.ask(question)
        finally:
            survives(self._core.handle_verdict, question.number, verdict, time.monotonic())
            self._drive()

    def _serve_forwarder(self) -> None:
        now = time.monotonic()
        for kind, handle, _, source, data in self._forwarder.poll():
            if kind == EVENT_ENDPOINT:
                survives(self._core.handle_endpoint, handle, from_sockaddr(source))
            else:
                survives(self._core.handle_datagram, data, from_sockaddr(source), now)
        self._drive()

    def _serve_second(self, second: socket.socket) -> None:
        now = time.monotonic()
        for _ in range(SECOND_PORT_BATCH):
            arrived = receive(second)
            if arrived is None:
                break
            survives(self._core.handle_second_datagram, *arrived, now)
        self._drive()

    def _serve_timer(self) -> None:
        healthy = survives(self._core.handle_timer, time.monotonic())
        self._drive(0.0 if healthy else PAUSE)

    def _drive(self, at_least: float = 0.0) -> None:
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at_least, self._core.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)

    def _flush(self) -> None:
        for data, address in self._core.poll_transmit():
            self._unsent += not send(self._udp, data, address)
        if self._second is not None and self._core.observer is not None:
            for data, address in self._core.observer.poll_transmit():
                self._unsent += not send(self._second, data, address)
        for question in self._core.poll_questions():
            task = asyncio.create_task(self._answer(question))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        for line in self._core.poll_events():
            log.info("%s", line)


def run(config: RelayConfig) -> int:
    """Run a relay until it is told to stop; returns the exit code of the command."""
    identity = identities.load(config.relay.state_dir)
    guards = [open_guard(file, config.relay.state_dir) for file in config.admission.networks]
    log_to(sys.stderr.fileno())
    with contextlib.ExitStack() as stack:
        udp = stack.enter_context(open_udp(config.relay.host, config.relay.port))
        second, observer = None, None
        if config.relay.second_port is not None:
            second = stack.enter_context(open_udp(config.relay.host, config.relay.second_port))
            observer = Observer(config.relay.second_port)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        forwarder = Forwarder(udp.fileno(), event_fd)
        core = RelayCore(
            identity,
            Admission(
                config.admission.open,
                config.admission.nodes,
                guards,
                load_tokens(config.admission.token_file) if config.admission.token_file else (),
                asks=config.admission.hook is not None,
            ),
            ForwarderTables(forwarder, udp.family),
            secrets.token_bytes,
            time.monotonic(),
            observer,
            config.limits,
        )
        forwarder.set_limits(
            packet_rate=config.limits.packets_per_second, byte_rate=config.limits.bytes_per_second
        )
        forwarder.start()
        stack.callback(forwarder.stop)
        up = (
            f"{config.relay.name} ({node_id_text(identity.node_id)}) serves on UDP {local_address(udp)}, "
            f"{admits(config.admission)}, ShadowMesh {__version__}"
        )
        hook = Hook(config.admission.hook, identity.node_id) if config.admission.hook else None
        server = Server(core, forwarder, udp, second, hook)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(up))
        log.info("stopped; %s", server.totals())
    return 0


def totals(clients: int, counters: Mapping[str, int], drops: Mapping[str, int]) -> str:
    """One line; drops that did not happen, and what only a client with its TAP counts, are left out."""
    counted = {name: count for name, count in counters.items() if not name.startswith("tap_")}
    dropped = {name: count for name, count in drops.items() if count}
    parts = [f"{name} {count}" for name, count in counted.items()]
    parts += [f"dropped {name} {count}" for name, count in dropped.items()]
    return ", ".join([f"clients {clients}", *parts])

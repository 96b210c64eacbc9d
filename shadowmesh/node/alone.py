"""A node that lives for one matter: no interface, no peers, no local API.

It has the identity of this machine, since a relay admits nobody else, and so it holds the same lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import uvloop

from shadowmesh._ext.engine import Engine
from shadowmesh.api.schema import Netcheck
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.core.shared import Tables
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity
from shadowmesh.io.dataplane import EngineTables
from shadowmesh.io.membership import open_membership, with_network
from shadowmesh.io.udp import open_udp
from shadowmesh.node.daemon import Daemon
from shadowmesh.node.lifecycle import new_core, only_one
from shadowmesh.node.wall import Wall
from shadowmesh.overlay.mac import mac_of

T = TypeVar("T")


def netcheck_alone(config: ClientConfig) -> Netcheck:
    """Connect to the relays, ask, and leave. Raises CommandFailed and ShadowMeshError."""
    identity = identities.load(config.node.state_dir)
    with only_one(config.node.state_dir):
        membership = open_membership(config, identity)  # which may write there
        config = msgspec.structs.replace(with_network(config, membership), peers=())

        def make(tables: Tables) -> Core:
            return new_core(config, identity, tables, membership, most_peers=0)

        return _run(config, identity, make, lambda _core, daemon: daemon.netcheck())


def run_alone(
    config: ClientConfig,
    identity: Identity,
    make: Callable[[Tables], Core],
    serve: Callable[[Core, Daemon], Awaitable[T]],
) -> T:
    """Run the core that `make` gives until `serve` is done. Raises CommandFailed and ShadowMeshError."""
    with only_one(config.node.state_dir):
        return _run(config, identity, make, serve)


def _run(
    config: ClientConfig,
    identity: Identity,
    make: Callable[[Tables], Core],
    serve: Callable[[Core, Daemon], Awaitable[T]],
) -> T:
    mac = mac_of(identity.node_id)
    with contextlib.ExitStack() as stack:
        udp = stack.enter_context(open_udp(config.listen.address, config.listen.port))
        # The engine wants a device; at this one no frame ever comes in.
        device, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(device)
        stack.enter_context(silent)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        engine = Engine(udp.fileno(), device.fileno(), event_fd, mac, features=())
        core = make(EngineTables(engine, udp.family))
        engine.start()
        stack.callback(engine.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            daemon = Daemon(config, core, engine, Wall(engine, core), udp, 0, identity)
            return runner.run(_serve(daemon, core, serve))


async def _serve(daemon: Daemon, core: Core, serve: Callable[[Core, Daemon], Awaitable[T]]) -> T:
    daemon.start()
    try:
        return await serve(core, daemon)
    finally:
        await daemon.finish()

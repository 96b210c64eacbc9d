"""A node that lives for one netcheck: no interface, no peers, no local API.

It has the identity of this machine, since a relay admits nobody else, and so it holds the same lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import msgspec
import uvloop

from shadowmesh._ext.engine import Engine
from shadowmesh.api.schema import Netcheck
from shadowmesh.config import ClientConfig
from shadowmesh.crypto import identity as identities
from shadowmesh.io.dataplane import EngineTables
from shadowmesh.io.membership import open_membership, with_network
from shadowmesh.io.udp import open_udp
from shadowmesh.node.daemon import Daemon
from shadowmesh.node.lifecycle import new_core, only_one
from shadowmesh.node.wall import Wall
from shadowmesh.overlay.mac import mac_of


def netcheck_alone(config: ClientConfig) -> Netcheck:
    """Connect to the relays, ask, and leave. Raises CommandFailed and ShadowMeshError."""
    identity = identities.load(config.node.state_dir)
    membership = open_membership(config, identity)
    config = msgspec.structs.replace(with_network(config, membership), peers=())
    mac = mac_of(identity.node_id)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_one(config.node.state_dir))
        udp = stack.enter_context(open_udp(config.listen.address, config.listen.port))
        # The engine wants a device; at this one no frame ever comes in.
        device, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(device)
        stack.enter_context(silent)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        engine = Engine(udp.fileno(), device.fileno(), event_fd, mac, features=())
        core = new_core(config, identity, EngineTables(engine, udp.family), membership, most_peers=0)
        engine.start()
        stack.callback(engine.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(Daemon(config, core, engine, Wall(engine, core), udp, 0)))


async def _serve(daemon: Daemon) -> Netcheck:
    daemon.start()
    try:
        return await daemon.netcheck()
    finally:
        await daemon.finish()

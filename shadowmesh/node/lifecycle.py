"""Start and stop of the client: what is taken is given back, in reverse order, whatever happens.

lock -> identity -> UDP socket -> TAP -> engine -> API socket -> ready
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

import uvloop

from shadowmesh import __version__
from shadowmesh._ext import aead
from shadowmesh._ext.engine import Engine
from shadowmesh.api.access import closed_folder, socket_group
from shadowmesh.api.server import serve_api
from shadowmesh.command import CommandFailed, ExitCode, explain
from shadowmesh.config import ClientConfig, doubts, refuse_own_id
from shadowmesh.core.node import MAX_PEERS, Core
from shadowmesh.core.shared import Tables
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, DeviceError
from shadowmesh.io import notify
from shadowmesh.io.bridge import LinuxBridge
from shadowmesh.io.dataplane import EngineTables
from shadowmesh.io.documents import remove_drafts
from shadowmesh.io.invitations import open_invitations
from shadowmesh.io.lent import Lent, take_back
from shadowmesh.io.logs import OWN, log_to
from shadowmesh.io.membership import open_delegate, open_membership, with_network
from shadowmesh.io.resolvconf import given_back
from shadowmesh.io.tap import Tap
from shadowmesh.io.tokens import load_tokens
from shadowmesh.io.tracing import trace_to
from shadowmesh.io.udp import local_address, open_udp
from shadowmesh.io.watchdog import Pulse, watched
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.invitations import Invitations
from shadowmesh.node import acquainted, tickets
from shadowmesh.node.bridge import BridgeService, choose_mtu, find_bridge
from shadowmesh.node.daemon import Daemon
from shadowmesh.node.names import Names
from shadowmesh.node.recent import RecentLog, remember
from shadowmesh.node.subnets import not_forwarded
from shadowmesh.node.wall import Wall
from shadowmesh.overlay.firewall import firewall_of
from shadowmesh.overlay.mac import mac_of
from shadowmesh.stages import Stages
from shadowmesh.web.server import SocketInUse

log = logging.getLogger("shadowmesh")

LOCK_FILE = "lock"
LOG_FILE = "client.log"


def run_client(config: ClientConfig, detached: Callable[[int, Path], None] | None) -> int:
    """Run here, or with `detached` in a child process, returning once that is ready or has failed."""
    identity = identities.load(config.node.state_dir)
    refuse_own_id(config, identity.node_id)
    firewall_of(config)
    socket_group(config)
    if detached is not None:
        return _run_detached(config, identity, detached)
    log_to(sys.stderr.fileno(), config.log)
    with only_one(config.node.state_dir):
        return _run(config, identity, lambda: None)


def _run_detached(config: ClientConfig, identity: Identity, detached: Callable[[int, Path], None]) -> int:
    """Fork; the child reports through a pipe: "ready", or the text of its failure."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.setsid()
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            os._exit(_run_child(config, identity, pipe))
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        code, _, text = report.read().partition(b" ")
    if code != b"ready":
        problem = text.decode() or "the client stopped at once [program.bug]"
        raise CommandFailed(problem, ExitCode(int(code or b"1")), error_id="")  # with its id already
    for doubt in doubts(config, identity.name):
        print(f"warning: {doubt.told}", file=sys.stderr)
    detached(child, config.node.state_dir / LOG_FILE)
    return ExitCode.OK


def _run_child(config: ClientConfig, identity: Identity, pipe: IO[bytes]) -> int:
    def ready() -> None:
        pipe.write(b"ready")
        pipe.close()

    try:
        # In this order: whoever is refused, because a client runs, must not write into that one's log.
        with only_one(config.node.state_dir):
            _go_to_background(config)
            return _run_logged(config, identity, ready)
    except Exception as error:
        code, text = explain(error)
        if not pipe.closed:
            pipe.write(f"{int(code)} {text}".encode())
        return code


def _go_to_background(config: ClientConfig) -> None:
    log_file = config.node.state_dir / LOG_FILE
    log_fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, log_fd), (2, log_fd)):
        os.dup2(source, target)
    os.close(log_fd)
    os.close(null)
    log_to(2, config.log)


def _run_logged(config: ClientConfig, identity: Identity, ready: Callable[[], None]) -> int:
    """`_run`, whose end is told to the log as well, since nobody may be left who reads it elsewhere."""
    try:
        return _run(config, identity, ready)
    except Exception as error:
        log.error("%s", explain(error)[1])
        raise


def _run(config: ClientConfig, identity: Identity, ready: Callable[[], None]) -> int:
    with remember(config.log) as recent:
        return _run_node(config, identity, ready, recent)


def _run_node(config: ClientConfig, identity: Identity, ready: Callable[[], None], recent: RecentLog) -> int:
    remove_drafts(config.node.state_dir)
    membership = open_membership(config, identity)
    delegate = open_delegate(config, membership, identity) if membership is not None else None
    config = with_network(config, membership)
    invitations = open_invitations(membership, identity, config.node.state_dir) if membership else None
    for doubt in doubts(config, identity.name):
        log.warning("%s", doubt.told)
    _choose_aead(config)
    linux = find_bridge(config)
    mtu = choose_mtu(config, linux)
    mac = mac_of(identity.node_id)
    with contextlib.ExitStack() as stack:
        stack.enter_context(given_back(config.node.state_dir))  # before any name is looked up
        tracing = stack.enter_context(trace_to(config.tracing, "shadowmesh-client", config.log.addresses))
        udp = stack.enter_context(open_udp(config.listen.address, config.listen.port))
        interface = config.interface
        tap, lent = _open_tap(config, mac, mtu, linux, stack)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        broadcast = (interface.broadcast.rate, interface.broadcast.burst)
        engine = Engine(udp.fileno(), tap.fileno(), event_fd, mac, broadcast=broadcast)
        tables = EngineTables(engine, udp.family)
        core = new_core(config, identity, tables, membership, MAX_PEERS, invitations, tracing.stages)
        _warn_of_forwarding(membership, interface.bridge or interface.name)
        if delegate is not None:
            core.renewals.set_delegate(delegate, time.monotonic())
        # Before the first frame can come.
        firewall = Wall(engine, core)
        firewall.install(config)
        port = local_address(udp).port
        bridge = BridgeService(config, linux, lent, tap, engine, mac, port) if linux and lent else None
        engine.start()
        stack.callback(engine.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            names = Names(config, core)
            daemon = Daemon(
                config, core, engine, firewall, udp, mtu, identity, bridge, tracing, tap, recent, names
            )
            up = (
                f"{config.node.name} ({node_id_text(identity.node_id)}) is up on {interface.name}, "
                f"{', '.join(interface.addresses) or 'no address'}, UDP {local_address(udp)}, "
                f"ShadowMesh {__version__}"
            )
            watch = watched(Pulse(engine.turns, (tap.fileno(), udp.fileno())))
            runner.run(_serve(config, daemon, names, up, ready, watch))
    if daemon.failure is not None:
        raise daemon.failure
    return ExitCode.OK


def _warn_of_forwarding(membership: Membership | None, interface: str) -> None:
    unready = not_forwarded(membership, interface)
    if unready:
        log.warning("%s; turn it on with sysctl [network.no-forwarding]", unready)


def _open_tap(
    config: ClientConfig, mac: bytes, mtu: int, bridge: LinuxBridge | None, stack: contextlib.ExitStack
) -> tuple[Tap, Lent | None]:
    interface = config.interface
    take_back(config.node.state_dir)
    lent = Lent(config.node.state_dir, bridge) if bridge is not None else None
    if lent is not None:
        stack.callback(lent.forget)
    tap = stack.enter_context(Tap.open(interface.name, mac, mtu, interface.addresses, bridge))
    if tap.unset:
        kept = ", ".join(tap.unset)
        log.warning("%s keeps %s, as /proc/sys is read-only [device.settings]", tap.name, kept)
    if lent is not None:
        lent.note_addresses(tap.lent)
    return tap, lent


def _choose_aead(config: ClientConfig) -> None:
    if config.aead_library is None:
        return
    try:
        aead.use_library(str(config.aead_library))
    except ValueError as error:
        text = f"{config.file}: aead_library: {error}; leave it out to use OpenSSL"
        raise ConfigError(text, "config.library") from error


def new_core(
    config: ClientConfig,
    identity: Identity,
    tables: Tables,
    membership: Membership | None,
    most_peers: int = MAX_PEERS,
    invitations: Invitations | None = None,
    stages: Stages | None = None,
) -> Core:
    """The protocol side of a node, with the tickets and members that it kept; see `Core`."""
    kept = tickets.load(
        config.node.state_dir, identity.node_id, frozenset(relay.id for relay in config.relays)
    )
    shown = {relay.id: load_tokens(relay.token_file)[0] for relay in config.relays if relay.token_file}
    known = (
        acquainted.load(acquainted.path_of(config.node.state_dir, membership.network.id))
        if membership is not None
        else []
    )
    now = time.monotonic()
    return Core(
        config,
        identity,
        tables,
        secrets.token_bytes,
        now,
        kept,
        membership,
        most_peers,
        known,
        invitations,
        tokens=shown,
        stages=stages,
    )


async def _serve(
    config: ClientConfig,
    daemon: Daemon,
    names: Names,
    up: str,
    ready: Callable[[], None],
    watch: contextlib.AbstractContextManager[None],
) -> None:
    """Serve until told to stop.

    :param up: the line that says that all is there.
    :param watch: entered while it serves.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.handle_hangup)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(_serve_api(config, daemon))
        except SocketInUse as error:
            raise CommandFailed(str(error), ExitCode.ALREADY_RUNNING, "client.running") from error
        except OSError as error:
            text = f"can't serve the local API on {config.node.socket}: {error}"
            raise DeviceError(text, "device.socket") from error
        if config.metrics is not None:
            from shadowmesh.node.metrics import serve  # its library takes 2 MB

            await stack.enter_async_context(serve(config.metrics, daemon.status))
        daemon.start()
        stack.enter_context(watch)
        stack.push_async_callback(names.stop)
        await names.start()
        notify.ready(f"{config.node.name} is up on {config.interface.name}")
        log.info("%s", up, extra=OWN)
        ready()
        await daemon.wait_stopped()
        notify.stopping()
        await daemon.finish()
    log.info("stopped")


@contextlib.asynccontextmanager
async def _serve_api(config: ClientConfig, daemon: Daemon) -> AsyncIterator[None]:
    path, group = config.node.socket, socket_group(config)
    async with serve_api(path, daemon, group):
        problem = closed_folder(path, group) if group is not None else ""
        if problem:
            log.warning("%s [config.group]", problem)
        yield


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS or not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # of an earlier start: it locks as well


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the node's lock; the kernel lets go of it when the process ends, however it does."""
    fd = _open_lock(state_dir / LOCK_FILE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CommandFailed(
            f"a client with the identity in {state_dir} runs already; stop it with the verb down",
            ExitCode.ALREADY_RUNNING,
            "client.running",
        ) from None
    try:
        yield
    finally:
        os.close(fd)

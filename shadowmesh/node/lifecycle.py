"""Start and stop of the client: what is taken is given back, in reverse order, whatever happens.

lock -> identity -> UDP socket -> TAP -> engine -> API socket -> ready
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from shadowmesh._ext.engine import Engine
from shadowmesh.api.server import SocketInUse, serve_api
from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import DeviceError
from shadowmesh.io.dataplane import EngineTables
from shadowmesh.io.tap import Tap
from shadowmesh.io.udp import open_udp
from shadowmesh.node import notify
from shadowmesh.node.daemon import Daemon
from shadowmesh.overlay.mac import mac_of
from shadowmesh.units import DEFAULT_MTU

log = logging.getLogger("shadowmesh")

LOCK_FILE = "lock"
LOG_FILE = "client.log"


def run_client(config: ClientConfig, detach: bool) -> int:
    """Run here, or with `detach` in a child process, returning once that is ready or has failed."""
    identity = identities.load(config.node.state_dir)
    if not detach:
        _log_to(sys.stderr.fileno())
        return _run(config, identity, lambda: None)
    return _run_detached(config, identity)


def _run_detached(config: ClientConfig, identity: Identity) -> int:
    """Fork; the child reports through a pipe: "ready", or the text of its failure."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            code, _, text = pipe.read().partition(b" ")
        if code == b"ready":
            return ExitCode.OK
        raise CommandFailed(text.decode() or "the client stopped at once", ExitCode(int(code or b"1")))
    os.close(reader)
    os.setsid()
    os._exit(_run_child(config, identity, writer))


def _run_child(config: ClientConfig, identity: Identity, writer: int) -> int:
    def ready() -> None:
        os.write(writer, b"ready")
        os.close(writer)

    try:
        log_fd = os.open(config.node.state_dir / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, log_fd), (2, log_fd)):
            os.dup2(source, target)
        _log_to(2)
        return _run(config, identity, ready)
    except Exception as error:
        code = error.code if isinstance(error, CommandFailed) else ExitCode.FAILED
        log.error("%s", error)
        with contextlib.suppress(OSError):
            os.write(writer, f"{int(code)} {error}".encode())
        return code


def _log_to(fd: int) -> None:
    handler = logging.StreamHandler(os.fdopen(os.dup(fd), "w", buffering=1))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("shadowmesh").setLevel(logging.INFO)
    # aioquic warns of every handshake that it refuses; who connects to whom is in our own log.
    logging.getLogger("quic").setLevel(logging.ERROR)


def _run(config: ClientConfig, identity: Identity, ready: Callable[[], None]) -> int:
    mtu = DEFAULT_MTU if config.interface.mtu == "auto" else config.interface.mtu
    mac = mac_of(identity.node_id)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(config.node.state_dir))
        udp = stack.enter_context(open_udp(config.listen.address, config.listen.port))
        tap = stack.enter_context(Tap.open(config.interface.name, mac, mtu, config.interface.addresses))
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        engine = Engine(udp.fileno(), tap.fileno(), event_fd, mac)
        core = Core(config, identity, EngineTables(engine, udp.family), secrets.token_bytes, time.monotonic())
        engine.start()
        stack.callback(engine.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            daemon = Daemon(config, core, engine, udp, mtu)
            runner.run(_serve(config, daemon, ready))
    if daemon.fatal is not None:
        raise CommandFailed(daemon.fatal, ExitCode.CLONED)
    return ExitCode.OK


async def _serve(config: ClientConfig, daemon: Daemon, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(serve_api(config.node.socket, daemon))
        except SocketInUse as error:
            raise CommandFailed(str(error), ExitCode.ALREADY_RUNNING) from error
        except OSError as error:
            raise DeviceError(f"can't serve the local API on {config.node.socket}: {error}") from error
        daemon.start()
        notify.ready(f"{config.node.name} is up on {config.interface.name}")
        log.info("%s is up on %s", config.node.name, config.interface.name)
        ready()
        await daemon.wait_stopped()
        notify.stopping()
        await daemon.finish()
    log.info("stopped")


@contextlib.contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the node's lock; the kernel lets go of it when the process ends, however it does."""
    fd = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CommandFailed(
            f"a client with the identity in {state_dir} runs already; stop it with the verb down",
            ExitCode.ALREADY_RUNNING,
        ) from None
    try:
        yield
    finally:
        os.close(fd)

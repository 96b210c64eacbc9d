"""The connection of a `Cluster` to NATS: key-value bucket, subjects, and trying again for ever.

Only what happens over one connection is kept; each new one begins from nothing, so nothing can be missed.
`nats` is imported with this module, which a relay without `cluster:` never imports.

    bucket   shadowmesh_NAME           entries of `Cluster.poll_writes`, kept in memory for `ENTRY_LIFE`
    subject  shadowmesh.NAME.beat      what all relays hear
    subject  shadowmesh.NAME.to.RUN    what one relay hears
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BadRequestError
from nats.js.kv import KV_DEL, KV_PURGE, KeyValue

from shadowmesh.errors import ConfigError
from shadowmesh.io.shield import PAUSE, survives
from shadowmesh.values import printable

from .cluster import ENTRY_LIFE, Cluster, Publish
from .cluster_config import ClusterSection, shown

log = logging.getLogger("shadowmesh.relay")

CONNECT_TIMEOUT = 3
ANSWER_TIMEOUT = 5.0
"""Seconds for an answer of JetStream; one that does not come ends the connection."""
PING_INTERVAL = 2
"""Seconds; after three unanswered ones a server that hangs is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between two tries: doubled each time, and up to a half of it left out by chance."""
GOODBYE = 1.0
"""Seconds that it may take to say that this relay ends."""
MAX_REASON = 200


class NatsLink:
    """Runs as a task from the start of the relay to its end.

    :param drive: called after each input: clients of ours may have to be told something.
    """

    def __init__(self, config: ClusterSection, cluster: Cluster, drive: Callable[[], None]) -> None:
        self._config = config
        self._cluster = cluster
        self._drive = drive
        self._tls = _tls(config)
        self._prefix = f"shadowmesh.{config.name}"
        self._publish, self._write = asyncio.Event(), asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._failures: set[type[Exception]] = set()
        """Kinds of mistakes of ours, or of the library, that the log has."""
        self._told = False
        """Whether the log has it that there is no connection."""
        cluster.wake = self._wake

    async def run(self) -> None:
        """Connect, serve, and again; ends when it is cancelled."""
        pause, tries = FIRST_PAUSE, 0
        self._settle()
        try:
            while True:
                url = self._config.nats[tries % len(self._config.nats)]
                before, began = self._cluster.connections, time.monotonic()
                try:
                    reason = await self._attempt(url)
                except Exception as error:  # nobody else would try again
                    reason = self._failed(error)
                if self._cluster.connections > before and time.monotonic() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                self._lost(shown(url), reason)
                tries += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come at once
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _attempt(self, url: str) -> str:
        """One connection, to its end; returns why it ended."""
        client, over = NatsClient(), asyncio.get_running_loop().create_future()

        async def failed(error: Exception) -> None:
            if not over.done():  # no connection; or a message was lost, perhaps: begin from nothing
                over.set_result(_words(error))

        async def closed() -> None:
            if not over.done():
                over.set_result(str(client.last_error or "the connection was closed"))

        try:
            connect = client.connect(
                url,
                name="shadowmesh-relay",
                allow_reconnect=False,
                connect_timeout=CONNECT_TIMEOUT,
                ping_interval=PING_INTERVAL,
                no_echo=True,
                tls=self._tls,
                error_cb=failed,
                closed_cb=closed,
                disconnected_cb=closed,
            )
            # By itself it tries for ever, and tells only `failed`.
            await _first(asyncio.create_task(connect), over)
            if not over.done():
                await self._serve(client, over)
            return str(over.result())
        except (OSError, TimeoutError, nats.errors.Error, ValueError) as error:
            return _words(error)
        except asyncio.CancelledError:
            if not _ending():  # the library gave up an answer
                return "the connection was closed"
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._part(client), GOODBYE)
            raise
        finally:
            over.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), GOODBYE)

    async def _serve(self, client: NatsClient, over: asyncio.Future[str]) -> None:
        stream = client.jetstream(timeout=ANSWER_TIMEOUT)
        bucket = f"shadowmesh_{self._config.name}"
        wanted = KeyValueConfig(
            bucket, ttl=ENTRY_LIFE, storage=StorageType.MEMORY, replicas=self._config.replicas
        )
        try:
            directory = await stream.create_key_value(wanted)
        except BadRequestError:  # it is there, made by a relay with other settings
            directory = await stream.key_value(bucket)
        for topic in ("beat", f"to.{self._cluster.instance.hex()}"):
            await client.subscribe(f"{self._prefix}.{topic}", cb=self._hear)
        watcher = await directory.watchall()
        survives(self._cluster.handle_connected, time.monotonic())
        log.info("connected to the directory of cluster %s", self._config.name)
        self._told = False
        self._wake()
        self._settle()
        work = (self._watch(watcher), self._publish_all(client), self._write_all(directory))
        await _first(*map(asyncio.create_task, work), over)
        if not over.done():
            over.set_result("the directory is not watched any more")

    async def _hear(self, message: Msg) -> None:
        survives(self._cluster.handle_message_untrusted, message.data, time.monotonic())
        self._settle()

    async def _watch(self, watcher: KeyValue.KeyWatcher) -> None:
        async for entry in watcher:
            if entry is not None:
                value = None if entry.operation in (KV_DEL, KV_PURGE) else entry.value or b""
                survives(self._cluster.handle_entry_untrusted, entry.key, value, time.monotonic())
                self._settle()

    async def _publish_all(self, client: NatsClient) -> None:
        while True:
            await self._publish.wait()
            self._publish.clear()
            await self._send(client, self._cluster.poll())

    async def _write_all(self, directory: KeyValue) -> None:
        while True:
            await self._write.wait()
            self._write.clear()
            while writes := self._cluster.poll_writes(time.monotonic()):
                await asyncio.gather(
                    *(
                        directory.delete(one.key) if one.value is None else directory.put(one.key, one.value)
                        for one in writes
                    )
                )

    async def _send(self, client: NatsClient, messages: list[Publish]) -> None:
        for one in messages:
            await client.publish(f"{self._prefix}.{one.topic}", one.data)

    async def _part(self, client: NatsClient) -> None:
        """The others need not wait until they miss us; in vain if the connection is gone."""
        if client.is_connected:
            self._cluster.close()
            await self._send(client, self._cluster.poll())
            await client.flush()

    def _failed(self, error: Exception) -> str:
        """What should not happen is a lost connection, and once in the log with all that is known."""
        if type(error) not in self._failures:
            self._failures.add(type(error))
            log.error("internal error; please report it [program.bug]", exc_info=error)
        return _words(error)

    def _lost(self, where: str, reason: str) -> None:
        for url in self._config.nats:  # a library's text may quote what it was given
            parts = urlsplit(url)
            for secret in (parts.password, parts.username):
                reason = reason.replace(secret, "…") if secret else reason
        reason = f"NATS at {where}: {printable(reason)[:MAX_REASON]}"
        survives(self._cluster.handle_disconnected, reason, time.monotonic())
        if not self._told:
            line = "the cluster is out of reach, so only clients of this relay meet: %s [relay.cluster]"
            log.warning(line, reason)
            self._told = True
        self._settle()

    def _wake(self) -> None:
        self._publish.set()
        self._write.set()

    def _serve_timer(self) -> None:
        healthy = survives(self._cluster.handle_timer, time.monotonic())
        self._settle(0.0 if healthy else PAUSE)

    def _settle(self, at_least: float = 0.0) -> None:
        """After every input: clients are told, the log is written, and the timer set."""
        survives(self._drive)
        for line in self._cluster.poll_events():
            log.info("%s", line)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at_least, self._cluster.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)


async def _first(*work: asyncio.Future[Any]) -> None:
    """Until the first of them has ended; the other tasks are ended, and an error is raised."""
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        tasks = [one for one in work if isinstance(one, asyncio.Task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ending() -> bool:
    """Whether it is this task that is cancelled, and not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _tls(config: ClusterSection) -> ssl.SSLContext | None:
    """Servers show a certificate of `ca`, or of whom the system trusts. Raises ConfigError."""
    if not any(url.startswith("tls:") for url in config.nats):
        return None
    try:
        context = ssl.create_default_context(cafile=str(config.ca) if config.ca else None)
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        text = f"cluster: ca, certificate or key can't be used: {error}"
        raise ConfigError(text, "config.tls") from None
    return context

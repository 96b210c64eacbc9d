"""The resolver of a running client: its zone from the core, its sockets, and how this machine is told to ask
it.

Nothing here can keep the client from running: what fails is in the log and in `status`. The names of relays
are looked up as this machine looks up any other; none of them may be in our domain (`shadowmesh.config`), so
no answer of ours ever leads to one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from shadowmesh.api.schema import NamesStatus
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.errors import DeviceError, Failure, told
from shadowmesh.io import resolvconf, resolved
from shadowmesh.io.logs import OWN
from shadowmesh.io.names import NamesServer
from shadowmesh.overlay.names import Zone, reverse_zones
from shadowmesh.units import Address

log = logging.getLogger("shadowmesh")

FRESH = 1.0
"""Seconds that the table of members is used without looking whether it has changed."""
LOOK = 5.0
"""Seconds between looks whether systemd-resolved was started, or started again."""
RETRY = 15.0
"""Seconds until systemd-resolved is told again what it did not take."""

Host = Literal["resolved", "resolv.conf", "none"]


class Names:
    """Runs inside one event loop, from `start` to `stop`."""

    def __init__(self, config: ClientConfig, core: Core) -> None:
        self._config = config
        self._core = core
        own = [ipaddress.ip_interface(text) for text in config.interface.addresses]
        # Link-local addresses are different ones on each link, and no answer can say on which.
        self._own = tuple(str(one.ip) for one in own if not one.ip.is_link_local)
        self._prefixes = [one.network for one in own if not one.ip.is_link_local]
        asked = config.names.host == "resolv.conf"
        # In resolv.conf no port can be named.
        where = [*self._own, *([resolvconf.SERVER] if asked else [])]
        self._server = NamesServer(where, self._answer, moves=not asked)
        self._zone: Zone | None = None
        self._fresh_until = 0.0
        self._counts: Counter[str] = Counter()
        self._listens = False
        self._problem: Failure | None = None
        self._host_problem: Failure | None = None
        self._split = False
        """Whether systemd-resolved asks us."""
        self._wrote = False
        """Whether /etc/resolv.conf has our line."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then let this machine ask: in this order, so that nobody is sent where nobody answers."""
        names = self._config.names
        if names.serve == "off":
            return
        try:
            if not self._own:
                raise DeviceError("this machine has no address on the overlay")
            await self._server.start()
        except DeviceError as error:
            self._problem = Failure("names.not-served", str(error))
            log.warning("names below .%s are not resolved: %s", names.domain, self._problem.told)
            return
        self._listens = True
        where = ", ".join(self._servers())
        line = "names below .%s are resolved at %s; try: %s"
        log.info(line, names.domain, where, self._by_hand(), extra=OWN)
        if names.host == "resolv.conf":
            self._put_first()
        elif names.host == "auto":
            self._task = asyncio.create_task(self._follow_resolved())

    async def stop(self) -> None:
        """Let nobody ask any more, then stop to answer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._split:
            await resolved.revert(self._config.interface.name)
        if self._wrote:
            resolvconf.give_back(self._config.node.state_dir)
        self._listens = self._split = self._wrote = False
        await self._server.stop()

    def status(self) -> NamesStatus | None:
        """How it is now; None if it is off."""
        names = self._config.names
        if names.serve == "off":
            return None
        host, advice = self._host()
        return NamesStatus(
            domain=names.domain,
            listen=self._servers() if self._listens else [],
            problem=told(self._problem),
            host=host,
            advice=advice if self._listens else None,
            queries=self._counts.total(),
            answered=self._counts["answered"],
            refused=self._counts["refused"],
            malformed=self._counts["malformed"],
        )

    def _host(self) -> tuple[Host, str | None]:
        """Who asks us here, and what a person can do if nobody does."""
        if self._wrote:
            if resolvconf.is_ours():
                return "resolv.conf", None
            changed = f"{resolvconf.RESOLV_CONF} was changed by somebody else since, and is left alone"
            return "none", Failure("names.changed", changed).told
        if self._split:
            unasked = resolved.unasked()
            return "resolved", Failure("names.unasked", unasked).told if unasked else None
        by_hand = f"ask by hand: {self._by_hand()}" if self._own else ""
        problem = self._host_problem
        advice = "; ".join(filter(None, (problem, by_hand)))
        return "none", Failure(problem.error_id, advice).told if problem else advice

    def _servers(self) -> list[str]:
        """Where we listen, with the port if it is not that of all resolvers."""
        return [str(Address(one, self._server.port)) if self._server.moved else one for one in self._own]

    def _by_hand(self) -> str:
        """What a person can type to ask us."""
        port = f" -p {self._server.port}" if self._server.moved else ""
        return f"dig @{self._own[0]}{port} {self._own_name()}.{self._config.names.domain}"

    # The zone.

    def _answer(self, data: bytes, by_tcp: bool) -> bytes | None:
        reply = self._current().handle_untrusted(data, by_tcp)
        self._counts[reply.outcome] += 1
        return reply.data

    def _current(self) -> Zone:
        now = time.monotonic()
        if self._zone is None or now >= self._fresh_until:
            self._fresh_until = now + FRESH
            hosts = self._hosts()
            if self._zone is None or self._zone.hosts != hosts:
                self._zone = Zone(self._config.names.domain, self._own_name(), hosts, self._prefixes)
        return self._zone

    def _hosts(self) -> Mapping[str, Sequence[str]]:
        return self._core.hosts() | {self._own_name(): self._own}

    def _own_name(self) -> str:
        """As the others call us."""
        membership = self._core.members.membership
        return membership.certificate.body.name if membership is not None else self._config.node.name

    # This machine.

    def _put_first(self) -> None:
        try:
            resolvconf.put_first(self._config.node.state_dir)
        except DeviceError as error:
            self._host_problem = Failure("names.resolv-conf", str(error))
            log.warning("names.host: resolv.conf: %s", self._host_problem.told)
            return
        self._wrote = True
        log.info("%s has our resolver first, until the client ends", resolvconf.RESOLV_CONF)

    async def _follow_resolved(self) -> None:
        if self._config.interface.bridge is not None:
            whose = "the addresses are the bridge's, whose names somebody else looks after"
            self._host_problem = Failure("names.bridge", whose)
            return
        seen: resolved.Stamp | None = None
        while True:
            found = resolved.stamp()
            if found is None:
                self._split, seen = False, None
                self._host_problem = Failure("names.no-resolved", "systemd-resolved does not run here")
                await asyncio.sleep(LOOK)
                continue
            if found != seen:
                await self._tell_resolved()
                seen = resolved.stamp()
            if not self._split:
                seen = None
            await asyncio.sleep(LOOK if self._split else RETRY)

    async def _tell_resolved(self) -> None:
        domain, before = self._config.names.domain, (self._split, self._host_problem)
        try:
            domains = [domain, *reverse_zones(self._prefixes)]
            await resolved.split(self._config.interface.name, self._servers(), domains)
            self._split, self._host_problem = True, None
        except DeviceError as error:
            words = f"systemd-resolved does not take our domain: {error}"
            self._split, self._host_problem = False, Failure("names.resolved", words)
        if before != (self._split, self._host_problem):
            if self._host_problem is None:
                log.info("systemd-resolved asks us for names below .%s, and for no others", domain)
            else:
                log.warning("%s", self._host_problem.told)

"""Routes to the networks behind other members, kept while the client runs.

Four times a second it looks at the gateways, has `overlay.routes` decide, and puts the difference into the
kernel.  Decides nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from shadowmesh.api.schema import RouteStatus
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.core.peers import PeerClient
from shadowmesh.errors import Failure
from shadowmesh.io import routes as kernel
from shadowmesh.membership.guard import Membership
from shadowmesh.overlay.routes import Entry, Gateway, Guarded, Key, Routes

log = logging.getLogger("shadowmesh")

RETRY = 5.0
"""Seconds until a route that the system refused is tried again."""
LOOK = 0.25
"""Seconds between looks: a gateway that is gone is left one look after its path was given up."""


class Subnets:
    """Runs inside one event loop, from `start` to `stop`.

    :param on_change: called when gateways should be connected, or candidates have changed.
    :param keep: called with what is in the kernel, whenever that has changed.
    """

    def __init__(
        self,
        config: ClientConfig,
        core: Core,
        on_change: Callable[[], None],
        keep: Callable[[Mapping[Key, str]], None] = lambda _: None,
    ) -> None:
        self._interface = config.interface.bridge or config.interface.name
        self._own = [ipaddress.ip_interface(text).network for text in config.interface.addresses]
        if core.members.membership is not None:
            self._own += core.members.membership.network.subnets
        self._allowed = {peer.id: peer.routes for peer in config.peers}
        self._core = core
        self._on_change = on_change
        self._keep = keep
        self._routes = Routes(config.routes)
        self._installed: dict[Key, str] = {}
        self._suspect = False
        """Whether somebody may have removed what is installed."""
        self._failed: dict[Key, str] = {}
        self._retry_at = 0.0
        self._told: dict[tuple[str, str], str] = {}
        self._task: asyncio.Task[None] | None = None
        self._applying: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Look no more, and take the routes out: a bridge stays when the client is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._applying is not None:  # its thread can't be stopped: what it installs is known at its end
            await asyncio.gather(self._applying, return_exceptions=True)
        if self._installed:
            with contextlib.suppress(OSError):  # the device is gone, and its routes with it
                await asyncio.to_thread(kernel.apply, self._interface, self._installed, {})
            self._installed = {}

    def set(self, config: ClientConfig) -> None:
        """Other routes count from now on."""
        self._routes = Routes(config.routes)
        self._told.clear()
        self._wake.set()

    def handle_network(self) -> None:
        """Something has changed in this machine's network: at the next look, see whether ours is there."""
        self._suspect = True

    def status(self) -> list[RouteStatus]:
        """Every route of the configuration, in its order."""
        return [
            RouteStatus(
                to=one.route.to,
                via=one.route.via,
                metric=one.route.metric,
                state=one.state,
                reason=_reason(one),
            )
            for one in self._routes.entries
        ]

    async def _follow(self) -> None:
        while True:
            if self._routes.entries or self._installed:
                pause = LOOK
                try:
                    await self._look()
                except Exception:  # no thread or memory is left, say
                    log.exception("can't look after the routes; trying again [machine.netlink]")
                    pause = RETRY
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
            else:
                await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        if self._suspect and self._installed:
            self._suspect = False
            await self._to_its_end(self._restore())
        vias = {entry.route.via for entry in self._routes.entries}
        gateways = {via: self._gateway(via) for via in vias}
        table = self._routes
        wanted = table.update(gateways, self._guarded(), self._own, time.monotonic())
        if time.monotonic() < self._retry_at:
            for key, reason in self._failed.items():
                table.refuse(key, reason)
                wanted.pop(key, None)
                if key in self._installed:
                    wanted[key] = self._installed[key]
        if wanted != self._installed:
            await self._install(table, wanted)
        for entry in table.entries:
            self._tell(entry)

    async def _install(self, table: Routes, wanted: dict[Key, str]) -> None:
        # First the candidates: no address behind a gateway may be tried once packets to it go there.
        self._core.handle_routed([ipaddress.ip_network(key.to) for key in wanted], time.monotonic())
        self._on_change()
        await self._to_its_end(self._apply(table, wanted))

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """A change of the kernel's table, which `stop` waits for."""
        self._applying = asyncio.create_task(change)
        await asyncio.shield(self._applying)

    async def _restore(self) -> None:
        try:
            await asyncio.to_thread(kernel.restore, self._interface, self._installed)
        except Exception:
            self._suspect = True
            raise

    async def _apply(self, table: Routes, wanted: dict[Key, str]) -> None:
        try:
            failed = await asyncio.to_thread(kernel.apply, self._interface, self._installed, wanted)
        except OSError as error:
            failed = dict.fromkeys(wanted | self._installed, f"netlink: {error.strerror}")
        self._failed, self._retry_at = failed, time.monotonic() + RETRY if failed else 0.0
        for key, reason in failed.items():
            table.refuse(key, reason)
        # What could not be changed is as it was.
        left = {key: via for key, via in self._installed.items() if key in failed}
        self._installed = left | {key: via for key, via in wanted.items() if key not in failed}
        self._keep(self._installed)

    def _gateway(self, via: str) -> Gateway | None:
        member = self._core.roster.find(via)
        peer = self._core.peers.get(member.node_id) if member is not None else None
        if member is None or peer is None:
            return None
        if peer.keep(time.monotonic()):
            self._on_change()
        revoked = self._core.members.is_revoked(member.node_id)
        return Gateway(
            name=member.name,
            addresses=member.addresses,
            allowed=self._allowed_of(peer),
            alive=peer.answers,
            revoked=f"{member.name} is {self._core.members.revoked}" if revoked else "",
        )

    def _allowed_of(self, peer: PeerClient) -> list[str] | None:
        if self._core.members.membership is None:
            return list(self._allowed.get(peer.member.node_id, ()))
        standing = peer.session.standing if peer.session is not None else None
        shown = standing or self._core.acquaintances.standing(peer.member.node_id)
        return list(shown.certificate.body.routes) if shown is not None else None

    def _guarded(self) -> list[Guarded]:
        core = self._core
        found = [
            Guarded(address.host, f"the address of relay {relay.name}")
            for relay in core.relays
            for address in relay.leg.underlay
        ]
        found += [Guarded(one.host, "an address of this machine") for one in core.local]
        for peer in core.peers.values():
            path = peer.routing.paths.direct if peer.session is not None else None
            if path is not None:
                found.append(Guarded(path.way.address.host, f"where {peer.member.name} is reached directly"))
        return found

    def _tell(self, entry: Entry) -> None:
        to, via, state, reason = entry.route.to, entry.route.via, entry.state, entry.reason
        line = f"{state}{f': {reason}' if reason else ''}"
        if self._told.get((to, via)) == line:
            return
        self._told[to, via] = line
        if state == "refused":
            log.warning("route to %s via %s: %s [route.refused]", to, via, line)
        else:
            log.info("route to %s via %s: %s", to, via, line)


def _reason(entry: Entry) -> str | None:
    """What is to be said of it; only a refusal is an error."""
    refused = entry.state == "refused"
    return Failure("route.refused", entry.reason).told if refused else entry.reason or None


def not_forwarded(membership: Membership | None, interface: str) -> str:
    """What keeps this machine from being the gateway that its certificate makes it; empty if nothing does."""
    routes = membership.certificate.body.routes if membership is not None else []
    versions = sorted({ipaddress.ip_network(text).version for text in routes})
    off = [version for version in versions if not kernel.forwards(interface, version)]
    names = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    if not off:
        return ""
    switches = " and ".join(names[version] for version in off)
    return f"the certificate makes this machine a gateway to {', '.join(routes)}, but {switches} is off"

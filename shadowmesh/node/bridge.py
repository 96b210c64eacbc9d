"""The bridge of a running client: its port's timers, probes to the TAP, the port's state to the engine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

from shadowmesh._ext.bridge import PortState as Port
from shadowmesh._ext.engine import Engine
from shadowmesh.api.schema import BridgeStatus
from shadowmesh.config import ClientConfig
from shadowmesh.errors import DeviceError, Failure
from shadowmesh.io.bridge import LinuxBridge
from shadowmesh.io.lent import Lent
from shadowmesh.io.tap import Tap
from shadowmesh.overlay.bridge import BridgePort, PortState
from shadowmesh.units import DEFAULT_MTU

log = logging.getLogger("shadowmesh")

_PORTS = {
    PortState.LISTENING: Port.PORT_LISTENING,
    PortState.BLOCKED: Port.PORT_BLOCKED,
    PortState.FORWARDING: Port.PORT_FORWARDING,
}


def find_bridge(config: ClientConfig) -> LinuxBridge | None:
    """The bridge that the configuration names. Raises DeviceError if there is none of that name.

    That is no mistake of the file: when the machine boots, the bridge may come a moment later.
    """
    if config.interface.bridge is None:
        return None
    try:
        found = LinuxBridge.find(config.interface.bridge)
    except DeviceError as error:
        raise DeviceError(f"{config.file}: interface.bridge: {error}", error.error_id) from None
    if not found.up:
        log.warning("bridge %s is down: ip link set %s up [device.bridge]", found.name, found.name)
    return found


def choose_mtu(config: ClientConfig, bridge: LinuxBridge | None) -> int:
    """Of the TAP. In a bridge that of the bridge, which would take ours if it were less."""
    wanted = config.interface.mtu
    if wanted == "auto":
        return DEFAULT_MTU if bridge is None else bridge.mtu
    if bridge is not None and wanted < bridge.mtu:
        log.warning(
            "interface.mtu %d makes the MTU of bridge %s, now %d, as small: its hosts lose longer frames "
            "[config.doubtful]",
            wanted,
            bridge.name,
            bridge.mtu,
        )
    return wanted


class BridgeService:
    """From `start` to `stop`, inside one event loop.

    :param lent: where is written down what we put on the bridge.
    :param mac: ours.
    :param udp_port: of our socket, whose datagrams never go through the TAP.
    """

    def __init__(
        self,
        config: ClientConfig,
        bridge: LinuxBridge,
        lent: Lent,
        tap: Tap,
        engine: Engine,
        mac: bytes,
        udp_port: int,
    ) -> None:
        self.lent = lent
        self._name = bridge.name
        self._tap = tap
        self._engine = engine
        self._vlans = config.interface.vlans
        self._port = BridgePort(mac, self._vlans, secrets.token_bytes, time.monotonic())
        self._shown = PortState.LISTENING
        self._reflected = 0
        self._timer: asyncio.TimerHandle | None = None
        engine.open_bridge(bridge.mac, udp_port, self._vlans)
        engine.set_port(Port.PORT_LISTENING)

    def start(self) -> None:
        """Begin to probe."""
        self._serve_timer()

    def stop(self) -> None:
        """Carry nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._engine.set_port(Port.PORT_BLOCKED)

    def handle_probe(self, member: bytes, name: str, frame: bytes) -> None:
        """The session with a member (its MAC, its name) brought a probe of ours back."""
        self._port.handle_probe(member, name, frame, time.monotonic())
        self._drive()

    def status(self) -> BridgeStatus:
        """For people and scripts."""
        port, now, counters = self._port, time.monotonic(), self._engine.bridge_counters()
        return BridgeStatus(
            name=self._name,
            state=port.state.value,
            since=now - port.since,
            retry_in=None if port.ends is None else max(0.0, port.ends - now),
            reason=Failure("bridge.loop", port.reason).told if port.reason else None,
            blocks=port.blocks,
            vlans=list(self._vlans),
            stations=counters["near"],
            far_stations=counters["far"],
            not_learned=counters["not_learned"],
        )

    def _serve_timer(self) -> None:
        now = time.monotonic()
        reflected = self._engine.bridge_counters()["reflected"]
        if reflected != self._reflected:
            self._reflected = reflected
            self._port.handle_reflected(now)
        self._port.handle_timer(now)
        self._drive()

    def _drive(self) -> None:
        port = self._port
        for frame in port.poll_transmit():
            self._tap.write(frame)
        if port.state is not self._shown:
            self._engine.set_port(_PORTS[port.state])
            if port.state is PortState.BLOCKED:
                self._tap.forget_stations()
            self._tell()
            self._shown = port.state
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, port.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)

    def _tell(self) -> None:
        port = self._port
        if port.state is PortState.BLOCKED and port.ends is not None:
            log.warning(
                "bridge %s: loop: %s; its port carries nothing until no probe came back for %d s "
                "[bridge.loop]",
                self._name,
                port.reason,
                port.ends - time.monotonic(),
            )
        elif port.state is PortState.LISTENING:
            log.info(
                "bridge %s: no loop is seen any more; listening before it carries frames again", self._name
            )
        else:
            log.info("bridge %s: its port carries frames", self._name)

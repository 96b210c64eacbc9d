"""The port to a Linux bridge: when it carries frames of stations, and how a loop is found. Sans-I/O.

Loops are found by probes. One goes out through our TAP, into the network behind the bridge. Another member
whose TAP is in the same network reads it there and sends it back to us through our session; then that member
and we are two ways between the same two networks, and one of the ports must be blocked: that of the member
with the higher MAC address. A probe that our own TAP brings back tells of a loop behind the bridge.

    03:53:4d:4c:4f:50 (6) | source (6) | [802.1Q tag (4)] | 88 b5 | our MAC (6) | nonce (16) | zeros

What keeps a loop from becoming a storm until then is the rule of the data plane that a station lives in one
place (ext/fdb.pyx, ext/bridge.pyx). Does not forward, and knows no device.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable

PROBE_GROUP = bytes.fromhex("03534d4c4f50")
"""A locally administered group address: bridges and switches flood it."""
PROBE_TYPE = bytes.fromhex("88b5")
"""Ethertype of IEEE 802-2014 for local experiments."""
NONCE_SIZE = 16
MIN_FRAME = 60
"""Bytes; IEEE 802.3, without the frame check sequence."""

LISTEN = 2.0
"""Seconds without a loop before frames are carried: eight probes, and longer than a path's bad moment."""
LISTEN_INTERVAL = 0.25
PROBE_INTERVAL = 1.0
"""Seconds between probes while frames are carried: how long a new loop may last."""
NONCE_LIFE = 5.0
"""Seconds in which a probe counts when it comes back."""
PATIENCE = 3.0
"""Seconds that the member with the higher MAC gets to block its port, before we do."""
FIRST_HOLD, LARGEST_HOLD = 10.0, 300.0
"""Seconds without a probe coming back after which a blocked port is tried again; doubled at each block."""
CALM = 600.0
"""Seconds without a block after which the next one begins with FIRST_HOLD again."""


class PortState(enum.Enum):
    """What the port does; values as `status` has them."""

    LISTENING = "listening"
    BLOCKED = "blocked"
    FORWARDING = "forwarding"


class BridgePort:
    """Call order: after each `handle_*` and at `deadline`, take `poll_transmit` and look at `state`.

    :param mac: our own, 6 bytes.
    :param vlans: those that are probed besides untagged frames: a loop may be in one VLAN only.
    :param random: returns n random bytes.
    """

    def __init__(
        self, mac: bytes, vlans: tuple[int, ...], random: Callable[[int], bytes], now: float
    ) -> None:
        self.state = PortState.LISTENING
        self.reason = ""
        """Of the last block, for people."""
        self.blocks = 0
        """How often it was blocked."""
        self.since = now
        """When `state` began."""
        self._mac = mac
        # A MAC of its own: the bridge would warn about frames that come in under its port's.
        self._source = bytes([mac[0] ^ 0x04]) + mac[1:]
        self._tags = [b"", *(b"\x81\x00" + vlan.to_bytes(2, "big") for vlan in vlans)]
        self._random = random
        self._outbox: list[bytes] = []
        self._nonces: OrderedDict[bytes, float] = OrderedDict()
        self._returned = [-PATIENCE, -PATIENCE]
        """When probes of the present row of returns began and last came."""
        self._hold = FIRST_HOLD
        self._probe_at = now

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        return min(self._probe_at, self._ends)

    @property
    def ends(self) -> float | None:
        """When it will be tried again, if nothing comes back until then; None unless blocked."""
        return self._ends if self.state is PortState.BLOCKED else None

    @property
    def _ends(self) -> float:
        if self.state is PortState.LISTENING:
            return max(self.since, self._returned[1]) + LISTEN
        if self.state is PortState.BLOCKED:
            return max(self.since, self._returned[1]) + self._hold
        return float("inf")

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if now >= self._ends:
            listened = self.state is PortState.LISTENING
            self._enter(PortState.FORWARDING if listened else PortState.LISTENING, now)
        if now >= self._probe_at:
            self._probe(now)

    def handle_probe(self, member: bytes, name: str, frame: bytes, now: float) -> None:
        """A member's session (its MAC, its name) brought a probe that names us."""
        if self._nonces.get(self._nonce(frame), -NONCE_LIFE) + NONCE_LIFE < now:
            return
        if now - self._returned[1] > PATIENCE / 2:
            self._returned[0] = now
        self._returned[1] = now
        if self.state is PortState.BLOCKED:
            return
        if member < self._mac or now - self._returned[0] >= PATIENCE:
            self._block(f"{name} is in the network behind our bridge, too, and its port carries it", now)

    def handle_reflected(self, now: float) -> None:
        """Our TAP brought probes of ours back."""
        self._returned[1] = now
        if self.state is not PortState.BLOCKED:
            self._block("the network behind our bridge sends back what we send: it has a loop in itself", now)

    def poll_transmit(self) -> list[bytes]:
        """Frames for the TAP."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _nonce(self, frame: bytes) -> bytes:
        start = 14 + (4 if frame[12:14] != PROBE_TYPE else 0) + 6
        return frame[start : start + NONCE_SIZE]

    def _enter(self, state: PortState, now: float) -> None:
        if state is PortState.LISTENING:
            self._probe_at = now
        self.state, self.since = state, now

    def _block(self, reason: str, now: float) -> None:
        recently = self.blocks > 0 and now - self.since < CALM
        self._hold = min(LARGEST_HOLD, self._hold * 2) if recently else FIRST_HOLD
        self.blocks += 1
        self.reason = reason
        self._enter(PortState.BLOCKED, now)

    def _probe(self, now: float) -> None:
        listening = self.state is PortState.LISTENING
        self._probe_at = now + (LISTEN_INTERVAL if listening else PROBE_INTERVAL)
        while self._nonces and next(iter(self._nonces.values())) + NONCE_LIFE < now:
            self._nonces.popitem(last=False)
        for tag in self._tags:
            nonce = self._random(NONCE_SIZE)
            self._nonces[nonce] = now
            frame = PROBE_GROUP + self._source + tag + PROBE_TYPE + self._mac + nonce
            self._outbox.append(frame.ljust(MIN_FRAME + len(tag), b"\0"))

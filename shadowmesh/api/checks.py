"""What "live", "ready" and "startup" mean of a client, for supervisors; docs/cli.md has it. Asks nobody.

Whoever has a status in hand asks here, so that `status --check` and `/ready` beside the metrics never differ.
"""

from __future__ import annotations

from typing import Literal, get_args

from shadowmesh.api.schema import NodeStatus, Status
from shadowmesh.errors import Failure

CheckName = Literal["live", "ready", "startup"]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)


def check(name: CheckName, status: Status) -> tuple[bool, str]:
    """Whether it is so of a client that has just answered with `status`, and why; a no ends in its id."""
    if name == "live":
        return True, "the client answers"
    return _startup(status.node) if name == "startup" else _ready(status)


def _startup(node: NodeStatus) -> tuple[bool, str]:
    if node.connected_after is None:
        return False, Failure("peer.no-relay", "no relay and no peer has been connected since up").told
    return True, f"the first connection was made {node.connected_after:.1f} s after up"


def _ready(status: Status) -> tuple[bool, str]:
    interface = f"interface {status.node.interface}"
    if not status.node.interface_up:
        return False, Failure("device.down", f"{interface} is down or gone").told
    relays = sum(relay.state == "connected" for relay in status.relays)
    peers = sum(peer.state == "connected" for peer in status.peers)
    if relays or peers:
        return True, f"{interface} is up, connected: {_count(relays, 'relay')}, {_count(peers, 'peer')}"
    if status.relays:
        return False, Failure("peer.no-relay", "no relay and no peer is connected").told
    # Nothing but sessions that the first frame makes.
    return True, f"{interface} is up, no relay is configured"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"

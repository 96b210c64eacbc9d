# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Bridging in the data plane; see `shadowmesh._ext.engine.Engine`."""

from enum import IntEnum

class PortState(IntEnum):
    """What `Engine.set_port` takes."""

    PORT_OFF = 0
    PORT_LISTENING = 1
    PORT_BLOCKED = 2
    PORT_FORWARDING = 3

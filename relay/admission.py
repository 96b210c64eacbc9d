"""Who may use this relay: a list of NodeIDs, or everybody. Nobody, unless the configuration says so."""

from __future__ import annotations

from shadowmesh.units import NodeId


class Admission:
    """The decision on an authenticated NodeID.

    :param is_open: admit everybody.
    :param nodes: the NodeIDs that are admitted otherwise.
    """

    def __init__(self, is_open: bool, nodes: frozenset[NodeId]) -> None:
        self._open = is_open
        self._nodes = nodes

    def allows(self, node: NodeId) -> bool:
        """Whether this node may have a session with the relay."""
        return self._open or node in self._nodes

"""What the rendezvous wants of a directory of clients at other relays; and the one of a relay by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Call, Close, Opened

from .clients import Client
from .remotes import Remote


class Abroad(Protocol):
    """The clients of other relays, and the way to them (see `cluster.Cluster`)."""

    @property
    def reachable(self) -> bool:
        """Whether other relays can be told anything now."""

    def find(self, node: NodeId) -> Sequence[Remote]:
        """Where a node is, the newest first."""

    def handle_arrival(self, client: Client, now: float) -> None:
        """A client has come."""

    def handle_departure(self, client: Client, now: float) -> None:
        """It is gone."""

    def handle_named(self, client: Client, node: NodeId, now: float) -> None:
        """A client names another node from now on."""

    def handle_unnamed(self, client: Client, node: NodeId, now: float) -> None:
        """It does not any more."""

    def ask_certificate(self, client: Client, remote: Remote) -> None:
        """A client wants to see what a member of its network has shown to its relay."""

    def send(self, remote: Remote, message: Call | Opened | Close) -> None:
        """Tell the relay of `remote` what `remote` would be told if it were a client of ours."""

    def install(self, remote: Remote) -> int:
        """The number in the forwarder of what comes from `remote`, and goes to its relay."""

    def uninstall(self, remote: Remote) -> None:
        """Its last channel is gone."""


class Alone:
    """`Abroad` of a relay without a cluster: there is nobody, and nobody to tell."""

    reachable = False

    def find(self, node: NodeId) -> Sequence[Remote]:
        return ()

    def handle_arrival(self, client: Client, now: float) -> None:
        """Nobody else has to know."""

    handle_departure = handle_arrival

    def handle_named(self, client: Client, node: NodeId, now: float) -> None:
        """Nobody else has to know."""

    handle_unnamed = handle_named

    def ask_certificate(self, client: Client, remote: Remote) -> None:
        raise NotImplementedError

    def send(self, remote: Remote, message: Call | Opened | Close) -> None:
        raise NotImplementedError

    def install(self, remote: Remote) -> int:
        raise NotImplementedError

    def uninstall(self, remote: Remote) -> None:
        raise NotImplementedError

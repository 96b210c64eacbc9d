"""Two clients and a relay in the namespace lab, each client in public or behind a router, with direct paths.

alice and bob, as an operator would start them: the commands, their YAML files, `status`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import ClientNode
    from shadowmesh.testing.natlab import NatLab, Router

DIRECT, RELAY = "direct", "relay"
PATH_TIMEOUT = 10.0
"""Seconds in which a path must change that has a reason to."""


class NatPair:
    """`alice` and `bob` with `mode` as their `paths: {direct: …}`; `start` starts all three.

    :param routers: what alice and bob are behind; None for a public host.
    """

    def __init__(self, lab: NatLab, routers: tuple[Router | None, Router | None], mode: str = "auto") -> None:
        self.lab = lab
        for name, router in zip(("alice", "bob"), routers, strict=True):
            if router is not None:
                lab.behind(name, router)
        self.mesh = Mesh(lab)
        self.relay = self.mesh.relay()
        self.alice, self.bob = self.mesh.client("alice"), self.mesh.client("bob")
        self.mesh.configure()
        for client in self.clients:
            client.config["paths"] = {"direct": mode}

    @property
    def clients(self) -> tuple[ClientNode, ClientNode]:
        """alice and bob."""
        return self.alice, self.bob

    def start(self) -> NatPair:
        """Start everything; returns when both have a session with the other."""
        self.mesh.start()
        return self

    def paths(self) -> tuple[str, str]:
        """What `status` of alice, then of bob, says of the path to the other; empty without one."""
        alice, bob = self.alice.peer("bob"), self.bob.peer("alice")
        return alice["path"] or "", bob["path"] or ""

    def are(self, kind: str) -> bool:
        """Whether both paths are of this kind, DIRECT or RELAY."""
        return all(path.split()[:1] == [kind] for path in self.paths())

    def wait(self, kind: str, timeout: float = PATH_TIMEOUT) -> None:
        """Wait until both paths are of this kind."""
        wait_until(lambda: self.are(kind), timeout, lambda: f"{kind} paths; they are {self.paths()}")

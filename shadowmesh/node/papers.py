"""What the authority signed for this node, read again from its files while it runs.

`reload` takes a newer certificate, the delegation, and a newer revocation list beside the network, without
dropping a session. What is wrong with one of the files changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.crypto.identity import Identity
from shadowmesh.io.documents import load_network
from shadowmesh.io.membership import guard_with, load_next, open_delegate
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.network import Network
from shadowmesh.membership.renewal import Delegate
from shadowmesh.membership.revocation import RevocationList


@dataclass(frozen=True)
class Papers:
    """What the files have that the running client has not."""

    credentials: Credentials | None
    delegate: Delegate | None
    revocations: RevocationList | None
    network: Network | None

    @classmethod
    def read(cls, config: ClientConfig, core: Core, identity: Identity) -> Papers | None:
        """None without a network. Raises ConfigError."""
        membership = core.members.membership
        if membership is None or config.network is None:
            return None
        network, shipped = load_network(config.network.file)
        guard = guard_with(network, membership, config.network.file)
        return cls(
            load_next(config, guard, membership.certificate, identity.node_id),
            open_delegate(config, guard, identity),
            shipped,
            network if guard.network is network else None,
        )

    def install(self, core: Core) -> list[str]:
        """Use it; returns the keys of the file whose change counts now."""
        now, applied = time.monotonic(), []
        newer = [core.handle_network_document(self.network.document, now)] if self.network else []
        newer += [core.handle_revocations(self.revocations.document, now)] if self.revocations else []
        if any(newer):
            applied.append("network.file")
        if self.credentials is not None:
            core.renewals.adopt(self.credentials, now)
            applied.append("network.certificate")
        before = core.renewals.delegate
        known = before.delegation.document if before is not None else b""
        if (self.delegate.delegation.document if self.delegate is not None else b"") != known:
            core.renewals.set_delegate(self.delegate, now)
            applied.append("network.delegation")
        return applied

    def restart(self, config: ClientConfig) -> list[str]:
        """Keys whose values come from the certificate, and change only by a restart."""
        if self.credentials is None:
            return []
        same = tuple(self.credentials.certificate.body.addresses) == config.interface.addresses
        return [] if same else ["interface.addresses"]

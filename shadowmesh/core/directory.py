"""Which names lead to which addresses: the members as the resolver may tell them.

A name is a member's as long as its certificate counts, whether it is connected or not; one that was revoked
owns no address any more (`owners`), and has no name then. Decides nothing of DNS.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable

from shadowmesh.core.acquaintances import Acquaintances
from shadowmesh.core.members import Members
from shadowmesh.core.owners import Owners
from shadowmesh.core.peers import PeerClient


def hosts(
    peers: Iterable[PeerClient], members: Members, acquaintances: Acquaintances, owners: Owners
) -> dict[str, tuple[str, ...]]:
    """Every name and its addresses, of those that have any but link-local ones, which name no interface.

    Of two members of one name it is that of the configuration's, then of the higher serial's, to whom the
    authority gave it anew, as with addresses.
    """
    found: dict[str, tuple[str, ...]] = {}
    ranks: dict[str, float] = {}
    for peer in peers:
        rank = _rank(peer, members, acquaintances)
        name = peer.member.name
        if rank is None or rank <= ranks.get(name, -math.inf):
            continue
        owned = owners.hosts(peer.handle)
        addresses = tuple(host for host in owned if not ipaddress.ip_address(host).is_link_local)
        if addresses:
            found[name], ranks[name] = addresses, rank
    return found


def _rank(peer: PeerClient, members: Members, acquaintances: Acquaintances) -> float | None:
    """How much its claim to its name counts; None if it has none."""
    standing = peer.standing or acquaintances.standing(peer.member.node_id)
    if standing is not None and members.membership is not None:
        # A session that outlives its certificate ends by itself, at the end of the grace.
        ended = standing.certificate.body.not_after < members.membership.clock.now()
        if members.revokes(standing) or (ended and peer.standing is None):
            return None
    if members.is_configured(peer.member.node_id):
        return math.inf
    return float(standing.certificate.body.serial) if standing is not None else None

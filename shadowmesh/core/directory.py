"""Which names lead to which addresses: the members as the resolver may tell them.

A name is a member's as long as its certificate counts, whether it is connected or not; one that was revoked
owns no address any more (`owners`), and has no name then. Decides nothing of DNS.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping

from shadowmesh.core.acquaintances import Acquaintances
from shadowmesh.core.members import Members
from shadowmesh.core.owners import Owners
from shadowmesh.core.peers import PeerClient
from shadowmesh.membership.guard import Standing
from shadowmesh.units import NodeId


def hosts(
    peers: Mapping[NodeId, PeerClient], members: Members, acquaintances: Acquaintances, owners: Owners
) -> dict[str, tuple[str, ...]]:
    """Every name and its addresses, of those that have any but link-local ones, which name no interface.

    Of two members of one name it is that of the configuration's, then of the higher serial's, to whom the
    authority gave it anew, as with addresses.
    """
    found: dict[str, tuple[str, ...]] = {}
    ranks: dict[str, float] = {}
    for rank, name, addresses in _claims(peers, members, acquaintances, owners):
        told = tuple(host for host in addresses if not ipaddress.ip_address(host).is_link_local)
        if told and rank > ranks.get(name, -math.inf):
            found[name], ranks[name] = told, rank
    return found


def _claims(
    peers: Mapping[NodeId, PeerClient], members: Members, acquaintances: Acquaintances, owners: Owners
) -> Iterator[tuple[float, str, Iterable[str]]]:
    """How much each claim to a name counts, the name, and the addresses."""
    for node, peer in peers.items():
        standing = peer.standing or acquaintances.standing(node)
        # A session that outlives its certificate ends by itself, at the end of the grace.
        if standing is not None and not _counts(standing, members, in_session=peer.standing is not None):
            continue
        if members.is_configured(node):
            yield math.inf, peer.member.name, owners.hosts(peer.handle)
        elif standing is not None:
            yield float(standing.certificate.body.serial), peer.member.name, owners.hosts(peer.handle)
    for node, standing in acquaintances.standings():
        # Known from before this start, and not named by anybody yet.
        if node not in peers and _counts(standing, members, in_session=False):
            body = standing.certificate.body
            given = [str(ipaddress.ip_address(host)) for host in standing.certificate.hosts]
            yield float(body.serial), body.name, [host for host in given if not owners.is_owned(host)]


def _counts(standing: Standing, members: Members, in_session: bool) -> bool:
    if members.membership is None or members.revokes(standing):
        return False
    return in_session or standing.certificate.body.not_after >= members.membership.clock.now()

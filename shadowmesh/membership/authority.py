"""The authority at work: signs certificates, gives addresses out, revokes; sans-I/O.

What it must remember is the ledger: everybody who was ever signed for.  Whoever holds the key keeps the
ledger beside it, and writes it down before a certificate or list leaves the machine.
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import CompositePublic, node_id_text
from shadowmesh.membership.certificate import Certificate, CertificateBody
from shadowmesh.membership.delegation import MAX_GRANTS, Delegation, DelegationBody, Grant, Scope
from shadowmesh.membership.network import Network, Subnet
from shadowmesh.membership.revocation import RevocationList
from shadowmesh.units import NodeId
from shadowmesh.values import parse_node_id

DAY = 86_400
BACKDATE = 3600
"""Seconds that a certificate begins before it was signed: clocks of members may be behind."""
MAX_DAYS = 3650
LIST_DAYS = 30
"""Days that a revocation list calls itself fresh."""


class Entry(msgspec.Struct, kw_only=True):
    """One node that was signed for, and its latest certificate."""

    node: str
    """52 characters."""
    name: str
    addresses: list[str]
    routes: list[str] = []
    groups: list[str] = []
    rights: list[str] = []
    serial: int
    not_after: int
    revoked: int | None = None
    """When; seconds since 1970."""


class Reserved(msgspec.Struct, kw_only=True):
    """What an invitation grants, while nobody has told the ledger which node took it.

    Also what a member had before it joined anew, as its certificate from then still counts.
    """

    name: str
    addresses: list[str]
    groups: list[str] = []
    rights: list[str] = []
    serial: int
    not_after: int
    """End of the certificate that may be out there; name and addresses are free again then."""
    revoked: int | None = None
    """When; seconds since 1970. The name is free from then on, the addresses rest until `not_after`."""
    ephemeral: bool = False
    """Whether the ledger never learns which node it is: no lasting member, or one that has joined anew."""


class Ledger(msgspec.Struct, kw_only=True):
    """What the authority remembers."""

    schema: str = "shadowmesh.ledger/1"
    network: str
    """The network's id, 52 characters."""
    next_serial: int = 1
    list_number: int = 0
    entries: list[Entry] = []
    revoked_serials: list[int] = []
    reserved: list[Reserved] = []


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a certificate is asked for."""

    node: NodeId
    name: str
    addresses: Sequence[str] = ()
    """Without prefix length; a subnet in which none is named gives the next free one."""
    routes: Sequence[str] = ()
    groups: Sequence[str] = ()
    rights: Sequence[str] = ()
    days: int = 90


@dataclass(frozen=True, kw_only=True)
class Invitee:
    """What an invitation is to grant, `uses` times: to `name`, `name-2`, `name-3` and so on."""

    name: str
    groups: Sequence[str] = ()
    rights: Sequence[str] = ()
    uses: int = 1
    days: int = 90
    ephemeral: bool = False
    """Whether name and addresses are free again when the certificate has ended."""
    replace: bool = False
    """Whether what was reserved under these names before is to be revoked."""

    @property
    def names(self) -> list[str]:
        """One for each use."""
        return [self.name, *(f"{self.name}-{number}" for number in range(2, self.uses + 1))]


@dataclass(frozen=True)
class Rotation:
    """A new key of an authority, and what it has signed: the network, and the first list of its own."""

    key: AuthorityKey
    network: Network
    revocations: RevocationList


class Authority:
    """Signs for one network. Errors are ValueError, with a text that says what to do.

    :param ledger: changed in place by every success, and by nothing else.
    """

    def __init__(self, key: AuthorityKey, network: Network, ledger: Ledger) -> None:
        if key.public != network.authority or ledger.network != node_id_text(network.id):
            raise ValueError("key, network and ledger are not of one authority")
        self.ledger = ledger
        self._key = key
        self._network = network

    def sign(self, request: Request, now: float) -> Certificate:
        """A certificate from an hour ago until `request.days` from now; of a known node, its next one."""
        known = self._entry_of(request.node)
        self._expire(now)
        self._check(request, known)
        addresses = self._addresses(request.addresses, known, now)
        body = CertificateBody(
            network=self._network.id,
            node=request.node,
            name=request.name,
            addresses=addresses,
            routes=list(request.routes),
            groups=sorted(set(request.groups)),
            rights=sorted(set(request.rights)),
            not_before=int(now) - BACKDATE,
            not_after=int(now) + request.days * DAY,
            serial=self.ledger.next_serial,
        )
        certificate = Certificate.make(body, self._key)
        entry = Entry(
            node=node_id_text(request.node),
            name=body.name,
            addresses=body.addresses,
            routes=body.routes,
            groups=body.groups,
            rights=body.rights,
            serial=body.serial,
            not_after=max(body.not_after, known.not_after if known else 0),
        )
        others = [one for one in self.ledger.entries if one is not known]
        self.ledger.entries = [*others, entry]
        self.ledger.next_serial += 1
        return certificate

    def invite(
        self, invitee: Invitee, delegate: CompositePublic, now: float
    ) -> tuple[Delegation, RevocationList | None]:
        """Let `delegate` sign one certificate for each use; reserves names, addresses and serials.

        Also returns the new revocation list, if `invitee.replace` revoked what was reserved before.
        """
        if not 1 <= invitee.uses <= MAX_GRANTS:
            raise ValueError(f"an invitation is for 1 to {MAX_GRANTS} uses, not {invitee.uses}")
        self._check_days(invitee.days)
        before = copy.deepcopy(self.ledger)
        try:
            made = self._replace(invitee, now) if invitee.replace else None
            return self._delegate(invitee, delegate, now), made
        except ValueError:
            for field in before.__struct_fields__:
                setattr(self.ledger, field, getattr(before, field))
            raise

    def _replace(self, invitee: Invitee, now: float) -> RevocationList | None:
        """Revoke what is reserved under the names of `invitee`."""
        self._expire(now)
        gone = [one for one in self._invited if one.name in invitee.names]
        return self._revoke_invited(gone, now) if gone else None

    def _delegate(self, invitee: Invitee, delegate: CompositePublic, now: float) -> Delegation:
        self._expire(now)
        serial, end = self.ledger.next_serial, int(now) + invitee.days * DAY
        grants = []
        for offset, name in enumerate(invitee.names, 1):
            self._check_name(name, None)
            grant = Grant(
                name=name,
                addresses=self._addresses((), None, now),
                groups=sorted(set(invitee.groups)),
                rights=sorted(set(invitee.rights)),
                serial=serial + offset,
            )
            grants.append(grant)
            self.ledger.reserved.append(
                Reserved(**msgspec.structs.asdict(grant), not_after=end, ephemeral=invitee.ephemeral)
            )
        body = DelegationBody(
            network=self._network.id,
            ed25519=delegate.ed25519,
            mldsa=delegate.mldsa,
            scope=Scope.JOIN,
            not_before=int(now) - BACKDATE,
            not_after=end,
            serial=serial,
            grants=grants,
        )
        self.ledger.next_serial += 1 + len(grants)
        return Delegation.make(body, self._key)

    @property
    def _invited(self) -> list[Reserved]:
        return [one for one in self.ledger.reserved if one.revoked is None]

    def _revoke_invited(self, gone: list[Reserved], now: float) -> RevocationList:
        """Put what these invitations grant on the next list, whether anybody took it or not."""
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None}
        serials = {one.serial for one in gone} | set(self.ledger.revoked_serials)
        made = self._list(nodes, serials, now)
        for one in gone:
            one.revoked = int(now)
        self.ledger.revoked_serials = sorted(serials)
        return made

    def revoke(self, label: str, now: float) -> RevocationList:
        """Take a node out, by its NodeID or by the name of one that is not revoked; returns the new list.

        A name that is reserved by an invitation takes out whoever has joined by it.
        """
        invited = [one for one in self._invited if one.name == label]
        if invited:
            return self._revoke_invited(invited, now)
        entry = self.find(label)
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None} | {entry.node}
        made = self._list(nodes, set(self.ledger.revoked_serials), now)
        entry.revoked = int(now)
        return made

    def revoke_serial(self, serial: int, now: float) -> RevocationList:
        """Take one certificate out, and leave its node's others; returns the new list."""
        if not 1 <= serial < self.ledger.next_serial:
            raise ValueError(f"no certificate has the serial {serial}")
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None}
        made = self._list(nodes, {*self.ledger.revoked_serials, serial}, now)
        self.ledger.revoked_serials = sorted({*self.ledger.revoked_serials, serial})
        return made

    def renew(self, label: str, days: int, now: float) -> Certificate:
        """The next certificate of a member, by its name or NodeID, that says what the latest one does."""
        entry = self.find(label)
        request = Request(
            node=parse_node_id(entry.node),
            name=entry.name,
            routes=entry.routes,
            groups=entry.groups,
            rights=entry.rights,
            days=days,
        )
        return self.sign(request, now)

    def replace(self, node: NodeId, label: str, days: int, now: float) -> tuple[Certificate, RevocationList]:
        """A new NodeID in place of a member's: what its latest certificate says, and the old one revoked.

        The list counts where it comes to, so both are members until it is spread.
        """
        old = self.find(label)
        if old.revoked is not None:
            raise ValueError(f"{old.name} is revoked; sign the new identity in as another member")
        if self._entry_of(node) is not None:
            raise ValueError(f"{node_id_text(node)} was signed for before; a replacement is a new identity")
        made = self.revoke(old.node, now)
        # Its addresses go over at once, and do not rest: they stay with one machine.
        addresses, old.addresses = old.addresses, []
        request = Request(
            node=node,
            name=old.name,
            addresses=[text.partition("/")[0] for text in addresses],
            routes=old.routes,
            groups=old.groups,
            rights=old.rights,
            days=days,
        )
        return self.sign(request, now), made

    def delegate_renewals(self, public: CompositePublic, days: int, now: float) -> Delegation:
        """Let a member renew the certificates of others, from an hour ago until `days` from now."""
        entry = self._entry_of(public.node_id)
        if entry is None or entry.revoked is not None:
            raise ValueError(f"{node_id_text(public.node_id)} is no member of {self._network.name}")
        if not 1 <= days <= MAX_DAYS:
            raise ValueError(f"a delegation holds 1 to {MAX_DAYS} days, not {days}")
        body = DelegationBody(
            network=self._network.id,
            ed25519=public.ed25519,
            mldsa=public.mldsa,
            scope=Scope.RENEW,
            not_before=int(now) - BACKDATE,
            not_after=int(now) + days * DAY,
            serial=self.ledger.next_serial,
        )
        self.ledger.next_serial += 1
        return Delegation.make(body, self._key)

    def rotate(self, days: int, now: float) -> Rotation:
        """A new key in place of this one, which signs nothing from then on.

        :param days: what the old key signed counts so long.
        """
        if not 0 <= days <= MAX_DAYS:
            raise ValueError(f"the old key counts for 0 to {MAX_DAYS} days more, not {days}")
        key, lists = AuthorityKey.generate(), self.ledger.list_number
        network = self._network.rotated(self._key, key, int(now), int(now) + days * DAY, lists)
        self._key, self._network = key, network
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None}
        return Rotation(key, network, self._list(nodes, set(self.ledger.revoked_serials), now))

    def find(self, label: str) -> Entry:
        """The entry with this NodeID, or the one not revoked with this name."""
        for entry in self.ledger.entries:
            if entry.node == label.lower() or (entry.name == label and entry.revoked is None):
                return entry
        if any(one.name == label for one in self._invited):
            text = f"{label} is not known yet to have joined by its invitation"
            raise ValueError(f"{text}; `invite list` tells the ledger who joined")
        raise ValueError(f"{label} is no member of {self._network.name}; the verb `network list` shows them")

    def _list(self, nodes: set[str], serials: set[int], now: float) -> RevocationList:
        made = RevocationList.make(
            self._network,
            self._key,
            self.ledger.list_number + 1,
            int(now),
            int(now) + LIST_DAYS * DAY,
            [parse_node_id(node) for node in nodes],
            serials,
        )
        self.ledger.list_number += 1
        return made

    def _entry_of(self, node: NodeId) -> Entry | None:
        text = node_id_text(node)
        return next((entry for entry in self.ledger.entries if entry.node == text), None)

    def _check(self, request: Request, known: Entry | None) -> None:
        if known is not None and known.revoked is not None:
            raise ValueError(f"{known.name} is revoked for good; it needs a new identity to come back")
        self._check_days(request.days)
        self._check_name(request.name, known)

    @staticmethod
    def _check_days(days: int) -> None:
        if not 1 <= days <= MAX_DAYS:
            raise ValueError(f"a certificate holds 1 to {MAX_DAYS} days, not {days}")

    def _check_name(self, name: str, known: Entry | None) -> None:
        for entry in self.ledger.entries:
            if entry.name == name and entry is not known and entry.revoked is None:
                raise ValueError(f"the name {name} is that of {entry.node}; take another")
        if any(one.name == name for one in self._invited):
            text = f"the name {name} is reserved by an invitation; `invite list` tells the ledger who joined"
            raise ValueError(f"{text}, `invite create --replace` or `network revoke {name}` takes it back")

    def _expire(self, now: float) -> None:
        """Free what invitations have reserved for certificates that have ended."""
        self.ledger.reserved = [one for one in self.ledger.reserved if one.not_after >= now]

    def _addresses(self, asked_for: Sequence[str], known: Entry | None, now: float) -> list[str]:
        """One in each subnet at least: as asked, as before, or the next free one."""
        # A revoked member's addresses are given out again when its certificate could not be used any more.
        taken = {
            text.partition("/")[0]
            for entry in self.ledger.entries
            if entry is not known and (entry.revoked is None or entry.not_after >= now)
            for text in entry.addresses
        }
        taken |= {text.partition("/")[0] for one in self.ledger.reserved for text in one.addresses}
        wanted = [ipaddress.ip_address(text) for text in asked_for]
        for address in wanted:
            subnet = self._network.subnet_of(address)
            if subnet is None:
                raise ValueError(f"{address} is in no subnet of {self._network.name}")
            if address in _reserved(subnet):
                raise ValueError(f"{address} names the subnet itself, not a node in it")
            if str(address) in taken:
                raise ValueError(f"{address} belongs to another member")
        before = [ipaddress.ip_interface(text).ip for text in (known.addresses if known else [])]
        found = []
        for subnet in self._network.subnets:
            asked = [address for address in wanted if address in subnet]
            kept = [address for address in before if address in subnet]
            found += [
                f"{address}/{subnet.prefixlen}"
                for address in dict.fromkeys(asked or kept or [next(_free(subnet, taken))])
            ]
        return found


def adopt(ledger: Ledger, uses: Mapping[int, str]) -> bool:
    """Enter the nodes that took what invitations had reserved; returns whether the ledger changed.

    :param uses: the NodeID (52 characters) that each serial was given to.
    """
    out = {entry.node for entry in ledger.entries if entry.revoked is not None}
    taken = [
        one
        for one in ledger.reserved
        if one.serial in uses and one.revoked is None and not one.ephemeral and uses[one.serial] not in out
    ]
    for one in taken:
        node = uses[one.serial]
        known = next((entry for entry in ledger.entries if entry.node == node), None)
        if known is not None:
            ledger.reserved.append(_before(known))
        ledger.entries = [entry for entry in ledger.entries if entry.node != node]
        ledger.entries.append(
            Entry(
                node=node,
                name=one.name,
                addresses=one.addresses,
                groups=one.groups,
                rights=one.rights,
                serial=one.serial,
                not_after=one.not_after,
            )
        )
    ledger.reserved = [one for one in ledger.reserved if one not in taken]
    return bool(taken)


def _before(known: Entry) -> Reserved:
    """Name and addresses that stay a member's until the certificate has ended that it had before."""
    return Reserved(
        name=known.name,
        addresses=known.addresses,
        groups=known.groups,
        rights=known.rights,
        serial=known.serial,
        not_after=known.not_after,
        ephemeral=True,
    )


def _reserved(subnet: Subnet) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return set()
    return {subnet.network_address} | ({subnet.broadcast_address} if subnet.version == 4 else set())


def _free(subnet: Subnet, taken: set[str]) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Free addresses from the lowest on. Raises ValueError when there are no more."""
    yield from (address for address in subnet.hosts() if str(address) not in taken)
    raise ValueError(f"no address is free in {subnet}")

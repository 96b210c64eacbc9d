"""Delegations: the authority lets a member's own identity key sign certificates, narrowly and for a while.

"join" lets it sign exactly the certificates that the authority has laid down as grants, each for a NodeID
that nobody knows yet.  "renew" lets it give a member the same certificate with later dates; the basis is
the one that the authority itself signed.  Whoever holds such a certificate shows the delegation beside it,
and everybody checks both.  Who asks for a certificate, and how, is not decided here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec.structs import replace

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import CompositePublic
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.certificate import (
    MAX_ADDRESSES,
    MAX_GROUPS,
    MAX_RIGHTS,
    Certificate,
    Serial,
    date_text,
)
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import (
    Bytes32,
    Critical,
    Kind,
    Seconds,
    Signed,
    Text,
    check_names,
    decode_body,
    refuse_critical,
    sign_and_read,
)
from shadowmesh.units import NodeId

MAX_GRANTS = 32
BASIS_GRACE = 30 * 86_400
"""Seconds after its end that a certificate may still be renewed by a delegate."""


class Scope(enum.StrEnum):
    """What a delegate may sign."""

    JOIN = "join"
    RENEW = "renew"


class Grant(msgspec.Struct, kw_only=True, frozen=True):
    """One certificate that a delegate may sign, for one node; it has no routes."""

    name: Text
    addresses: Annotated[list[Text], msgspec.Meta(max_length=MAX_ADDRESSES)]
    groups: Annotated[list[Text], msgspec.Meta(max_length=MAX_GROUPS)] = []
    rights: Annotated[list[Text], msgspec.Meta(max_length=MAX_RIGHTS)] = []
    serial: Serial


class DelegationBody(msgspec.Struct, kw_only=True, frozen=True):
    """What is signed; the order of the fields is that of the bytes."""

    network: Bytes32
    ed25519: Bytes32
    mldsa: Annotated[bytes, msgspec.Meta(min_length=2592, max_length=2592)]
    """Both public keys of the delegate's identity."""
    scope: Scope
    not_before: Seconds
    not_after: Seconds
    serial: Serial
    """Of the authority's one series, by which it is revoked."""
    grants: Annotated[list[Grant], msgspec.Meta(max_length=MAX_GRANTS)] = []
    critical: Critical = []


@dataclass(frozen=True)
class Delegation:
    """A delegation taken apart; `check` says whether it counts."""

    body: DelegationBody
    signed: Signed

    @classmethod
    def make(cls, body: DelegationBody, key: AuthorityKey) -> Delegation:
        """Sign. Raises ValueError if it is too large, or not to be read back."""
        problem = "a name, grant or date of the delegation is not one"
        return sign_and_read(Kind.DELEGATION, body, key, cls.parse_untrusted, problem)

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Delegation:
        """Take apart, and see that every value is one. Raises BadPacket("malformed_document")."""
        signed = Signed.parse_untrusted(data, Kind.DELEGATION)
        body = decode_body(signed, DelegationBody)
        for grant in body.grants:
            check_names(grant.name, *grant.groups, *grant.rights)
        if bool(body.grants) != (body.scope is Scope.JOIN) or body.not_before > body.not_after:
            raise BadPacket("malformed_document")
        return cls(body, signed)

    @property
    def document(self) -> bytes:
        """All its bytes."""
        return self.signed.encode()

    @property
    def delegate(self) -> CompositePublic:
        """The key that may sign."""
        return CompositePublic(self.body.ed25519, self.body.mldsa)

    def check(self, network: Network, revocations: Revocations, now: float) -> None:
        """Raises NotMember unless the authority of `network` means it at `now`, and still does."""
        if self.body.network != network.id:
            text = f"the delegation is of another network than {network.name}"
            raise NotMember("delegation_of_another_network", text)
        try:
            network.verify(self.signed, now)
        except NotMember as error:
            raise NotMember(f"delegation_{error.reason}", f"the delegation: {error}") from None
        refuse_critical(self.body.critical)
        if now < self.body.not_before:
            text = f"the delegation begins at {date_text(self.body.not_before)}; are the clocks right?"
            raise NotMember("delegation_not_yet_valid", text)
        if now > self.body.not_after:
            text = f"the delegation ended at {date_text(self.body.not_after)}"
            raise NotMember("delegation_expired", text)
        self.refuse_revoked(revocations)

    def refuse_revoked(self, revocations: Revocations) -> None:
        """Raises NotMember if the newest list names it, or its delegate."""
        current = revocations.current
        if current is not None and self.body.serial in current.serials:
            raise NotMember("delegation_revoked", f"the delegation is {revocations.revoked}")
        if current is not None and self.delegate.node_id in current.nodes:
            raise NotMember("delegate_revoked", f"whoever signed the certificate is {revocations.revoked}")


@dataclass(frozen=True)
class Credentials:
    """A certificate, and what it rests on if the authority has not signed it itself."""

    certificate: Certificate
    delegation: Delegation | None = None
    basis: Certificate | None = None
    """Of a renewed one: the certificate that the authority signed."""

    @classmethod
    def parse_untrusted(cls, certificate: bytes, delegation: bytes, basis: bytes) -> Credentials:
        """Take the documents apart; `delegation` and `basis` may be empty. Raises BadPacket."""
        if basis and not delegation:
            raise BadPacket("malformed_document")
        return cls(
            Certificate.parse_untrusted(certificate),
            Delegation.parse_untrusted(delegation) if delegation else None,
            Certificate.parse_untrusted(basis) if basis else None,
        )

    @property
    def documents(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, delegation and basis; what is not there is empty."""
        delegation, basis = self.delegation, self.basis
        return (
            self.certificate.document,
            delegation.document if delegation is not None else b"",
            basis.document if basis is not None else b"",
        )

    def admit(self, network: Network, revocations: Revocations, node: NodeId, now: float) -> None:
        """Raises NotMember unless they make `node` a member of `network` at `now`."""
        delegation = self.delegation
        if delegation is None:
            self.certificate.admit(network, node, now)
        else:
            delegation.check(network, revocations, now)
            self.certificate.admit(network, node, now, delegation.delegate)
            self._check_scope(delegation, network, now)
        revocations.refuse(self.certificate)

    def refuse_revoked(self, revocations: Revocations) -> None:
        """Raises NotMember if the newest list names the certificate, or what it rests on."""
        revocations.refuse(self.certificate)
        if self.delegation is not None:
            self.delegation.refuse_revoked(revocations)

    @property
    def by_authority(self) -> list[Signed]:
        """What the authority itself has signed of them."""
        if self.delegation is None:
            return [self.certificate.signed]
        basis = [self.basis.signed] if self.basis is not None else []
        return [self.delegation.signed, *basis]

    def _check_scope(self, delegation: Delegation, network: Network, now: float) -> None:
        body = self.certificate.body
        if body.not_after > delegation.body.not_after:
            text = f"the certificate of {body.name} ends after the delegation that it rests on"
            raise NotMember("outlives_delegation", text)
        if delegation.body.scope is Scope.RENEW:
            self._check_renewal(network, now)
        elif not any(self._is_granted(grant) for grant in delegation.body.grants):
            text = f"the delegation does not grant this certificate of {body.name}"
            raise NotMember("not_granted", text)

    def _is_granted(self, grant: Grant) -> bool:
        body = self.certificate.body
        held = (body.name, body.addresses, body.groups, body.rights, body.serial, body.routes)
        return held == (grant.name, grant.addresses, grant.groups, grant.rights, grant.serial, [])

    def _check_renewal(self, network: Network, now: float) -> None:
        body, basis = self.certificate.body, self.basis
        if basis is None:
            raise NotMember("no_basis", f"the certificate that {body.name} had renewed is missing")
        # Equal serial and NodeID: a list that names the basis names the certificate too.
        if replace(body, not_before=basis.body.not_before, not_after=basis.body.not_after) != basis.body:
            text = f"the renewed certificate of {body.name} says more than its basis"
            raise NotMember("not_renewed", text)
        try:
            network.verify(basis.signed, now)
        except NotMember as error:
            text = f"the basis of the certificate of {body.name}: {error}"
            raise NotMember(f"basis_{error.reason}", text) from None
        # Both, since a session is not asked about its basis again.
        if max(now, body.not_after) > basis.body.not_after + BASIS_GRACE:
            text = f"the certificate of {body.name} was renewed for too long; the authority has to sign it"
            raise NotMember("basis_expired", text)

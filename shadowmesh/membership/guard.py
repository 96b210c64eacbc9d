"""Who counts as a member just now: what the other side of a session shows, against network, lists and clock.

    membership field of HELLO and CHALLENGE    MessagePack map {certificate: bytes, revocations: int,
                                                                delegation: bytes, basis: bytes}

`revocations` is the number of the newest list that the sender has; `delegation` and `basis` are what the
certificate rests on if the authority has not signed it itself (`delegation.py`), else they are empty. A
client and a relay have a `Guard` for each network; a client's own certificate is in its `Membership`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Bytes32, Kind, max_size
from shadowmesh.units import NodeId

MAX_SHOWN = 23_600
"""Bytes: HELLO has 24,576, and takes 700 for the rest. Certificate, basis and a delegation without grants
take 23,200."""
MAX_INVITED = 64
"""Bytes of a membership field that shows an invitation: 46, and a margin."""
EXPIRY_GRACE = 86_400.0
"""Seconds that a session lives on after the certificate of its peer has expired: an authority that is away
must not stop traffic that runs, and whoever watches has a day. New sessions get none of it."""


class _Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    certificate: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.CERTIFICATE))]
    revocations: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    delegation: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.DELEGATION))] = b""
    basis: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.CERTIFICATE))] = b""


@dataclass(frozen=True)
class Standing:
    """What somebody showed: credentials, and the number of the newest revocation list there."""

    credentials: Credentials
    revocations: int

    @property
    def certificate(self) -> Certificate:
        """The certificate that was shown."""
        return self.credentials.certificate

    @classmethod
    def parse_untrusted(cls, shown: bytes) -> Standing:
        """Take the membership field apart. Raises BadPacket("malformed_document")."""
        if len(shown) > MAX_SHOWN:
            raise BadPacket("malformed_document")
        try:
            fields = msgspec.msgpack.decode(shown, type=_Shown)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadPacket("malformed_document") from None
        credentials = Credentials.parse_untrusted(fields.certificate, fields.delegation, fields.basis)
        return cls(credentials, fields.revocations)


class _Invited(msgspec.Struct, frozen=True):
    invitation: Bytes32


def show_invitation(invitation_id: bytes) -> bytes:
    """The membership field of a node that has an invitation, and no certificate yet."""
    return msgspec.msgpack.encode(_Invited(invitation_id))


def invitation_untrusted(shown: bytes) -> bytes | None:
    """The id (32 bytes) that such a field shows; None if it is another field."""
    try:
        return msgspec.msgpack.decode(shown, type=_Invited).invitation if len(shown) <= MAX_INVITED else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class Guard:
    """The door of one network."""

    def __init__(self, network: Network, revocations: Revocations, clock: SteadyClock) -> None:
        self.network = network
        self.revocations = revocations
        self.clock = clock

    def check_untrusted(self, node: NodeId, shown: bytes) -> Standing:
        """What `node`, which the session has authenticated, shows. Raises BadPacket, NotMember."""
        if not shown:
            raise NotMember("no_certificate", f"it shows no certificate of the network {self.network.name}")
        standing = Standing.parse_untrusted(shown)
        standing.credentials.admit(self.network, self.revocations, node, self.clock.now())
        return standing

    def recheck(self, standing: Standing) -> None:
        """Raises NotMember if a session with this member must end: revoked, or expired for a day."""
        standing.credentials.refuse_revoked(self.revocations)
        standing.certificate.check_end(self.clock.now() - EXPIRY_GRACE)


class Membership(Guard):
    """A guard that is a member itself."""

    def __init__(
        self, network: Network, revocations: Revocations, clock: SteadyClock, credentials: Credentials
    ) -> None:
        super().__init__(network, revocations, clock)
        self.credentials = credentials

    @property
    def certificate(self) -> Certificate:
        """Ours."""
        return self.credentials.certificate

    def show(self) -> bytes:
        """Our membership field."""
        certificate, delegation, basis = self.credentials.documents
        return msgspec.msgpack.encode(_Shown(certificate, self.revocations.number, delegation, basis))

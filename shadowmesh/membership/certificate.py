"""Membership certificates: the authority's word on who a NodeID is in its network, and until when.

A certificate counts only with both signatures of the network's authority (or of its delegate, see
`delegation.py`), for the NodeID that the session proved, within its dates, and while no revocation list
names it.  `admit` checks the first three; `revocation.py` the last.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.crypto.identity import CompositePublic
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.network import Network
from shadowmesh.membership.signed import (
    Bytes32,
    Critical,
    Kind,
    Seconds,
    Signed,
    Signer,
    Text,
    check_names,
    decode_body,
    refuse_critical,
    sign_and_read,
)
from shadowmesh.units import NodeId

MAX_ADDRESSES = 8
MAX_ROUTES = 32
MAX_GROUPS = 32
MAX_RIGHTS = 16
Serial = Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]


class CertificateBody(msgspec.Struct, kw_only=True, frozen=True):
    """What is signed; the order of the fields is that of the bytes."""

    network: Bytes32
    node: Bytes32
    name: Text
    addresses: Annotated[list[Text], msgspec.Meta(max_length=MAX_ADDRESSES)]
    """Overlay addresses with the prefix length of their subnet."""
    routes: Annotated[list[Text], msgspec.Meta(max_length=MAX_ROUTES)] = []
    """Prefixes behind this member that it may carry."""
    groups: Annotated[list[Text], msgspec.Meta(max_length=MAX_GROUPS)] = []
    rights: Annotated[list[Text], msgspec.Meta(max_length=MAX_RIGHTS)] = []
    """What it may do beyond sending its own frames; names that a reader does not know grant nothing."""
    not_before: Seconds
    not_after: Seconds
    serial: Serial
    critical: Critical = []


@dataclass(frozen=True)
class Certificate:
    """A certificate taken apart; `admit` says whether it counts."""

    body: CertificateBody
    signed: Signed

    @classmethod
    def make(cls, body: CertificateBody, key: Signer) -> Certificate:
        """Sign. Raises ValueError if it is too large, or not to be read back."""
        problem = "a name, address, route or date of the certificate is not one"
        return sign_and_read(Kind.CERTIFICATE, body, key, cls.parse_untrusted, problem)

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Certificate:
        """Take apart, and see that every value is one. Raises BadPacket("malformed_document")."""
        signed = Signed.parse_untrusted(data, Kind.CERTIFICATE)
        body = decode_body(signed, CertificateBody)
        try:
            for text in body.addresses:
                ipaddress.ip_interface(text)
            for text in body.routes:
                ipaddress.ip_network(text)
        except ValueError:
            raise BadPacket("malformed_document") from None
        check_names(body.name, *body.groups, *body.rights)
        if body.not_before > body.not_after:
            raise BadPacket("malformed_document")
        return cls(body, signed)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over the signed body, 32 bytes."""
        return self.signed.fingerprint

    @property
    def document(self) -> bytes:
        """All its bytes."""
        return self.signed.encode()

    @property
    def hosts(self) -> tuple[str, ...]:
        """Overlay addresses without prefix length."""
        return tuple(text.partition("/")[0] for text in self.body.addresses)

    def admit(
        self, network: Network, node: NodeId, now: float, signer: CompositePublic | None = None
    ) -> None:
        """Raises NotMember unless this is a certificate of `network` for `node` that holds at `now`.

        :param now: seconds since 1970, of a clock that can't be set back (`clock.py`).
        :param signer: a delegate that must have signed it in place of the authority.
        """
        if self.body.network != network.id:
            raise NotMember("wrong_network", f"the certificate is of another network than {network.name}")
        # Before the signatures: a genuine certificate of somebody else costs whoever shows it nothing.
        if self.body.node != node:
            raise NotMember("wrong_node", f"the certificate of {self.body.name} is for another NodeID")
        if signer is None:
            network.verify(self.signed, now)
        else:
            self.signed.verify(signer)
        refuse_critical(self.body.critical)
        self._check_dates(now)
        if not all(network.subnet_of(ipaddress.ip_address(host)) for host in self.hosts):
            raise NotMember("wrong_address", "the certificate has an address outside the network's subnets")

    def _check_dates(self, now: float) -> None:
        # Dates, not seconds: a text that changes all the time would fill the log.
        if now < self.body.not_before:
            text = f"the certificate of {self.body.name} begins at {date_text(self.body.not_before)}"
            raise NotMember("not_yet_valid", f"{text}; are the clocks right?")
        self.check_end(now)

    def check_end(self, now: float) -> None:
        """Raises NotMember("expired") if `now` is after its end."""
        if now > self.body.not_after:
            text = f"the certificate of {self.body.name} expired at {date_text(self.body.not_after)}"
            raise NotMember("expired", f"{text}; have it signed again")


def date_text(seconds: int) -> str:
    """A time since 1970 for people, UTC."""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return f"{seconds} s after 1970"

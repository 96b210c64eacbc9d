"""What relays of a cluster say to each other over NATS, and what they write into its directory.

Bytes to values and back; every `*_untrusted` raises BadPacket and nothing else.  docs/protocol.md,
section 11, has every field.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

import msgspec

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import BadPacket
from shadowmesh.membership.guard import MAX_SHOWN
from shadowmesh.units import Address, NodeId
from shadowmesh.values import parse_node_id, printable

VERSION = 1
INSTANCE_SIZE = 16
"""Bytes that name one run of a relay."""
MAX_SIGNALS = 32
"""In one NATS message: with the largest certificates 755 KB, below the 1 MiB that NATS takes by default."""
MAX_MESSAGE = 1 << 20
MAX_ENTRY = 256
MAX_REASON = 120

Bytes8 = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Bytes16 = Annotated[bytes, msgspec.Meta(min_length=INSTANCE_SIZE, max_length=INSTANCE_SIZE)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
UpTo8 = Annotated[bytes, msgspec.Meta(max_length=8)]
UpTo32 = Annotated[bytes, msgspec.Meta(max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Presence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client at a relay: the value of an entry of the directory, which has NodeID and relay in its key."""

    instance: Bytes8
    since: Count
    """Milliseconds since 1970, by the clock of its relay: when it came."""
    network: UpTo32 = b""
    certificate: UpTo8 = b""
    """How the fingerprint of the certificate begins that it has shown."""

    def continues(self, later: Presence) -> bool:
        """Whether `later` is of the same session of the client."""
        return (self.instance, self.since) == (later.instance, later.since)


class Beat(msgspec.Struct, frozen=True, omit_defaults=True, tag="beat"):
    """A relay lives: twice a second."""

    relay: Bytes16
    node: Bytes32
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    host: Annotated[str, msgspec.Meta(max_length=45)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    clients: Count = 0
    leaving: bool = False
    version: int = VERSION


class Here(msgspec.Struct, frozen=True, omit_defaults=True, tag="here"):
    """`node`, a client of the sender, has named `to`, one of the receiver's; answer it if `ask`."""

    node: Bytes32
    to: Bytes32
    presence: Presence
    ask: bool = False


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """`node` does not name `to` any more."""

    node: Bytes32
    to: Bytes32


class Calls(msgspec.Struct, frozen=True, omit_defaults=True, tag="call"):
    """`node` wants a channel to `to`; the sender takes what comes for it under `id`."""

    node: Bytes32
    to: Bytes32
    presence: Presence
    id: Bytes8
    named: bool = False
    """Whether `node` has named `to`."""


class Answered(msgspec.Struct, frozen=True, omit_defaults=True, tag="answer"):
    """What came of the call with this id: the id under which the sender takes what goes the other way."""

    id: Bytes8
    send: UpTo8 = b""
    refused: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""


class Closed(msgspec.Struct, frozen=True, tag="close"):
    """The channel under this id of the receiver is no more."""

    id: Bytes8


class Asked(msgspec.Struct, frozen=True, tag="ask"):
    """`to`, a client of the sender, asks for the certificate of `node`."""

    node: Bytes32
    to: Bytes32


class Shown(msgspec.Struct, frozen=True, tag="shown"):
    """The answer, as it came in HELLO of `node`."""

    node: Bytes32
    to: Bytes32
    membership: Annotated[bytes, msgspec.Meta(max_length=MAX_SHOWN)]


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """The sender had taken the receiver for dead: there are no channels between the two."""


Signal = Here | Gone | Calls | Answered | Closed | Asked | Shown | Reset


class Signals(msgspec.Struct, frozen=True, omit_defaults=True, tag="signals"):
    """One NATS message from a relay to another."""

    relay: Bytes16
    signals: Annotated[list[Signal], msgspec.Meta(min_length=1, max_length=MAX_SIGNALS)]
    version: int = VERSION


def message_untrusted(data: bytes) -> Beat | Signals:
    """Take a NATS message apart. Raises BadPacket."""
    message: Beat | Signals = _decode(data, Beat | Signals, MAX_MESSAGE)
    if message.version != VERSION:
        raise BadPacket("cluster_version")
    if isinstance(message, Beat):
        return msgspec.structs.replace(message, name=printable(message.name))
    return message


def presence_untrusted(data: bytes) -> Presence:
    """Take an entry's value apart. Raises BadPacket."""
    presence: Presence = _decode(data, Presence, MAX_ENTRY)
    return presence


def entry_key(node: NodeId, instance: bytes) -> str:
    """Where the directory says that a node is at a relay."""
    return f"{node_id_text(node)}.{instance.hex()}"


def entry_untrusted(key: str) -> tuple[NodeId, bytes]:
    """NodeID and run of the relay in a key. Raises BadPacket."""
    match = re.fullmatch(r"([a-z2-7]{52})\.([0-9a-f]{32})", key)
    try:
        if match:
            return parse_node_id(match[1]), bytes.fromhex(match[2])
    except ValueError:
        pass
    raise BadPacket("cluster_malformed")


def address_untrusted(beat: Beat) -> Address:
    """Where a relay says that others reach it. Raises BadPacket for what no relay can have."""
    try:
        ip = ipaddress.ip_address(beat.host)
    except ValueError:
        raise BadPacket("cluster_address") from None
    mapped = ip.version == 6 and ip.ipv4_mapped is not None
    unfit = ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255" or mapped
    if unfit or "%" in beat.host or str(ip) != beat.host:
        raise BadPacket("cluster_address")
    return Address(beat.host, beat.port)


def _decode(data: bytes, kind: Any, limit: int) -> Any:
    if len(data) > limit:
        raise BadPacket("cluster_malformed")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except UNDECODABLE:
        raise BadPacket("cluster_malformed") from None

"""The registry of control messages: every message that travels on stream 0 of a session.

    message   type (1) | length (3, big-endian) | body (length)
    body      MessagePack map of the fields below; the proof of some messages follows the map at the
              body's end (64-byte signature, 32-byte MAC, or both signatures) and is no part of the map

Proofs of REKEY_OFFER and REKEY_ANSWER are an Ed25519 (64) and an ML-DSA-87 signature (4,627), joined.
Unknown fields of a map are ignored; an unknown name in `critical` of HELLO and CHALLENGE refuses the
session.  Sizes are bounded before anything is decoded.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import BadPacket
from shadowmesh.units import LANES

HEADER_SIZE = 4
MAX_HANDSHAKE_MESSAGE = 24576
"""Room for a membership certificate, its basis and a delegation, each with two signatures (ML-DSA-87: 4,627
bytes), and one key of 2,592."""
MAX_MESSAGE = 65536
"""Bound of a message after the handshake: 1,900 NodeIDs in one Interest."""
MAX_NODES = 1024
"""NodeIDs in one Interest; a larger set takes several messages."""
MAX_ASKED = 8
"""Certificates that a client may wait for: what a relay lets wait for it (session/link.py) holds them all."""
MAX_ROSTER = 512
"""Members in one Roster: as many as a client keeps."""
MAX_CANDIDATES = 16
"""Addresses that a peer may be told of at once: more than a machine has, few enough to try all of them."""
MAX_INVITATIONS = 64
"""Invitations of one client that a relay knows."""
MAX_INVITATION_SECONDS = 8 * 86_400
"""Seconds that a relay knows one at most: seven days open, and one day in which the reason is told."""
MAX_DOCUMENT = 16_384
"""Bytes of a document in JOINED: no certificate or delegation is larger than 12,900."""
MAX_NETWORK = 45_500
"""Bytes of a network with the links of all keys that its authority has had."""

Bytes8 = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Bytes16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Text = Annotated[str, msgspec.Meta(max_length=200)]
Lanes = Annotated[list[Bytes8], msgspec.Meta(min_length=LANES, max_length=LANES)]
"""Receiver ids of one epoch, lane 0 first."""
SHARE_SIZE = 1568 + 32
"""Both shares of X25519+ML-KEM-1024 (`crypto/hybrid.py`). Source: FIPS 203, table 3; RFC 7748."""
Share = Annotated[bytes, msgspec.Meta(min_length=SHARE_SIZE, max_length=SHARE_SIZE)]
Epoch = Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]


class MessageType(enum.IntEnum):
    """Type byte of a message.

    0x01-0x0f handshake, 0x20-0x3f rendezvous at a relay, 0x40-0x47 paths, 0x48-0x4f rekey,
    0x50-0x5f membership.
    """

    HELLO = 0x01
    CHALLENGE = 0x02
    RESPONSE = 0x03
    ESTABLISHED = 0x04
    INTEREST = 0x20
    PRESENT = 0x21
    ABSENT = 0x22
    OPEN = 0x23
    CALL = 0x24
    ANSWER = 0x25
    OPENED = 0x26
    CLOSE = 0x27
    NAT_TEST = 0x28
    SECOND_PORT = 0x29
    TICKET = 0x2A
    INVITE = 0x2B
    INVITED = 0x2C
    LEAVE = 0x30
    CANDIDATES = 0x40
    PATH_VIEW = 0x41
    REKEY_ASK = 0x48
    REKEY_OFFER = 0x49
    REKEY_ANSWER = 0x4A
    REVOCATION_NEWS = 0x50
    JOIN = 0x51
    JOIN_WAIT = 0x52
    JOINED = 0x53
    JOIN_REFUSED = 0x54
    ROSTER = 0x5C
    CERTIFICATE_ASKED = 0x5D
    CERTIFICATE_SHOWN = 0x5E
    RENEW_ASK = 0x58
    RENEWAL = 0x59
    MEMBERSHIP = 0x5A
    NETWORK_NEWS = 0x5B


class Introduction(msgspec.Struct, kw_only=True, frozen=True):
    """What a side says of itself, in HELLO and in CHALLENGE."""

    capabilities: Annotated[list[Text], msgspec.Meta(max_length=32)] = []
    critical: Annotated[list[Text], msgspec.Meta(max_length=32)] = []
    key: Bytes32
    """Ed25519 public key."""
    nonce: Bytes32
    instance: Bytes8
    """Random per process start: tells a restarted node from a second holder of its identity."""
    lanes: Lanes
    """Of epoch 0."""
    membership: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)] = b""
    token: Bytes32 | msgspec.UnsetType = msgspec.UNSET
    """To a relay: proof of an admission token (`crypto/token.py`). Left out where there is none."""


class Hello(msgspec.Struct, kw_only=True, frozen=True):
    """Initiator -> responder; a 64-byte signature follows the map."""

    versions: Annotated[list[int], msgspec.Meta(min_length=1, max_length=8)]
    node: Introduction


class Challenge(msgspec.Struct, kw_only=True, frozen=True):
    """Responder -> initiator; a 64-byte signature follows the map."""

    version: int
    node: Introduction


class Response(msgspec.Struct, frozen=True):
    """Initiator -> responder; a 32-byte MAC over the transcript follows the (empty) map."""


class Established(msgspec.Struct, kw_only=True, frozen=True):
    """Responder -> initiator; a 32-byte MAC over the transcript follows the map."""

    session: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    observed_host: Text = ""
    observed_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    supports_direct: bool = False
    clock_ms: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | msgspec.UnsetType = msgspec.UNSET
    """Of a relay: milliseconds since 1970 by its clock. A hint for people."""


class Interest(msgspec.Struct, kw_only=True, frozen=True):
    """Client -> relay: nodes that it wants to know of, and no longer wants to."""

    add: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_NODES)] = []
    remove: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_NODES)] = []


class Present(msgspec.Struct, frozen=True, omit_defaults=True):
    """Relay -> client: this node is here and is interested in you too."""

    node: Bytes32
    instance: Bytes8
    certificate: Annotated[bytes, msgspec.Meta(max_length=8)] = b""
    """The first 8 bytes of its certificate's fingerprint, if it is in a network with you that I serve."""


class Absent(msgspec.Struct, frozen=True):
    """Relay -> client: this node is gone, or no longer interested in you."""

    node: Bytes32


class Open(msgspec.Struct, frozen=True):
    """Client -> relay: a channel to `node`, please; I receive it under `receive`."""

    node: Bytes32
    receive: Bytes8


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """Relay -> callee: `node` (authenticated) wants a channel; answer it under `send`."""

    node: Bytes32
    send: Bytes8
    invitation: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """By which a guest of the callee came to the relay; empty if it is no guest."""
    source: Text = ""
    """Where the relay sees that guest."""


class Answer(msgspec.Struct, frozen=True):
    """Callee -> relay: I take the call `send` and receive it under `receive`; empty refuses."""

    send: Bytes8
    receive: Annotated[bytes, msgspec.Meta(max_length=8)] = b""


class Opened(msgspec.Struct, frozen=True):
    """Relay -> caller: the channel whose `receive` you allotted stands; send on `send`, or see `refused`."""

    receive: Bytes8
    send: Annotated[bytes, msgspec.Meta(max_length=8)] = b""
    refused: Text = ""


class Close(msgspec.Struct, frozen=True):
    """Either way: the channel whose relay-side id at the client is `send` is no more."""

    send: Bytes8


class NatTest(msgspec.Struct, frozen=True):
    """Client -> relay: send me OBSERVED with this nonce from your second port, unasked there."""

    nonce: Bytes8


class SecondPort(msgspec.Struct, frozen=True):
    """Relay -> client: I have a second port, with this number."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


NO_TICKET = bytes(32)


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """Relay -> client: by this name you may resume our session, once. The key to it is not sent.

    Later ones have the name `NO_TICKET`, and tell the load only.
    """

    ticket: Bytes32
    load: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """Percent of what the relay can do that it does now."""


class Registration(msgspec.Struct, frozen=True):
    """An invitation that a relay is to know: its id, and for how many seconds from now."""

    id: Bytes32
    seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_INVITATION_SECONDS)]


class Invite(msgspec.Struct, kw_only=True, frozen=True):
    """Client -> relay: let whoever shows one of these ids in as my guest, and those of `remove` no more."""

    add: Annotated[list[Registration], msgspec.Meta(max_length=MAX_INVITATIONS)] = []
    remove: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_INVITATIONS)] = []


class Invited(msgspec.Struct, frozen=True):
    """Relay -> client: these ids of an Invite are not known here, for the reason `refused`."""

    ids: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_INVITATIONS)]
    refused: Text


class Leave(msgspec.Struct, frozen=True):
    """Relay -> client: I am about to go; take your peers elsewhere, then close our session."""


class CandidateAddress(msgspec.Struct, kw_only=True, frozen=True):
    """One underlay address of the sender; `host` is IPv6, or IPv4 in its mapped form."""

    host: Bytes16
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    kind: Text
    """local, observed, mapped, static or peer; others are kept and shown."""


class Candidates(msgspec.Struct, kw_only=True, frozen=True):
    """Peer -> peer: where I might be reached. One with a higher `sequence` replaces the list before."""

    sequence: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    addresses: Annotated[list[CandidateAddress], msgspec.Meta(max_length=MAX_CANDIDATES)] = []
    nat: Text = ""
    """How my NAT maps and filters, as far as I know (RFC 4787)."""


class Tried(msgspec.Struct, kw_only=True, frozen=True):
    """What became of one address of the receiver."""

    address: Text
    state: Text
    detail: Text = ""


class PathView(msgspec.Struct, kw_only=True, frozen=True):
    """Peer -> peer: the path that my frames take to you, why, and what I tried. For people only."""

    path: Text
    reason: Text
    tried: Annotated[list[Tried], msgspec.Meta(max_length=MAX_CANDIDATES)] = []
    nat: Text = ""


class RekeyAsk(msgspec.Struct, frozen=True):
    """Responder -> initiator: begin with the keys of `epoch`, please."""

    epoch: Epoch


class RekeyOffer(msgspec.Struct, frozen=True):
    """Initiator -> responder: its half of the keys of `epoch`; both signatures follow the map."""

    epoch: Epoch
    share: Share
    lanes: Lanes
    """Where the initiator receives in that epoch."""


class RekeyAnswer(msgspec.Struct, frozen=True):
    """Responder -> initiator: the other half; both signatures follow the map."""

    epoch: Epoch
    share: Share
    lanes: Lanes
    """Where the responder receives in that epoch."""


class RevocationNews(msgspec.Struct, frozen=True):
    """Either way, to peers and relays: the newest revocation list that the sender has."""

    document: Annotated[bytes, msgspec.Meta(max_length=MAX_MESSAGE - 256)]
    """As the authority signed it (`membership/revocation.py`)."""


class Acquaintance(msgspec.Struct, frozen=True):
    """A member that the sender knows, and the first 8 bytes of its certificate's fingerprint."""

    node: Bytes32
    certificate: Bytes8


class Roster(msgspec.Struct, frozen=True):
    """Peer -> peer of one network: members that I know, and of which no relay of the network tells you."""

    members: Annotated[list[Acquaintance], msgspec.Meta(max_length=MAX_ROSTER)]


class CertificateAsked(msgspec.Struct, frozen=True):
    """Client -> relay or peer: what have these members of our network shown you?"""

    nodes: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_ASKED)]


class CertificateShown(msgspec.Struct, frozen=True):
    """The answer: the membership field of this member's HELLO, as it came."""

    node: Bytes32
    membership: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)]


class Join(msgspec.Struct, frozen=True):
    """Joiner -> inviter: I know the secret (`membership/token.py`), in this very session; let me in."""

    proof: Bytes32


class JoinWait(msgspec.Struct, frozen=True):
    """Inviter -> joiner: I know it too; a person has to say yes, so stay, or come again."""

    proof: Bytes32


class Joined(msgspec.Struct, kw_only=True, frozen=True):
    """Inviter -> joiner: I know it too; you are a member. Documents as `membership` has them."""

    proof: Bytes32
    network: Annotated[bytes, msgspec.Meta(max_length=MAX_NETWORK)]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_DOCUMENT)]
    delegation: Annotated[bytes, msgspec.Meta(max_length=MAX_DOCUMENT)]


class JoinRefused(msgspec.Struct, frozen=True):
    """Inviter -> joiner: no; `reason` is for programs, `text` for people."""

    reason: Text
    text: Text


class RenewAsk(msgspec.Struct, frozen=True):
    """Peer -> peer that renews: the next certificate, please, of the one that I have shown."""


class Renewal(msgspec.Struct, frozen=True):
    """Peer -> peer: the next certificate and what it rests on; or `refused` says why not."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)] = b""
    delegation: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)] = b""
    basis: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)] = b""
    refused: Text = ""


class ShownMembership(msgspec.Struct, frozen=True):
    """Either way, client -> peers and relays: my `membership` of HELLO or CHALLENGE is this one now."""

    shown: Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)]


class NetworkNews(msgspec.Struct, frozen=True):
    """Either way, to peers and relays: the network, with the newest key of its authority that I know."""

    document: Annotated[bytes, msgspec.Meta(max_length=MAX_NETWORK)]
    """With its links (`membership/rotation.py`)."""


Message = (
    Hello | Challenge | Response | Established
    | Interest | Present | Absent | Open | Call | Answer | Opened | Close
    | NatTest | SecondPort | Ticket | Invite | Invited | Leave
    | Candidates | PathView
    | RekeyAsk | RekeyOffer | RekeyAnswer
    | RevocationNews | Join | JoinWait | Joined | JoinRefused | Roster | CertificateAsked | CertificateShown
    | RenewAsk | Renewal | ShownMembership | NetworkNews
)  # fmt: skip

REGISTRY: dict[MessageType, type[Any]] = {
    MessageType.HELLO: Hello,
    MessageType.CHALLENGE: Challenge,
    MessageType.RESPONSE: Response,
    MessageType.ESTABLISHED: Established,
    MessageType.INTEREST: Interest,
    MessageType.PRESENT: Present,
    MessageType.ABSENT: Absent,
    MessageType.OPEN: Open,
    MessageType.CALL: Call,
    MessageType.ANSWER: Answer,
    MessageType.OPENED: Opened,
    MessageType.CLOSE: Close,
    MessageType.NAT_TEST: NatTest,
    MessageType.SECOND_PORT: SecondPort,
    MessageType.TICKET: Ticket,
    MessageType.INVITE: Invite,
    MessageType.INVITED: Invited,
    MessageType.LEAVE: Leave,
    MessageType.CANDIDATES: Candidates,
    MessageType.PATH_VIEW: PathView,
    MessageType.REKEY_ASK: RekeyAsk,
    MessageType.REKEY_OFFER: RekeyOffer,
    MessageType.REKEY_ANSWER: RekeyAnswer,
    MessageType.REVOCATION_NEWS: RevocationNews,
    MessageType.JOIN: Join,
    MessageType.JOIN_WAIT: JoinWait,
    MessageType.JOINED: Joined,
    MessageType.JOIN_REFUSED: JoinRefused,
    MessageType.ROSTER: Roster,
    MessageType.CERTIFICATE_ASKED: CertificateAsked,
    MessageType.CERTIFICATE_SHOWN: CertificateShown,
    MessageType.RENEW_ASK: RenewAsk,
    MessageType.RENEWAL: Renewal,
    MessageType.MEMBERSHIP: ShownMembership,
    MessageType.NETWORK_NEWS: NetworkNews,
}
HANDSHAKE = frozenset(
    (MessageType.HELLO, MessageType.CHALLENGE, MessageType.RESPONSE, MessageType.ESTABLISHED)
)
"""What may come before a session is established, and nothing else."""
COMPOSITE_SIGNATURE_SIZE = 64 + 4627
"""Ed25519 (RFC 8032) and ML-DSA-87 (FIPS 204, table 2)."""
PROOF_SIZE: dict[MessageType, int] = {
    MessageType.HELLO: 64,
    MessageType.CHALLENGE: 64,
    MessageType.RESPONSE: 32,
    MessageType.ESTABLISHED: 32,
    MessageType.REKEY_OFFER: COMPOSITE_SIGNATURE_SIZE,
    MessageType.REKEY_ANSWER: COMPOSITE_SIGNATURE_SIZE,
}
_TYPE_OF = {struct: message_type for message_type, struct in REGISTRY.items()}
_DECODERS = {message_type: msgspec.msgpack.Decoder(struct) for message_type, struct in REGISTRY.items()}
_encoder = msgspec.msgpack.Encoder()


def encode_body(message: Message) -> bytes:
    """The MessagePack map of a message, without header and proof."""
    return _encoder.encode(message)


def encode(message: Message, proof: bytes = b"") -> bytes:
    """A whole message: header, map and, for the handshake, its proof."""
    return frame(_TYPE_OF[type(message)], encode_body(message) + proof)


def frame(message_type: MessageType, body: bytes) -> bytes:
    """Header and body of a message."""
    return bytes((message_type,)) + len(body).to_bytes(3, "big") + body


def decode(message_type: MessageType, body: bytes) -> tuple[Message, bytes]:
    """The message and its proof (empty where it has none). Raises BadPacket("malformed_message")."""
    proof_size = PROOF_SIZE.get(message_type, 0)
    if len(body) < proof_size:
        raise BadPacket("malformed_message")
    split = len(body) - proof_size
    try:
        message: Message = _DECODERS[message_type].decode(body[:split])
    except UNDECODABLE:
        raise BadPacket("malformed_message") from None
    return message, body[split:]

"""Whatever bytes a stream brings, in whatever pieces, they become the same messages within the limit, each
of which encodes to what it was decoded from, or BadPacket.
"""

from __future__ import annotations

from fuzz.traffic import handshake_messages
from shadowmesh.errors import BadPacket
from shadowmesh.wire import messages
from shadowmesh.wire.messages import (
    Absent,
    Acquaintance,
    Answer,
    Call,
    CandidateAddress,
    Candidates,
    CertificateAsked,
    CertificateShown,
    Close,
    Interest,
    Invite,
    Invited,
    Join,
    Joined,
    JoinRefused,
    JoinWait,
    Leave,
    Message,
    MessageType,
    NatTest,
    NetworkNews,
    Open,
    Opened,
    PathView,
    Present,
    Registration,
    RekeyAnswer,
    RekeyAsk,
    RekeyOffer,
    Renewal,
    RenewAsk,
    RevocationNews,
    Roster,
    SecondPort,
    ShownMembership,
    Ticket,
    Tried,
)
from shadowmesh.wire.reassembly import Reassembler

COVERS = ("shadowmesh.wire.messages", "shadowmesh.wire.reassembly")
NODE, ID, TEXT = b"n" * 32, b"r" * 8, b"document"
SENT: tuple[Message, ...] = (
    Interest(add=[bytes(32)] * 5, remove=[b"r" * 32]),
    Present(NODE, ID, b"mark-of-"),
    Absent(NODE),
    Open(NODE, ID),
    Call(NODE, ID, b"i" * 32, "192.0.2.7:4433"),
    Answer(ID, ID),
    Opened(ID, refused="the node is busy"),
    Close(ID),
    NatTest(ID),
    SecondPort(4434),
    Ticket(b"t" * 32, 17),
    Invite(add=[Registration(NODE, 3600)], remove=[NODE]),
    Invited([NODE], "this relay knows too many invitations"),
    Leave(),
    Candidates(sequence=3, addresses=[CandidateAddress(host=bytes(16), port=4433, kind="local")], nat="easy"),
    PathView(path="direct", reason="it is the fastest", tried=[Tried(address="192.0.2.7:1", state="failed")]),
    RekeyAsk(7),
    RekeyOffer(7, bytes(1600), [ID] * 8),
    RekeyAnswer(7, bytes(1600), [ID] * 8),
    RevocationNews(TEXT),
    Roster([Acquaintance(NODE, ID)]),
    CertificateAsked([NODE]),
    CertificateShown(NODE, TEXT),
    Join(NODE),
    JoinWait(NODE),
    Joined(proof=NODE, network=TEXT, certificate=TEXT, delegation=TEXT),
    JoinRefused("expired", "the invitation has ended"),
    RenewAsk(),
    Renewal(TEXT, TEXT, TEXT),
    ShownMembership(TEXT),
    NetworkNews(TEXT),
)
SEEDS = [b"\0" + one for one in (*handshake_messages(), *(messages.encode(message) for message in SENT))]
SEEDS += [b"\x10" + messages.encode(SENT[0]) + messages.encode(SENT[2])]


def collected(pieces: list[bytes]) -> tuple[list[tuple[MessageType, bytes]], str]:
    """What a stream becomes, and the reason of its end."""
    reassembler, found = Reassembler(), list[tuple[MessageType, bytes]]()
    try:
        for piece in pieces:
            found += reassembler.feed_untrusted(piece)
            assert len(reassembler._buffer) <= reassembler.limit + messages.HEADER_SIZE
    except BadPacket as error:
        return found, error.reason
    return found, ""


def target(data: bytes) -> None:
    """The first byte says where the stream is cut in two; the rest is the stream."""
    cut, stream = data[0] if data else 0, data[1:]
    found, reason = collected([stream])
    pieces, same = collected([stream[:cut], stream[cut:]])
    assert reason == same
    assert reason or pieces == found
    for message_type, body in pieces:
        try:
            message, proof = messages.decode(message_type, body)
        except BadPacket:
            continue
        again = messages.encode(message, proof)
        assert again[0] == message_type
        assert messages.decode(message_type, again[messages.HEADER_SIZE :]) == (message, proof)
        assert len(proof) == messages.PROOF_SIZE.get(message_type, 0)

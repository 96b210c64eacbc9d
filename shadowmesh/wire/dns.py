"""The part of DNS messages that an authoritative server of a small zone needs: questions in, answers out.

    header     id (2) | QR, opcode, AA, TC, RD (1) | RA, Z, AD, CD, rcode (1) | 4 counts (2 each)     12 bytes
    question   labels: length (1) and bytes, up to a length of 0 | type (2) | class (2)
    record     name | type (2) | class (2) | TTL (4) | length of data (2) | data
    OPT        00 | 41 (2) | size of UDP that the sender takes (2) | rcode's upper bits, version (2)
               DO and 15 zero bits (2) | length of options (2) | options

All integers are big-endian. Source: RFC 1035 section 4, RFC 6891 section 6.1. Names here are tuples of labels
(bytes, lower case), the root's label left out. Neither compressed names nor records but OPT are read: a
question has nothing before it that it could point to. What is asked, and what the answer is, is no matter of
this module.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from shadowmesh.errors import BadPacket

Labels = tuple[bytes, ...]

PORT = 53
HEADER_SIZE = 12
MAX_PLAIN = 512
"""Bytes of an answer by UDP to whoever says nothing of sizes. Source: RFC 1035 section 2.3.4."""
MAX_UDP = 1232
"""Bytes of any by UDP: what IPv6 carries everywhere without fragments (1280 less 48)."""
MAX_MESSAGE = 65535
"""By TCP, which puts the length (2 bytes) in front. Source: RFC 1035 section 4.2.2."""
MAX_NAME = 255
MAX_LABEL = 63

A, NS, SOA, PTR, AAAA, OPT, ANY = 1, 2, 6, 12, 28, 41, 255
IN = 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 3, 4, 5, 16
"""Response codes. Source: RFC 1035 section 4.1.1, RFC 6891 section 9."""
MALFORMED = "dns_malformed"

_HEADER = struct.Struct(">HBBHHHH")
_FIXED = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_OPT = struct.Struct(">BHHBBHH")
_QR, _OPCODE, _AA, _TC, _RD = 0x80, 0x78, 0x04, 0x02, 0x01
_CD = 0x10
_DO = 0x8000
_THE_QUESTION = b"\xc0\x0c"
"""A pointer to the name of the question, right behind the header."""


class Edns(NamedTuple):
    """The OPT record of a question: bytes of UDP that the asker takes, version, and whether DO is set."""

    size: int
    version: int
    dnssec: bool


class Question(NamedTuple):
    """A message that asks one thing. `asked` is the question as it came, in its own case."""

    id: int
    recursion: bool
    unchecked: bool
    """The bits RD and CD, which go back as they came."""
    name: Labels
    type: int
    klass: int
    asked: bytes
    edns: Edns | None


class Record(NamedTuple):
    """One of an answer; `name` None is the name that was asked for."""

    name: Labels | None
    type: int
    ttl: int
    data: bytes


def parse_untrusted(data: bytes) -> Question:
    """Take a question apart. Raises BadPacket(MALFORMED)."""
    if not HEADER_SIZE <= len(data) <= MAX_MESSAGE:
        raise BadPacket(MALFORMED)
    number, high, low, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if high & (_QR | _OPCODE) or questions != 1 or answers or authorities or additional > 1:
        raise BadPacket(MALFORMED)
    name, end = _name(data, HEADER_SIZE)
    if len(data) < end + _FIXED.size:
        raise BadPacket(MALFORMED)
    kind, klass = _FIXED.unpack_from(data, end)
    end += _FIXED.size
    edns = _edns(data[end:]) if additional else None
    if not additional and len(data) != end:
        raise BadPacket(MALFORMED)
    return Question(
        id=number,
        recursion=bool(high & _RD),
        unchecked=bool(low & _CD),
        name=name,
        type=kind,
        klass=klass,
        asked=data[HEADER_SIZE:end],
        edns=edns,
    )


def _name(data: bytes, at: int) -> tuple[Labels, int]:
    """The name at `at`, and where it ends."""
    labels: list[bytes] = []
    first = at
    while at < len(data):
        length = data[at]
        at += 1
        if at + length - first > MAX_NAME or length > MAX_LABEL:  # pointers too have a "length" above 63
            break
        if not length:
            return tuple(labels), at
        label = data[at : at + length]
        at += length
        labels.append(label.lower())
    raise BadPacket(MALFORMED)


def _edns(data: bytes) -> Edns:
    """The only record behind the question must be an OPT, and the last of the message."""
    if len(data) < _OPT.size:
        raise BadPacket(MALFORMED)
    root, kind, size, _, version, flags, length = _OPT.unpack_from(data)
    if root or kind != OPT or len(data) != _OPT.size + length:
        raise BadPacket(MALFORMED)
    return Edns(size, version, bool(flags & _DO))


def packed(name: Labels) -> bytes:
    """A name as it stands in a record."""
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def soa(server: Labels, person: Labels, serial: int, ttl: int) -> bytes:
    """The data of an SOA record; `ttl` seconds for all its times, of which only the last means something
    here.
    """
    return packed(server) + packed(person) + struct.pack(">5I", serial, ttl, ttl, ttl, ttl)


def answer(
    question: Question,
    rcode: int,
    most: int,
    answers: Sequence[Record] = (),
    authority: Sequence[Record] = (),
) -> bytes:
    """The reply, of `most` bytes at most: what does not fit is left out as a whole, and TC is set.

    It is authoritative if it is about a name of ours (NOERROR, NXDOMAIN).
    """
    edns = _OPT.pack(0, OPT, MAX_UDP, rcode >> 4, 0, _DO * question.edns.dnssec, 0) if question.edns else b""
    body = b"".join(map(_record, [*answers, *authority]))
    counts = (len(answers), len(authority))
    high = _QR | question.recursion * _RD | (rcode in (NOERROR, NXDOMAIN)) * _AA
    if HEADER_SIZE + len(question.asked) + len(body) + len(edns) > most:
        body, counts, high = b"", (0, 0), high | _TC
    low = question.unchecked * _CD | rcode & 0xF
    return _HEADER.pack(question.id, high, low, 1, *counts, bool(edns)) + question.asked + body + edns


def complaint_untrusted(data: bytes) -> bytes | None:
    """NOTIMP for another opcode, FORMERR for what else is no question; None for what may be an answer itself.

    The header alone: what follows it is for the opcode to say.
    """
    if len(data) < HEADER_SIZE or data[2] & _QR:
        return None
    number, high, *_ = _HEADER.unpack_from(data)
    rcode = NOTIMP if high & _OPCODE else FORMERR
    return _HEADER.pack(number, _QR | high & (_OPCODE | _RD), rcode, 0, 0, 0, 0)


def room(question: Question) -> int:
    """Bytes that an answer by UDP may have."""
    return MAX_PLAIN if question.edns is None else min(max(MAX_PLAIN, question.edns.size), MAX_UDP)


def _record(record: Record) -> bytes:
    name = _THE_QUESTION if record.name is None else packed(record.name)
    return name + _RECORD.pack(record.type, IN, record.ttl, len(record.data)) + record.data

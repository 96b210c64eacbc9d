"""Whatever bytes are asked, at most one answer comes, no larger than it may be, which another implementation
reads as one to just that question, with records of our zones only, and none to what may itself be an answer.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from shadowmesh.overlay.names import Zone
from shadowmesh.wire.dns import HEADER_SIZE, MAX_MESSAGE, MAX_UDP

COVERS = ("shadowmesh.overlay.names", "shadowmesh.wire.dns")
MEMBERS = {
    "alice": ["10.77.0.1", "fd77::1"],
    "bob": ["10.77.0.2", "192.0.2.2"],
    "many": [f"fd77::1:{number:x}" for number in range(60)],
}
PREFIXES = [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/64")]
ZONE = Zone("home.mesh", "alice", MEMBERS, PREFIXES)
TOPS = [
    dns.name.from_text(text) for text in ("home.mesh", "77.10.in-addr.arpa", f"{'0.' * 12}7.7.d.f.ip6.arpa")
]
SLOW = 0.5
"""Seconds that no question may take, on however busy a machine; the longest takes 0.001."""

_BOB = "03626f62 04686f6d65 046d657368 00"
HELD = [
    bytes.fromhex(text)
    for text in (
        # dig 9.18, glibc 2.36, systemd-resolved 252 (with EDNS, and after a server without it).
        f"d313 0120 0001 0000 0000 0001 {_BOB} 0001 0001"
        " 00 0029 04d0 0000 0000 000c 000a 0008 ebcefdd1d0756958",
        f"1762 0100 0001 0000 0000 0000 {_BOB} 0001 0001",
        f"d954 0100 0001 0000 0000 0001 {_BOB} 001c 0001 00 0029 ffe4 0000 0000 0000",
        f"d9ff 0100 0001 0000 0000 0000 {_BOB} 001c 0001",
    )
]


def _query(name: str, kind: str, number: int, **more: Any) -> bytes:
    return dns.message.make_query(name, kind, id=number, **more).to_wire()


SEEDS = [
    *(b"\0" + one for one in HELD),
    b"\0" + _query("many.home.mesh", "AAAA", 7, use_edns=0, payload=1472, want_dnssec=True),
    b"\0" + _query("BOB.home.mesh", "A", 8),
    b"\1" + _query("many.home.mesh", "ANY", 9),
    b"\0" + _query("many.home.mesh", "AAAA", 9),
    b"\0" + _query("home.mesh", "SOA", 1, use_edns=0),
    b"\0" + _query("home.mesh", "DS", 2, use_edns=0, want_dnssec=True),
    b"\0" + _query("2.0.77.10.in-addr.arpa", "PTR", 3),
    b"\0" + _query("0.77.10.in-addr.arpa", "PTR", 4),
    b"\0" + _query(ipaddress.ip_address("fd77::1").reverse_pointer, "PTR", 5),
    b"\0" + _query("relay.example.net", "A", 6, use_edns=0),
    b"\1" + _query("home.mesh", "AXFR", 10),
    b"\0" + _query("version.bind", "TXT", 11, rdclass="CH"),
    b"\0" + _query("x.home.mesh", "A", 12, use_edns=1),
    b"\0" + dns.message.make_response(dns.message.make_query("bob.home.mesh", "A", id=13)).to_wire(),
]


def target(data: bytes) -> None:
    """The first byte says whether it comes by TCP."""
    by_tcp, data = bool(data[:1] and data[0] & 1), data[1:]
    began = time.thread_time()
    reply = ZONE.handle_untrusted(data, by_tcp)
    assert time.thread_time() - began < SLOW
    if reply.data is None:
        assert reply.outcome == "malformed"
        assert len(data) < HEADER_SIZE or data[2] & 0x80
        return
    assert reply.data[:2] == data[:2]
    assert len(reply.data) <= (MAX_MESSAGE if by_tcp else MAX_UDP)
    answer = dns.message.from_wire(reply.data)
    assert answer.flags & dns.flags.QR
    if reply.outcome == "malformed":
        expected = dns.rcode.NOTIMP if data[2] & 0x78 else dns.rcode.FORMERR
        assert (answer.rcode(), len(reply.data)) == (expected, HEADER_SIZE)
        return
    assert answer.question == dns.message.from_wire(data, ignore_trailing=True, question_only=True).question
    told = answer.answer + answer.authority
    if reply.outcome == "refused":
        assert not told
        assert answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        return
    assert answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    name = answer.question[0].name
    assert any(name.is_subdomain(top) for top in TOPS)
    assert all(one.name == name or one.name in TOPS for one in told)
    assert told or answer.flags & dns.flags.TC
    assert not (answer.rcode() == dns.rcode.NXDOMAIN and answer.answer)

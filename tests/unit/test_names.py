"""The zone of a network, asked and read by another implementation (dnspython)."""

from __future__ import annotations

import ipaddress

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.overlay.names import MAX_REVERSE, TTL, Reply, Zone, reverse_zones
from shadowmesh.wire.dns import HEADER_SIZE, MAX_UDP, parse_untrusted

MANY = [f"fd77::1:{number:x}" for number in range(64)]
HOSTS = {
    "alice": ["10.77.0.1", "fd77::1"],
    "bob": ["10.77.0.2", "fd77::2"],
    "far": ["192.0.2.9"],
    "many": MANY,
}
ZONE = Zone("mesh", "alice", HOSTS, [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/64")])


def ask(question: dns.message.Message, by_tcp: bool = False, zone: Zone = ZONE) -> dns.message.Message:
    reply = zone.handle_untrusted(question.to_wire(), by_tcp)
    assert reply.data is not None
    answer = dns.message.from_wire(reply.data)
    assert question.is_response(answer)
    assert not answer.flags & dns.flags.RA
    return answer


def look_up(name: str, kind: str, zone: Zone = ZONE) -> tuple[str, list[str]]:
    answer = ask(dns.message.make_query(name, kind), zone=zone)
    assert all(one.ttl == TTL for one in answer.answer + answer.authority)
    code = dns.rcode.to_text(answer.rcode())
    if not answer.answer and code in ("NOERROR", "NXDOMAIN"):
        assert [one.rdtype for one in answer.authority] == [dns.rdatatype.SOA], "RFC 2308 section 3"
        assert answer.flags & dns.flags.AA
    return code, [record.to_text() for one in answer.answer for record in one]


@pytest.mark.parametrize(
    ("name", "kind", "code", "records"),
    [
        ("bob.mesh", "A", "NOERROR", ["10.77.0.2"]),
        ("BoB.MeSh", "AAAA", "NOERROR", ["fd77::2"]),
        ("bob.mesh", "ANY", "NOERROR", ["10.77.0.2", "fd77::2"]),
        ("bob.mesh", "MX", "NOERROR", []),
        ("far.mesh", "AAAA", "NOERROR", []),
        ("carol.mesh", "A", "NXDOMAIN", []),
        ("www.bob.mesh", "A", "NXDOMAIN", []),
        ("mesh", "A", "NOERROR", []),
        ("mesh", "SOA", "NOERROR", [f"alice.mesh. hostmaster.mesh. 1 {TTL} {TTL} {TTL} {TTL}"]),
        ("mesh", "NS", "NOERROR", ["alice.mesh."]),
        ("2.0.77.10.in-addr.arpa", "PTR", "NOERROR", ["bob.mesh."]),
        ("2.0.77.10.in-addr.arpa", "A", "NOERROR", []),
        ("3.0.77.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("0.77.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("1.77.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("77.10.in-addr.arpa", "NS", "NOERROR", ["alice.mesh."]),
        (dns.reversename.from_address("fd77::2").to_text(), "PTR", "NOERROR", ["bob.mesh."]),
        (dns.reversename.from_address("fd77::3").to_text(), "PTR", "NXDOMAIN", []),
        ("9.2.0.192.in-addr.arpa", "PTR", "REFUSED", []),
        ("10.in-addr.arpa", "PTR", "REFUSED", []),
        ("relay.example.net", "A", "REFUSED", []),
        ("xmesh", "A", "REFUSED", []),
        ("mesh.example.net", "A", "REFUSED", []),
        (".", "NS", "REFUSED", []),
        ("mesh", "AXFR", "REFUSED", []),
        ("mesh", "IXFR", "REFUSED", []),
    ],
)
def test_answers(name: str, kind: str, code: str, records: list[str]) -> None:
    assert look_up(name, kind) == (code, records)


def test_a_domain_of_several_labels_and_a_prefix_of_one_address() -> None:
    zone = Zone("home.example.net", "a", {"a": ["10.77.0.1"]}, [ipaddress.ip_network("10.77.0.1/32")])
    assert look_up("a.home.example.net", "A", zone) == ("NOERROR", ["10.77.0.1"])
    assert look_up("example.net", "A", zone) == ("REFUSED", [])
    assert look_up("1.0.77.10.in-addr.arpa", "PTR", zone) == ("NOERROR", ["a.home.example.net."])
    assert look_up("2.0.77.10.in-addr.arpa", "PTR", zone) == ("REFUSED", [])


def test_what_does_not_fit_is_asked_again_by_tcp() -> None:
    plain = dns.message.make_query("many.mesh", "AAAA")
    for question, most in ((plain, 512), (dns.message.make_query("many.mesh", "AAAA", use_edns=0), MAX_UDP)):
        cut = ask(question)
        assert cut.flags & dns.flags.TC
        assert not cut.answer
        assert len(cut.to_wire()) <= most
        whole = ask(question, by_tcp=True)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) == len(MANY)


def test_the_room_that_is_offered_is_used_up_to_our_own_limit() -> None:
    zone = Zone(
        "mesh", "a", {"some": MANY[:30], "few": MANY[:9]}, []
    )  # 28 bytes each: more than 512, less than 1232
    small = dns.message.make_query("some.mesh", "AAAA", use_edns=0, payload=600)
    large = dns.message.make_query("some.mesh", "AAAA", use_edns=0, payload=4096)
    false = dns.message.make_query("few.mesh", "AAAA", use_edns=0, payload=100)
    all_of_them = dns.message.make_query("many.mesh", "AAAA", use_edns=0, payload=4096)
    assert ask(small, zone=zone).flags & dns.flags.TC
    assert len(ask(large, zone=zone).answer[0]) == 30
    assert len(ask(large, zone=zone).to_wire()) <= MAX_UDP
    assert len(ask(false, zone=zone).answer[0]) == 9, "RFC 6891 section 6.2.3: below 512 means 512"
    assert ask(all_of_them).flags & dns.flags.TC


def test_edns() -> None:
    plain = ask(dns.message.make_query("bob.mesh", "A"))
    assert plain.edns < 0
    question = dns.message.make_query("bob.mesh", "A", use_edns=0, want_dnssec=True, payload=100)
    question.use_edns(
        0, dns.flags.DO, 100, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8 bytes.")]
    )
    answer = ask(question)
    assert (answer.edns, answer.payload, answer.ednsflags & dns.flags.DO) == (0, MAX_UDP, dns.flags.DO)
    newer = ask(dns.message.make_query("bob.mesh", "A", use_edns=1))
    assert (newer.rcode(), newer.edns) == (dns.rcode.BADVERS, 0)


def test_bits_go_back_as_they_came() -> None:
    question = dns.message.make_query("bob.mesh", "A", flags=dns.flags.CD)
    answer = ask(question)
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.CD
    question.flags = dns.flags.RD
    assert ask(question).flags == dns.flags.QR | dns.flags.AA | dns.flags.RD


def test_other_opcodes_and_classes() -> None:
    notify = dns.message.make_query("mesh", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert ask(notify).rcode() == dns.rcode.NOTIMP
    assert not ask(notify).question  # what is in the sections of another opcode, we can't know
    chaos = dns.message.make_query("version.bind", "TXT", rdclass=dns.rdataclass.CH)
    assert ask(chaos).rcode() == dns.rcode.REFUSED
    inside = dns.message.make_query("bob.mesh", "A", rdclass=dns.rdataclass.CH)
    assert ask(inside).rcode() == dns.rcode.REFUSED


WIRE = dns.message.make_query("bob.mesh", "A", use_edns=0, id=0x1234).to_wire()


@pytest.mark.parametrize(
    "wire",
    [
        WIRE[:-1],
        WIRE + b"\0",
        WIRE[:5] + b"\2" + WIRE[6:],  # two questions
        WIRE[:5] + b"\0" + WIRE[6:],  # none
        WIRE[:7] + b"\1" + WIRE[8:],  # an answer
        WIRE[:9] + b"\1" + WIRE[10:],  # an authority
        WIRE[:11] + b"\2" + WIRE[12:],  # two additional records
        WIRE[:11] + b"\0" + WIRE[12:],  # none, but there is one
        WIRE[:HEADER_SIZE] + b"\xc0\x0c" + WIRE[22:],  # a name that points to itself
        WIRE[:HEADER_SIZE] + b"\x40" + b"a" * 64 + WIRE[21:],  # a label of 64
        WIRE[:HEADER_SIZE] + (b"\x3f" + b"a" * 63) * 4 + WIRE[21:],  # a name of 257
        WIRE[:HEADER_SIZE],
        WIRE[:22],
        WIRE[:-11] + b"\1a" + WIRE[-10:],
        WIRE[:-9] + b"\2" + WIRE[-8:],  # a record that is no OPT
    ],
)
def test_what_is_no_question_is_told_so(wire: bytes) -> None:
    with pytest.raises(BadPacket):
        parse_untrusted(wire)
    data, outcome = ZONE.handle_untrusted(wire, False)
    assert outcome == "malformed"
    assert data
    answer = dns.message.from_wire(data)
    assert (answer.id, answer.rcode(), len(data)) == (0x1234, dns.rcode.FORMERR, HEADER_SIZE)


@pytest.mark.parametrize("wire", [b"", WIRE[:11], WIRE[:2] + b"\x80" + WIRE[3:]])
def test_nothing_is_said_to_what_may_be_an_answer(wire: bytes) -> None:
    """Two servers that answered each other's answers would never end."""
    assert ZONE.handle_untrusted(wire, False) == Reply(None, "malformed")


def test_the_longest_name_is_taken() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert sum(len(label) + 1 for label in dns.name.from_text(name).labels) == 255
    assert look_up(name, "A") == ("REFUSED", [])


@pytest.mark.parametrize(
    ("prefix", "count", "first"),
    [
        ("10.77.0.0/16", 1, "77.10.in-addr.arpa"),
        ("10.77.0.0/24", 1, "0.77.10.in-addr.arpa"),
        ("10.77.0.0/23", 2, "0.77.10.in-addr.arpa"),
        ("10.77.0.128/25", 128, "128.0.77.10.in-addr.arpa"),
        ("10.77.128.0/17", 128, "128.77.10.in-addr.arpa"),
        ("10.77.0.9/32", 1, "9.0.77.10.in-addr.arpa"),
        ("fd77::/62", 4, "0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa"),
        ("fd77::/64", 1, "0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa"),
        ("fd77::9/128", 1, ipaddress.ip_address("fd77::9").reverse_pointer),
    ],
)
def test_reverse_zones_cover_the_prefix_and_no_more(prefix: str, count: int, first: str) -> None:
    network = ipaddress.ip_network(prefix)
    zones = reverse_zones([network])
    assert (len(zones), zones[0]) == (count, first)
    zone = Zone("mesh", "a", {}, [network])
    for inside in (network[0], network[-1]):
        assert look_up(inside.reverse_pointer, "PTR", zone)[0] != "REFUSED"
    for outside in (network[0] - 1, network[-1] + 1):
        assert look_up(outside.reverse_pointer, "PTR", zone)[0] == "REFUSED"


def test_reverse_zones_are_bounded() -> None:
    prefixes = [ipaddress.ip_network(f"10.{number}.128.0/17") for number in range(3)]
    assert len(reverse_zones(prefixes)) == MAX_REVERSE

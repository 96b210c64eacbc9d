"""The zone of a network: which names there are, and what is answered to a question.

    1  another opcode, what can't be read     NOTIMP, FORMERR by the header alone; nothing to an answer
    2  a newer EDNS                           BADVERS
    3  another class, a transfer, a name
       outside the zones                      REFUSED: nothing is ever asked or told for others
    4  the name of a member                   its addresses; NODATA for other types
    5  the top of a zone                      SOA and NS; NODATA for other types
    6  a name that others lie below           NODATA (RFC 8020: NXDOMAIN would deny those as well)
    7  all other names                        NXDOMAIN, with the SOA that says for how long (RFC 2308)

The zones are the domain, in which every member is one label, and the reverse of the overlay's prefixes. Who
is a member and which addresses are whose is decided in `shadowmesh.core`; whose questions come here, in
`shadowmesh.io`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from shadowmesh.errors import BadPacket
from shadowmesh.wire import dns
from shadowmesh.wire.dns import Labels, Question, Record

TTL = 5
"""Seconds that an answer counts: a member that was revoked is known by name no longer than that."""
MAX_REVERSE = 128
"""Reverse zones: a /17 has that many, since reverse names are cut at octets; systemd-resolved takes 256."""
_TRANSFERS = range(249, 255)
"""TKEY, TSIG, IXFR, AXFR, and two that are obsolete. Source: RFC 1035 section 3.2.3, RFC 1995, RFC 8945."""
_PERSON = b"hostmaster"

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Outcome = Literal["answered", "refused", "malformed"]


class Reply(NamedTuple):
    """What goes back, None for nothing, and what to count."""

    data: bytes | None
    outcome: Outcome


class Zone:
    """What is known now; made anew when that has changed.

    :param domain: under which the members are, without dots at the ends.
    :param own: this node's name: the server's.
    :param hosts: every member's name and addresses, this node's too. Each address is of one member only.
    :param prefixes: of the overlay, whose reverse names are ours.
    """

    def __init__(
        self, domain: str, own: str, hosts: Mapping[str, Sequence[str]], prefixes: Iterable[Prefix]
    ) -> None:
        self.hosts = hosts
        top = labels(domain)
        self._server = (own.encode(), *top)
        self._person = (_PERSON, *top)
        self._tops = {top} | {labels(text) for text in reverse_zones(prefixes)}
        self._records: dict[Labels, list[Record]] = {}
        for name, addresses in hosts.items():
            for text in addresses:
                self._add((name.encode(), *top), ipaddress.ip_address(text))

    def _add(self, name: Labels, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        kind = dns.A if address.version == 4 else dns.AAAA
        self._records.setdefault(name, []).append(Record(None, kind, TTL, address.packed))
        # Of addresses outside the prefixes too: nobody comes to see those, since that zone is not ours.
        self._records[labels(address.reverse_pointer)] = [Record(None, dns.PTR, TTL, dns.packed(name))]

    def handle_untrusted(self, data: bytes, by_tcp: bool) -> Reply:
        """The answer to a message. Raises nothing."""
        try:
            question = dns.parse_untrusted(data)
        except BadPacket:
            return Reply(dns.complaint_untrusted(data), "malformed")
        most = dns.MAX_MESSAGE if by_tcp else dns.room(question)
        rcode, top = self._judge(question)
        if top is None:
            return Reply(dns.answer(question, rcode, most), "refused")
        found = self._find(question, top)
        if found:
            return Reply(dns.answer(question, dns.NOERROR, most, found), "answered")
        denial = [self._authority(top)]
        rcode = dns.NOERROR if self._exists(question.name) else dns.NXDOMAIN
        return Reply(dns.answer(question, rcode, most, (), denial), "answered")

    def _judge(self, question: Question) -> tuple[int, Labels | None]:
        """The zone that it is about, or the reason why it is not answered."""
        if question.edns is not None and question.edns.version:
            return dns.BADVERS, None
        top = self._top_of(question.name)
        if question.klass != dns.IN or question.type in _TRANSFERS or top is None:
            return dns.REFUSED, None
        return dns.NOERROR, top

    def _find(self, question: Question, top: Labels) -> list[Record]:
        records = self._records.get(question.name, [])
        if question.name == top:
            # Of a reverse prefix that is one address, the top is a member's name too.
            records = [*records, self._authority(None), Record(None, dns.NS, TTL, dns.packed(self._server))]
        return [one for one in records if question.type in (one.type, dns.ANY)]

    def _exists(self, name: Labels) -> bool:
        if name in self._tops or name in self._records:
            return True
        return any(one[-len(name) :] == name for one in self._records)

    def _top_of(self, name: Labels) -> Labels | None:
        for start in range(len(name)):
            if name[start:] in self._tops:
                return name[start:]
        return None

    def _authority(self, top: Labels | None) -> Record:
        return Record(top, dns.SOA, TTL, dns.soa(self._server, self._person, 1, TTL))


def labels(name: str) -> Labels:
    """A name of ours as the labels that it is in a message."""
    return tuple(name.encode().split(b"."))


def reverse_zones(prefixes: Iterable[Prefix]) -> list[str]:
    """The reverse zones that make up these prefixes, the first `MAX_REVERSE`: 0.77.10.in-addr.arpa."""
    found: list[str] = []
    for prefix in prefixes:
        # RFC 1035 section 3.5, RFC 3596 section 2.5: a label is an octet of IPv4, or four bits of IPv6.
        step = 8 if prefix.version == 4 else 4
        cut = -(-prefix.prefixlen // step) * step
        for part in prefix.subnets(new_prefix=cut):
            if len(found) == MAX_REVERSE:
                return found
            pointer = part.network_address.reverse_pointer.split(".")
            found.append(".".join(pointer[(part.max_prefixlen - cut) // step :]))
    return found

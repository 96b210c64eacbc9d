"""Whose an address is: by configuration and certificates, when several claim it, and after a revocation."""

from __future__ import annotations

from collections.abc import Sequence

from shadowmesh.core.owners import Owners
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.membership.certificate import Certificate, CertificateBody
from shadowmesh.overlay.ownership import link_local, packed_prefix

MACS = {number: bytes([2, 0, 0, 0, 0, number]) for number in range(5)}
KEY = AuthorityKey.generate()


class Tables:
    """Notes what is installed, and that no address ever has two owners."""

    def __init__(self) -> None:
        self.own: list[bytes] = []
        self.prefixes: dict[int, set[bytes]] = {}
        self.flags: dict[int, set[str]] = {}
        self.bridging: set[int] = set()

    def set_own_addresses(self, addresses: Sequence[bytes]) -> None:
        self.own = list(addresses)

    def set_sources(
        self, peer: int, prefixes: Sequence[bytes], *, others: bool, dhcp: bool, router: bool
    ) -> None:
        hosts = {one for one in prefixes if one[-1] == 8 * len(one) - 8}
        for other, known in {**self.prefixes, 0: set(self.own)}.items():
            assert other == peer or not hosts & known, f"{peer} and {other} own the same"
        self.prefixes[peer] = set(prefixes)
        flags = {"others": others, "dhcp": dhcp, "router": router}
        self.flags[peer] = {name for name, value in flags.items() if value}

    def set_bridging(self, peer: int, allowed: bool) -> None:
        (self.bridging.add if allowed else self.bridging.discard)(peer)


def packed(*texts: str) -> set[bytes]:
    return {packed_prefix(text) for text in texts}


def certificate(
    serial: int, addresses: Sequence[str], routes: Sequence[str] = (), *rights: str
) -> Certificate:
    body = CertificateBody(
        network=bytes(32),
        node=bytes(32),
        name="somebody",
        addresses=list(addresses),
        routes=list(routes),
        rights=list(rights),
        not_before=0,
        not_after=1,
        serial=serial,
    )
    return Certificate.make(body, KEY)


def owners() -> tuple[Tables, Owners]:
    tables = Tables()
    return tables, Owners(tables, ["10.77.0.1/24"], MACS[0])


def own(number: int) -> str:
    return link_local(MACS[number])


def test_link_local_addresses_go_with_the_mac() -> None:
    """The example of RFC 4291 appendix A."""
    assert link_local(bytes.fromhex("34567890abcd")) == "fe80::3656:78ff:fe90:abcd"


def test_by_configuration() -> None:
    tables, made = owners()
    made.add(1, MACS[1], ["10.77.0.2", "fd77:0::2"], ["dhcp"], False)
    made.add(2, MACS[2], [], [], True)
    assert set(tables.own) == packed("10.77.0.1", own(0))
    assert tables.prefixes == {1: packed("10.77.0.2", "fd77::2", own(1)), 2: packed(own(2))}
    assert tables.flags == {1: {"dhcp"}, 2: {"others"}}
    assert not tables.bridging, "whose addresses are not known may not have stations behind it for that"
    made.add(3, MACS[3], [], ["bridge"], False)
    assert tables.bridging == {3}


def test_by_certificate() -> None:
    tables, made = owners()
    made.add(1, MACS[1], [], [], False)
    assert tables.prefixes[1] == packed(own(1))
    found = certificate(3, ["10.77.0.2/16", "fd77::2/64"], ["192.168.5.0/24"], "ra", "bridge", "unknown")
    assert made.certify(1, found) == []
    assert tables.prefixes[1] == packed("10.77.0.2", "fd77::2", "192.168.5.0/24", own(1))
    assert tables.flags[1] == {"others", "router"}
    assert tables.bridging == {1}
    assert made.may_bridge(1)
    made.certify(1, certificate(4, ["10.77.0.5/16"]))
    assert not tables.bridging
    assert not made.may_bridge(1)
    assert (tables.prefixes[1], tables.flags[1]) == (packed("10.77.0.5", own(1)), set())


def test_what_two_claim() -> None:
    tables, made = owners()
    for number in (1, 2, 3):
        made.add(number, MACS[number], ["10.77.0.9"] if number == 3 else [], [], False)
    address = "10.77.0.2/16"
    assert made.certify(2, certificate(5, [address])) == []
    assert made.certify(1, certificate(4, [address, "10.77.0.1/16", "10.77.0.9/16"])) == [
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.9",
    ]
    assert tables.prefixes[1] == packed(own(1))
    assert made.certify(1, certificate(6, [address])) == []
    assert tables.prefixes[1] == packed("10.77.0.2", own(1))
    assert tables.prefixes[2] == packed(own(2))
    assert tables.prefixes[3] == packed("10.77.0.9", own(3))


def test_who_is_revoked_owns_nothing_and_another_has_it() -> None:
    tables, made = owners()
    for number in (1, 2):
        made.add(number, MACS[number], [], ["ra"], False)
    made.certify(1, certificate(6, ["10.77.0.2/16"], ["192.168.5.0/24"], "bridge"))
    made.certify(2, certificate(5, ["10.77.0.2/16"]))
    assert tables.prefixes[2] == packed(own(2))
    for _ in range(2):
        made.withdraw(1)
        assert (tables.prefixes[1], tables.flags[1], tables.bridging) == (set(), set(), set())
        assert tables.prefixes[2] == packed("10.77.0.2", own(2))


def test_prefixes_behind_a_peer_of_the_configuration_are_its_own_until_it_is_revoked() -> None:
    tables, made = owners()
    made.add(4, MACS[4], ["10.77.0.4"], [], False, ["192.168.5.0/24"])
    assert tables.prefixes[4] >= packed("10.77.0.4", "192.168.5.0/24")
    assert tables.flags[4] == set()
    made.withdraw(4)
    assert tables.prefixes[4] == set()

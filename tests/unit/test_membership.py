"""Networks, certificates, revocation lists: what counts, and that every check refuses what it must."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket, IdentityError, NotMember
from shadowmesh.membership.authority import BACKDATE, DAY, MAX_DAYS, Authority, Ledger, Request
from shadowmesh.membership.certificate import MAX_ADDRESSES, Certificate, CertificateBody
from shadowmesh.membership.clock import KEEP_EVERY, RELEASED, SteadyClock
from shadowmesh.membership.network import Network, NetworkRelay
from shadowmesh.membership.revocation import MAX_REVOKED, RevocationList, Revocations
from shadowmesh.membership.signed import SIGNATURE_SIZE, Kind, Signed, from_text, max_size, to_text

NOW = RELEASED + 1000
KEY, OTHER_KEY = AuthorityKey.generate(), AuthorityKey.generate()
SUBNETS = [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/64")]
NETWORK = Network.make("home", SUBNETS, [NetworkRelay("relay.example.net:4433", b"r" * 32)], KEY, NOW)
OTHER = Network.make("home", SUBNETS, [], OTHER_KEY, NOW)
BOB, CAROL = b"b" * 32, b"c" * 32


def authority(network: Network = NETWORK, key: AuthorityKey = KEY) -> Authority:
    return Authority(key, network, Ledger(network=node_id_text(network.id)))


def body(**changes: Any) -> CertificateBody:
    whole = CertificateBody(
        network=NETWORK.id,
        node=BOB,
        name="bob",
        addresses=["10.77.0.1/16"],
        not_before=NOW - 10,
        not_after=NOW + 10,
        serial=1,
    )
    return msgspec.structs.replace(whole, **changes)


def signed(kind: Kind, fields: object, key: AuthorityKey = KEY) -> bytes:
    """A document of any body, in order or not."""
    struct: Any = fields
    return Signed.make(kind, struct, key).encode()


def refusal(certificate: Certificate, node: bytes = BOB, now: float = NOW) -> str:
    with pytest.raises(NotMember) as caught:
        certificate.admit(NETWORK, node, now)
    return caught.value.reason


# Documents.


def test_a_document_keeps_its_bytes_as_text() -> None:
    data = Certificate.make(body(), KEY).document
    text = to_text(data, Kind.CERTIFICATE, "certificate of bob")
    assert max(map(len, text.splitlines())) == 64
    assert from_text("whatever\n" + text, Kind.CERTIFICATE) == data


@pytest.mark.parametrize(
    "spoil", [lambda text: text * 2, lambda text: "", lambda text: text.replace("A", "!")]
)
def test_text_that_holds_no_single_document_is_refused(spoil: Any) -> None:
    text = to_text(Certificate.make(body(), KEY).document, Kind.CERTIFICATE)
    with pytest.raises(ValueError, match=r"it must hold one|damaged"):
        from_text(spoil(text), Kind.CERTIFICATE)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_a_header_that_does_not_fit_is_refused(position: int) -> None:
    data = bytearray(Certificate.make(body(), KEY).document)
    data[position] ^= 1
    with pytest.raises(BadPacket):
        Certificate.parse_untrusted(bytes(data))


def test_sizes_are_bounded_before_anything_is_decoded() -> None:
    data = Certificate.make(body(), KEY).document
    for wrong in (
        b"",
        data[: 4 + SIGNATURE_SIZE],
        data[:-1],
        data + b"\0",
        bytes(max_size(Kind.CERTIFICATE) + 1),
    ):
        with pytest.raises(BadPacket):
            Certificate.parse_untrusted(wrong)
    with pytest.raises(ValueError, match="is the limit"):
        Certificate.make(body(routes=[f"10.{i}.0.0/16" for i in range(250)] * 3), KEY)


def test_every_byte_of_a_document_is_covered_by_both_signatures() -> None:
    data = Certificate.make(body(), KEY).document
    end = len(data) - SIGNATURE_SIZE
    for position in (end, end + 63, end + 64, len(data) - 1):
        bad = bytearray(data)
        bad[position] ^= 1
        assert refusal(Certificate.parse_untrusted(bytes(bad))) == "forged"
    changed = data.replace(b"bob", b"eve")
    assert changed != data
    assert refusal(Certificate.parse_untrusted(changed)) == "forged"


def test_one_good_half_of_a_signature_is_not_enough() -> None:
    ours, theirs = Certificate.make(body(), KEY), Certificate.make(body(), OTHER_KEY)
    for signature in (
        ours.signed.signature[:64] + theirs.signed.signature[64:],
        theirs.signed.signature[:64] + ours.signed.signature[64:],
    ):
        assert refusal(Certificate(ours.body, replace(ours.signed, signature=signature))) == "forged"


def test_the_fingerprint_is_of_the_signed_body() -> None:
    """Another signature of the same body gives the same fingerprint; another body another one."""
    one, again = Certificate.make(body(), KEY), Certificate.make(body(), KEY)
    assert one.signed.signature != again.signed.signature
    assert one.fingerprint == again.fingerprint != Certificate.make(body(serial=2), KEY).fingerprint


def test_a_document_does_not_pass_for_another_kind() -> None:
    data = Certificate.make(body(), KEY).document
    as_list = bytes((Kind.REVOCATIONS,)) + data[1:]
    with pytest.raises((BadPacket, NotMember)):
        RevocationList.parse_untrusted(as_list, NETWORK)


# Certificates.


def test_a_certificate_holds_for_its_node_within_its_dates() -> None:
    certificate = Certificate.parse_untrusted(Certificate.make(body(), KEY).document)
    for now in (NOW - 10, NOW, NOW + 10):
        certificate.admit(NETWORK, BOB, now)
    assert certificate.hosts == ("10.77.0.1",)


def test_what_does_not_hold_is_refused_by_its_name() -> None:
    assert refusal(Certificate.make(body(), KEY), node=CAROL) == "wrong_node"
    assert refusal(Certificate.make(body(), KEY), now=NOW - 11) == "not_yet_valid"
    assert refusal(Certificate.make(body(), KEY), now=NOW + 11) == "expired"
    assert refusal(Certificate.make(body(), OTHER_KEY)) == "forged"
    assert refusal(Certificate.make(body(network=OTHER.id), OTHER_KEY)) == "wrong_network"
    assert refusal(Certificate.make(body(addresses=["192.0.2.1/24"]), KEY)) == "wrong_address"
    assert refusal(Certificate.make(body(critical=["quantum"]), KEY)) == "unknown_critical"


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": ["10.77.0.300/16"]},
        {"addresses": ["10.77.0.1/16"] * (MAX_ADDRESSES + 1)},
        {"routes": ["192.168.5.1/24"]},
        {"name": "Bob!"},
        {"groups": [""]},
        {"rights": ["no such thing"]},
        {"node": b"short"},
        {"not_before": NOW + 11},
        {"serial": 0},
        {"critical": "admin"},
    ],
)
def test_values_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadPacket):
        Certificate.parse_untrusted(signed(Kind.CERTIFICATE, body(**changes)))


def test_a_body_that_is_no_map_or_lacks_fields_is_refused() -> None:
    for wrong in ([1, 2], {"name": "bob"}, {"name": b"\xff"}, None):
        with pytest.raises(BadPacket):
            Certificate.parse_untrusted(signed(Kind.CERTIFICATE, wrong))


def test_unknown_fields_are_ignored() -> None:
    fields = msgspec.to_builtins(body(), builtin_types=(bytes,)) | {"new": 1}
    Certificate.parse_untrusted(signed(Kind.CERTIFICATE, fields)).admit(NETWORK, BOB, NOW)


# Networks.


def test_a_network_is_read_back() -> None:
    again = Network.parse_untrusted(NETWORK.document)
    assert again == NETWORK
    assert again.id == KEY.public.network_id != OTHER.id
    assert [str(subnet) for subnet in again.subnets] == ["10.77.0.0/16", "fd77::/64"]


def test_relays_of_a_network_may_be_reached_by_tcp_as_well() -> None:
    relays = [
        NetworkRelay("a.example.net:4433", b"a" * 32, "a.example.net:443"),
        NetworkRelay("b.example.net:4433", b"b" * 32),
    ]
    made = Network.make("home", SUBNETS, relays, KEY, NOW)
    assert list(Network.parse_untrusted(made.document).relays) == relays
    body = msgspec.msgpack.decode(Signed.parse_untrusted(made.document, Kind.NETWORK).body)
    assert [sorted(relay) for relay in body["relays"]] == [["address", "id", "tcp"], ["address", "id"]]
    rotated = made.rotated(KEY, OTHER_KEY, NOW, NOW + 86_400, 0)
    assert list(rotated.relays) == relays


def test_a_network_that_its_own_key_has_not_signed_is_refused() -> None:
    with pytest.raises(NotMember) as caught:
        Network.parse_untrusted(NETWORK.document.replace(b"home", b"hole"))
    assert caught.value.reason == "forged"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Not A Name"},
        {"subnets": []},
        {"subnets": ["10.77.0.1/16"]},
        {"relays": [{"address": "nowhere", "id": b"r" * 32}]},
        {"relays": [{"address": "relay.example.net:4433", "id": b"r" * 32, "tcp": "nowhere"}]},
        {"relays": [{"address": "relay.example.net:4433", "id": b"r" * 32, "tcp": 443}]},
        {"mldsa": bytes(2591)},
    ],
)
def test_networks_with_values_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    fields = msgspec.msgpack.decode(Signed.parse_untrusted(NETWORK.document, Kind.NETWORK).body) | changes
    with pytest.raises(BadPacket):
        Network.parse_untrusted(signed(Kind.NETWORK, fields))


def test_a_network_with_an_unknown_demand_is_refused() -> None:
    fields = msgspec.msgpack.decode(Signed.parse_untrusted(NETWORK.document, Kind.NETWORK).body)
    with pytest.raises(NotMember, match="demands"):
        Network.parse_untrusted(signed(Kind.NETWORK, fields | {"critical": ["x"]}))


def test_subnets_must_be_there_and_apart() -> None:
    for subnets in ([], [SUBNETS[0], ipaddress.ip_network("10.77.8.0/24")]):
        with pytest.raises(ValueError, match="subnets"):
            Network.make("home", subnets, [], KEY, NOW)


# The authority.


def test_addresses_are_given_out_once() -> None:
    one = authority()
    first = one.sign(Request(node=BOB, name="bob"), NOW)
    second = one.sign(Request(node=CAROL, name="carol"), NOW)
    assert first.body.addresses == ["10.77.0.1/16", "fd77::1/64"]
    assert second.body.addresses == ["10.77.0.2/16", "fd77::2/64"]
    assert (first.body.serial, second.body.serial) == (1, 2)
    assert first.body.not_before == NOW - BACKDATE
    second.admit(NETWORK, CAROL, NOW)


def test_a_new_certificate_keeps_the_addresses() -> None:
    one = authority()
    one.sign(Request(node=CAROL, name="carol"), NOW)
    one.sign(Request(node=BOB, name="bob", addresses=["10.77.9.9"]), NOW)
    again = one.sign(Request(node=BOB, name="bob", groups=["b", "a", "b"]), NOW)
    assert again.body.addresses == ["10.77.9.9/16", "fd77::2/64"]
    assert again.body.groups == ["a", "b"]
    assert [entry.name for entry in one.ledger.entries] == ["carol", "bob"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Request(node=CAROL, name="bob"), "take another"),
        (Request(node=CAROL, name="carol", addresses=["10.77.0.1"]), "belongs to another member"),
        (Request(node=CAROL, name="carol", addresses=["10.78.0.1"]), "no subnet"),
        (Request(node=CAROL, name="carol", addresses=["10.77.0.0"]), "the subnet itself"),
        (Request(node=CAROL, name="carol", addresses=["10.77.255.255"]), "the subnet itself"),
        (Request(node=CAROL, name="carol", days=0), "days"),
        (Request(node=CAROL, name="carol", days=MAX_DAYS + 1), "days"),
        (Request(node=CAROL, name="Carol"), "not one"),
    ],
)
def test_requests_that_collide_or_make_no_sense_are_refused(request_: Request, text: str) -> None:
    one = authority()
    one.sign(Request(node=BOB, name="bob"), NOW)
    before = msgspec.json.encode(one.ledger)
    with pytest.raises(ValueError, match=text):
        one.sign(request_, NOW)
    assert msgspec.json.encode(one.ledger) == before, "a refusal leaves no trace in the ledger"


def test_a_full_subnet_says_so() -> None:
    tiny = Network.make("tiny", [ipaddress.ip_network("10.1.1.0/30")], [], KEY, NOW)
    one = authority(tiny)
    for number in (1, 2):
        one.sign(Request(node=bytes((number,)) * 32, name=f"n{number}"), NOW)
    with pytest.raises(ValueError, match="no address is free"):
        one.sign(Request(node=CAROL, name="carol"), NOW)


def test_the_addresses_of_a_revoked_member_rest_until_its_certificate_has_expired() -> None:
    one = authority()
    one.sign(Request(node=BOB, name="bob", days=1), NOW)
    one.revoke("bob", NOW)
    assert one.sign(Request(node=CAROL, name="bob"), NOW).hosts[0] == "10.77.0.2"
    late = one.sign(Request(node=b"d" * 32, name="dave"), NOW + DAY + 1)
    assert late.hosts[0] == "10.77.0.1"


def test_whoever_is_revoked_does_not_come_back() -> None:
    one = authority()
    one.sign(Request(node=BOB, name="bob"), NOW)
    made = one.revoke(node_id_text(BOB).upper(), NOW)
    assert made.nodes == {BOB}
    with pytest.raises(ValueError, match="revoked for good"):
        one.sign(Request(node=BOB, name="robert"), NOW)


def test_lists_are_numbered_and_keep_what_was_revoked_before() -> None:
    one = authority()
    for name, node in (("bob", BOB), ("carol", CAROL)):
        one.sign(Request(node=node, name=name), NOW)
    first, second = one.revoke("bob", NOW), one.revoke_serial(2, NOW)
    third = one.revoke("carol", NOW)
    assert [made.number for made in (first, second, third)] == [1, 2, 3]
    assert third.nodes == {BOB, CAROL}
    assert third.serials == {2}
    assert third.valid_until > third.issued == NOW


def test_unknown_members_and_serials_are_not_revoked() -> None:
    one = authority()
    with pytest.raises(ValueError, match="no member"):
        one.revoke("bob", NOW)
    with pytest.raises(ValueError, match="no certificate"):
        one.revoke_serial(1, NOW)
    assert one.ledger.list_number == 0


def test_key_network_and_ledger_belong_together() -> None:
    for key, network, ledger in ((OTHER_KEY, NETWORK, NETWORK), (KEY, NETWORK, OTHER)):
        with pytest.raises(ValueError, match="not of one authority"):
            Authority(key, network, Ledger(network=node_id_text(ledger.id)))


# The key at rest.


def test_the_key_is_read_back_with_its_passphrase_only() -> None:
    text = KEY.encode("home", b"correct horse")
    assert text.count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert AuthorityKey.decode(text, b"correct horse").public == KEY.public
    for wrong in (b"incorrect horse", b""):
        with pytest.raises(IdentityError, match="passphrase"):
            AuthorityKey.decode(text, wrong)


def test_damaged_keys_and_short_passphrases_are_refused() -> None:
    text = KEY.encode("home", b"correct horse")
    head, _, rest = text.partition(b"\n")
    blocks = rest.split(b"-----END ENCRYPTED PRIVATE KEY-----\n")
    swapped = head + b"\n" + b"-----END ENCRYPTED PRIVATE KEY-----\n".join((blocks[1], blocks[0], b""))
    for damaged in (rest, text[:-50], swapped):
        with pytest.raises(IdentityError, match=r"damaged|in this order"):
            AuthorityKey.decode(damaged, b"correct horse")
    with pytest.raises(IdentityError, match="too short"):
        KEY.encode("home", b"123456789")


# Revocation.


def revocations(number: int, nodes: Iterable[bytes] = (), key: AuthorityKey = KEY, **changes: Any) -> bytes:
    network = changes.get("network", NETWORK)
    serials = changes.get("serials", set())
    return RevocationList.make(network, key, number, NOW, NOW + DAY, [*nodes], serials).document


def test_a_list_takes_nodes_and_single_certificates_out() -> None:
    book = Revocations(NETWORK, b"", lambda data: None)
    bob, carol = Certificate.make(body(), KEY), Certificate.make(body(node=CAROL, serial=7), KEY)
    book.refuse(bob)
    assert book.merge_untrusted(revocations(1, {BOB}))
    assert (book.revokes(bob), book.revokes(carol)) == (True, False)
    with pytest.raises(NotMember) as caught:
        book.refuse(bob)
    assert caught.value.reason == "revoked"
    assert book.merge_untrusted(revocations(2, {BOB}, serials={7}))
    assert book.revokes(carol)


def test_only_a_higher_number_counts() -> None:
    book = Revocations(NETWORK, b"", lambda data: None)
    assert book.merge_untrusted(revocations(5, {BOB}))
    for number in (5, 4, 1):
        assert not book.merge_untrusted(revocations(number))
    assert book.number == 5
    assert book.revokes(Certificate.make(body(), KEY))


def test_a_list_is_kept_before_it_counts_and_survives_a_restart() -> None:
    kept: list[tuple[bytes, int]] = []
    book = Revocations(NETWORK, b"", lambda data: kept.append((data, book.number)))
    book.merge_untrusted(revocations(3, {BOB}))
    assert [number for _, number in kept] == [0], "it was written down while the old one still counted"
    again = Revocations(NETWORK, kept[0][0], lambda data: None)
    assert again.number == 3
    assert not again.merge_untrusted(revocations(2))


def test_a_list_that_could_not_be_kept_is_not_acted_on() -> None:
    def fail(data: bytes) -> None:
        raise OSError("disk full")

    book = Revocations(NETWORK, b"", fail)
    with pytest.raises(OSError, match="disk full"):
        book.merge_untrusted(revocations(1, {BOB}))
    assert book.number == 0


def test_lists_of_others_and_forged_ones_are_refused() -> None:
    book = Revocations(NETWORK, b"", lambda data: None)
    cases = {"wrong_network": revocations(1, key=OTHER_KEY, network=OTHER)}
    good = bytearray(revocations(1, {BOB}))
    good[-1] ^= 1
    cases["forged"] = bytes(good)
    fields = {"network": NETWORK.id, "number": 1, "issued": NOW, "valid_until": NOW, "critical": ["x"]}
    cases["unknown_critical"] = signed(Kind.REVOCATIONS, fields)
    for reason, data in cases.items():
        with pytest.raises(NotMember) as caught:
            book.merge_untrusted(data)
        assert caught.value.reason == reason
    for changes in ({"number": 0}, {"nodes": [b"short"]}, {"nodes": [BOB] * (MAX_REVOKED + 1)}):
        with pytest.raises(BadPacket):
            book.merge_untrusted(signed(Kind.REVOCATIONS, {**fields, "critical": [], **changes}))
    assert book.number == 0


def test_the_largest_list_fits_and_a_larger_one_is_not_made() -> None:
    nodes = [number.to_bytes(32, "big") for number in range(MAX_REVOKED)]
    serials = range(1 << 61, (1 << 61) + MAX_REVOKED)
    made = RevocationList.make(NETWORK, KEY, 1, NOW, NOW, nodes, serials)
    assert len(made.document) < 65_536 - 100
    with pytest.raises(ValueError, match="holds"):
        RevocationList.make(NETWORK, KEY, 2, NOW, NOW, [*nodes, b"x" * 32], [])


# The clock.


def test_time_does_not_go_back() -> None:
    kept: list[float] = []
    wall = [0.0]
    clock = SteadyClock(lambda: wall[0], 0.0, kept.append)
    assert clock.now() == RELEASED
    assert clock.behind == RELEASED
    wall[0] = RELEASED + 2 * KEEP_EVERY
    assert clock.now() == wall[0]
    assert kept == [wall[0]]
    wall[0] -= KEEP_EVERY
    assert clock.now() == kept[0]
    assert clock.behind == KEEP_EVERY
    assert SteadyClock(lambda: 0.0, kept[0], kept.append).now() == kept[0], "nor over a restart"


def test_the_time_is_not_written_all_the_time() -> None:
    kept: list[float] = []
    wall = [RELEASED + 2 * KEEP_EVERY]
    clock = SteadyClock(lambda: wall[0], 0.0, kept.append)
    for _ in range(100):
        wall[0] += 60.0
        clock.now()
    assert len(kept) == 2

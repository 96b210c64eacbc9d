"""Who is let in, what is kept between two starts, and what an operator is told of a membership."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shadowmesh.config import ClientConfig, NamesSection, load_client_config
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import BadPacket, ConfigError, NotMember
from shadowmesh.io.membership import (
    CLOCK_FILE,
    check_membership,
    open_clock,
    open_guard,
    open_membership,
    with_network,
)
from shadowmesh.membership.authority import DAY, Authority, Ledger, Request
from shadowmesh.membership.clock import KEEP_EVERY, RELEASED, SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import EXPIRY_GRACE, MAX_SHOWN, Guard, Membership, Standing
from shadowmesh.membership.network import Network, NetworkRelay
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Kind, to_text
from shadowmesh.node.standing import network_status
from shadowmesh.units import Address

NOW = max(RELEASED, time.time())
KEY = AuthorityKey.generate()
NETWORK = Network.make(
    "home",
    [ipaddress.ip_network("10.77.0.0/16")],
    [NetworkRelay("[2001:db8::1]:4433", b"r" * 32)],
    KEY,
    int(NOW),
)
ALICE = Identity.generate("alice")
AUTHORITY = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
CERTIFICATE = AUTHORITY.sign(Request(node=ALICE.node_id, name="alice", groups=["admin"], days=30), NOW)
REVOKED = AUTHORITY.revoke("alice", NOW)


def at(now: float = NOW, revoked: bool = False) -> Membership:
    """Alice, by a clock that stands still."""
    clock = SteadyClock(lambda: now, 0.0, lambda _: None)
    kept = REVOKED.document if revoked else b""
    return Membership(NETWORK, Revocations(NETWORK, kept, lambda _: None), clock, Credentials(CERTIFICATE))


def reason(guard: Guard, shown: bytes, node: bytes = ALICE.node_id) -> str:
    with pytest.raises(NotMember) as caught:
        guard.check_untrusted(node, shown)
    return caught.value.reason


def test_what_a_member_shows_is_taken() -> None:
    standing = at().check_untrusted(ALICE.node_id, at(revoked=True).show())
    assert (standing.certificate.body.name, standing.revocations) == ("alice", 1)


def test_what_does_not_count_is_refused_by_name() -> None:
    shown = at().show()
    assert reason(at(), b"") == "no_certificate"
    assert reason(at(), shown, b"x" * 32) == "wrong_node"
    assert reason(at(NOW + 31 * DAY), shown) == "expired"
    assert reason(at(revoked=True), shown) == "revoked"


@pytest.mark.parametrize(
    "shown",
    [
        b"x",
        b"\x80",
        msgspec.msgpack.encode({"certificate": b"short"}),
        msgspec.msgpack.encode({"certificate": CERTIFICATE.document, "revocations": -1}),
        msgspec.msgpack.encode({"certificate": CERTIFICATE.document, "more": bytes(MAX_SHOWN)}),
    ],
)
def test_what_can_not_be_taken_apart_is_a_bad_packet(shown: bytes) -> None:
    with pytest.raises(BadPacket):
        Standing.parse_untrusted(shown)


def test_a_session_is_ended_by_revocation_at_once_and_by_expiry_after_a_day() -> None:
    standing, end = Standing(Credentials(CERTIFICATE), 0), CERTIFICATE.body.not_after + EXPIRY_GRACE
    at(end - 1).recheck(standing)
    with pytest.raises(NotMember, match="expired at"):
        at(end + 1).recheck(standing)
    with pytest.raises(NotMember, match="is revoked"):
        at(revoked=True).recheck(standing)


def core_of(member: Membership | None) -> Any:
    return SimpleNamespace(
        members=SimpleNamespace(membership=member),
        relays=[],
        peers={},
        renewals=SimpleNamespace(last_error=None),
    )


def warning(member: Membership) -> str:
    status = network_status(core_of(member), "smesh0")
    assert status is not None
    return status.warning or ""


def test_status_warns_in_time_and_names_the_clock() -> None:
    assert network_status(core_of(None), "smesh0") is None
    assert warning(at()) == ""
    assert "expires in 9.0 days" in warning(at(CERTIFICATE.body.not_after - 9 * DAY))
    assert "has expired" in warning(at(CERTIFICATE.body.not_after + 1))
    assert "clock is at least 500 s behind" in warning(at(RELEASED - 500))
    assert "this machine is revoked" in warning(at(revoked=True))


def test_a_list_past_its_date_is_told_and_still_counts() -> None:
    authority = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
    authority.sign(Request(node=b"x" * 32, name="x"), NOW)
    member = at()
    member.revocations.merge_untrusted(authority.revoke("x", NOW - 40 * DAY).document)
    assert "past its date" in warning(member)
    assert member.revocations.number == 1


# Files.


@pytest.fixture
def config(tmp_path: Path) -> ClientConfig:
    """A client of the network whose files are in its state directory."""
    (tmp_path / "home.pem").write_text(to_text(NETWORK.document, Kind.NETWORK))
    (tmp_path / "alice.pem").write_text(to_text(CERTIFICATE.document, Kind.CERTIFICATE))
    path = tmp_path / "client.yaml"
    path.write_text(
        f"node: {{name: alice, state_dir: {tmp_path}}}\n"
        f"network: {{file: {tmp_path}/home.pem, certificate: {tmp_path}/alice.pem}}\n"
    )
    return load_client_config(path)


def opened(config: ClientConfig, identity: Identity = ALICE) -> Membership:
    membership = open_membership(config, identity)
    assert membership is not None
    return membership


def test_addresses_and_relays_come_from_the_network_where_the_file_has_none(config: ClientConfig) -> None:
    whole = with_network(config, opened(config))
    assert whole.interface.addresses == ("10.77.0.1/16",)
    assert [(relay.host, relay.port, relay.id) for relay in whole.relays] == [
        ("2001:db8::1", 4433, b"r" * 32)
    ]
    own = msgspec.structs.replace(
        config, interface=msgspec.structs.replace(config.interface, addresses=("10.77.9.9/16",))
    )
    assert with_network(own, opened(own)).interface.addresses == ("10.77.9.9/16",)
    assert with_network(own, None) is own


def test_a_relay_that_the_network_names_in_our_own_domain_is_refused(config: ClientConfig) -> None:
    member = opened(config)
    for relay in (
        NetworkRelay("relay.mesh:4433", b"r" * 32),
        NetworkRelay("192.0.2.1:4433", b"r" * 32, "relay.mesh:443"),
    ):
        network = Network.make("home", NETWORK.subnets, [relay], KEY, int(NOW))
        known = Membership(network, member.revocations, member.clock, Credentials(CERTIFICATE))
        with pytest.raises(
            ConfigError, match=r"names\.domain: the network names .* set another domain than mesh"
        ):
            with_network(config, known)
        other = msgspec.structs.replace(config, names=NamesSection(domain="home.mesh"))
        assert with_network(other, known).relays


def test_where_a_relay_is_reached_by_tcp_comes_from_the_network(config: ClientConfig) -> None:
    relays = [NetworkRelay("[2001:db8::1]:4433", b"r" * 32, "[2001:db8::1]:443")]
    network = Network.make("home", NETWORK.subnets, relays, KEY, int(NOW))
    member = opened(config)
    known = Membership(network, member.revocations, member.clock, Credentials(CERTIFICATE))
    assert with_network(config, member).relays[0].tcp is None
    assert with_network(config, known).relays[0].tcp == Address("2001:db8::1", 443)
    path = Path(config.file)
    path.write_text(
        path.read_text() + f'relays: [{{address: "[2001:db8::1]:4433", id: {node_id_text(b"r" * 32)}}}]\n'
    )
    own = load_client_config(path)
    assert with_network(own, known).relays[0].tcp is None, "the file's relays are the file's alone"


def test_a_bridge_needs_the_right_in_our_own_certificate(config: ClientConfig) -> None:
    """Told with the line, before any device is touched: the others would drop every frame."""
    path = Path(config.file)
    path.write_text(path.read_text() + "interface: {bridge: br0}\n")
    config = load_client_config(path)
    with pytest.raises(ConfigError, match=r"client\.yaml:3: interface\.bridge: .* has not the right bridge"):
        with_network(config, opened(config))
    with pytest.raises(ConfigError, match=r"network sign NODE_ID --name .* --right bridge"):
        check_membership(config, ALICE)
    authority = Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))
    may = authority.sign(Request(node=ALICE.node_id, name="alice", rights=("bridge", "dhcp")), NOW)
    path.with_name("alice.pem").write_text(to_text(may.document, Kind.CERTIFICATE))
    assert with_network(config, opened(config)).interface.bridge == "br0"


def test_a_network_that_names_no_relay_needs_them_in_the_file(config: ClientConfig) -> None:
    bare = Network.make("home", NETWORK.subnets, [], KEY, int(NOW))
    member = opened(config)
    lonely = Membership(bare, member.revocations, member.clock, Credentials(CERTIFICATE))
    with pytest.raises(ConfigError, match="the network names none"):
        with_network(config, lonely)


def test_a_list_survives_a_restart_and_an_older_file(config: ClientConfig) -> None:
    opened(config).revocations.merge_untrusted(REVOKED.document)
    assert opened(config).revocations.number == 1
    assert config.network is not None
    assert open_guard(config.network.file, config.node.state_dir).revocations.number == 1


def test_a_list_that_came_with_the_network_counts_and_is_kept(config: ClientConfig) -> None:
    assert config.network is not None
    text = config.network.file.read_text()
    config.network.file.write_text(text + to_text(REVOKED.document, Kind.REVOCATIONS))
    assert opened(config).revocations.number == 1
    config.network.file.write_text(text)
    assert opened(config).revocations.number == 1


def test_a_damaged_list_stops_the_start(config: ClientConfig) -> None:
    opened(config).revocations.merge_untrusted(REVOKED.document)
    [kept] = config.node.state_dir.glob("revocations-*.pem")
    kept.write_text("nothing")
    with pytest.raises(ConfigError, match=r"revocations-.*is no revocation list"):
        open_membership(config, ALICE)


def test_what_can_not_be_written_counts_until_the_end(
    config: ClientConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    member = opened(config)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shadowmesh.io.membership.replace_file", fail)
    member.revocations.merge_untrusted(REVOKED.document)
    assert member.revocations.number == 1
    assert "No space left" in caplog.text


def test_the_certificate_of_another_machine_or_network_stops_the_start(config: ClientConfig) -> None:
    stranger = Identity.generate("bob")
    for check in (open_membership, check_membership):
        with pytest.raises(ConfigError, match="is for another NodeID"):
            check(config, stranger)
    other = AuthorityKey.generate()
    foreign = Network.make("other", NETWORK.subnets, [], other, int(NOW))
    assert config.network is not None
    config.network.file.write_text(to_text(foreign.document, Kind.NETWORK))
    with pytest.raises(ConfigError, match="of another network than other"):
        open_membership(config, ALICE)


def test_an_expired_certificate_does_not_stop_the_start(
    config: ClientConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW + 40 * DAY)
    assert opened(config).certificate.body.name == "alice"
    assert "expired at" in caplog.text


def test_the_time_is_kept_and_does_not_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW + 2 * KEEP_EVERY)
    assert open_clock(tmp_path).now() == NOW + 2 * KEEP_EVERY
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert open_clock(tmp_path).now() == pytest.approx(NOW + 2 * KEEP_EVERY, abs=1)
    (tmp_path / CLOCK_FILE).write_text("yesterday")
    with pytest.raises(ConfigError, match="is no time"):
        open_clock(tmp_path)

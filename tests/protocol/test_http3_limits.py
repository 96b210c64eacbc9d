"""What a stranger may cost the relay over HTTP/3, on virtual time; each bound must bite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from aioquic.h3.connection import H3Connection, encode_frame
from aioquic.quic.configuration import QuicConfiguration

from shadowmesh.crypto.port import (
    FOREIGN_DATA,
    FOREIGN_IDLE,
    FOREIGN_STREAM_DATA,
    FOREIGN_STREAMS,
    FOREIGN_UNI_STREAMS,
)
from shadowmesh.crypto.quic import HybridConnection
from shadowmesh.crypto.tls import FOREIGN_POLICY, PeerTicket
from shadowmesh.units import Address
from shadowmesh_relay import h3
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.http3 import REFUSED, Browser, foreign, mesh_with, stock
from tests.protocol.mesh import Mesh

NO_ERROR = 0x100
SETTINGS = encode_frame(0x4, b"")
CONTROL, ENCODER = b"\x00", b"\x02"


def connections(relay: MemoryRelay) -> int:
    totals = relay.core.totals().http3
    assert totals is not None
    return totals.connections


def quiet(mesh: Mesh, browser: Browser) -> None:
    """It is not heard of any more, and does not answer."""
    mesh.network.detach(browser)


def hosts(count: int, networks: int) -> list[Address]:
    """Addresses in so many networks, each in an IPv4 /24 of its own."""
    return [Address(f"203.{1 + n % networks}.113.9", 6000 + n) for n in range(count)]


@pytest.mark.parametrize("stack", [stock, foreign], ids=["aioquic", "qh3"])
def test_nothing_is_kept_and_little_is_sent_before_an_address_is_proved(stack: Any) -> None:
    """Datagrams of somebody who writes another's address into them: the answers go where nobody waits."""
    mesh, relay = mesh_with()
    victim = Address("203.0.113.66", 53)
    mesh.network.filter = lambda _, target, __: target != victim
    browser = Browser(mesh, victim, stack())
    mesh.network.run_for(20)
    assert connections(relay) == 0
    assert relay.core.totals().handshakes_under_way == 0
    came = [data for _, source, _, data in mesh.network.sent if source == victim]
    went = [data for _, _, target, data in mesh.network.sent if target == victim]
    assert len(came) >= 4, "the stranger insists"
    assert sum(map(len, went)) < sum(map(len, came))
    assert all((data[0] >> 4) & 3 == 3 for data in went), "Retry, and nothing else"
    assert browser.complete is False


def test_connections_of_one_network_are_limited() -> None:
    mesh, relay = mesh_with()
    browsers = [Browser(mesh, Address("203.0.113.9", 6000 + n)) for n in range(h3.MAX_PER_NETWORK)]
    for browser in browsers:
        browser.until(lambda one=browser: one.complete)  # type: ignore[misc]
    assert Browser(mesh, Address("203.0.113.9", 7000)).refused() == REFUSED
    assert relay.core.drops["http3_too_many"] == 1
    assert Browser(mesh, Address("198.51.100.77", 7000)).get("/live").status == 200
    browsers[0].connection.close()
    mesh.network.flush(browsers[0])
    mesh.network.run_for(0.1)
    assert Browser(mesh, Address("203.0.113.9", 7001)).get("/live").status == 200


def test_connections_at_all_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h3, "MAX_VISITORS", 5)
    mesh, relay = mesh_with()
    for address in hosts(5, 5):
        browser = Browser(mesh, address)
        browser.until(lambda one=browser: one.complete)  # type: ignore[misc]
    assert Browser(mesh, Address("198.51.100.77", 7000)).refused() == REFUSED
    assert relay.core.drops["http3_too_many"] == 1
    assert connections(relay) == 5


def test_handshakes_of_one_prefix_are_limited() -> None:
    mesh, relay = mesh_with()
    browsers = [Browser(mesh, Address(f"203.0.113.{n + 1}", 6000)) for n in range(h3.PREFIX_BURST + 5)]
    mesh.network.run_for(0.4)
    assert sum(one.complete for one in browsers) == h3.PREFIX_BURST
    assert relay.core.drops["http3_handshake_rate"] == 5
    assert Browser(mesh, Address("198.51.100.77", 7000)).get("/live").status == 200
    mesh.network.run_for(2 / h3.PREFIX_HANDSHAKES_PER_SECOND)
    assert Browser(mesh, Address("203.0.113.252", 6000)).get("/live").status == 200


def test_handshakes_of_all_strangers_are_limited_and_members_are_not() -> None:
    mesh, relay = mesh_with()
    addresses = hosts(h3.HANDSHAKE_BURST + 20, h3.HANDSHAKE_BURST + 20)
    browsers = [Browser(mesh, address) for address in addresses]
    mesh.network.run_for(1)
    assert sum(one.complete for one in browsers) <= h3.HANDSHAKE_BURST + 1
    assert relay.core.drops["http3_handshake_rate"] >= 19
    mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 3)


def test_a_full_relay_reads_few_of_the_hellos_of_its_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h3, "HELLO_BURST", 3)
    monkeypatch.setattr(h3, "HELLOS_PER_SECOND", 0.001)
    mesh, relay = mesh_with(limits=Limits(clients=1))
    mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 5)
    for number in range(1, 6):
        mesh.start_client(number, ())
    mesh.network.run_for(20)
    assert relay.core.totals().handshakes == {"completed": 1, "refused": 0, "failed": 3}
    assert relay.core.drops["too_many_clients"] > 50


def test_datagrams_of_one_connection_are_limited() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    assert browser.get("/live").status == 200
    for n in range(h3.MAX_DATAGRAMS):
        browser.connection.send_ping(n)
        mesh.network.flush(browser)
        mesh.network.run_for(0.02)
    assert relay.core.drops["http3_datagram_rate"] >= 1
    assert connections(relay) == 0, "and no id of ours is left, that the forwarder would let it use"
    assert not relay.core._visitors._by_id


def test_datagrams_of_all_strangers_are_limited_and_members_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h3, "DATAGRAM_BURST", 30)
    monkeypatch.setattr(h3, "DATAGRAMS_PER_SECOND", 1)
    mesh, relay = mesh_with()
    browsers = [Browser(mesh, address) for address in hosts(3, 3)]
    for browser in browsers:
        browser.until(lambda one=browser: one.complete)  # type: ignore[misc]
    for n in range(20):
        for browser in browsers:
            browser.connection.send_ping(n)
            mesh.network.flush(browser)
        mesh.network.run_for(0.02)
    assert relay.core.drops["http3_datagram_rate"] >= 20
    mesh.start_client(0, ())
    mesh.network.run_until(lambda: len(relay.core.clients) == 1, 3)


def test_a_connection_ends_after_its_time() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    began = mesh.network.now
    while browser.closed is None:
        browser.connection.send_ping(1)
        mesh.network.flush(browser)
        mesh.network.run_for(1)
        assert mesh.network.now - began < h3.LIFETIME + 3
    assert browser.closed.error_code == NO_ERROR
    assert mesh.network.now - began > h3.LIFETIME - 1
    assert (connections(relay), relay.tables.control) == (0, set())


@pytest.mark.parametrize("complete", [True, False])
def test_a_silent_connection_ends_sooner(complete: bool) -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    mesh.network.run_until(lambda: browser.complete if complete else connections(relay) == 1, 5)
    quiet(mesh, browser)
    assert connections(relay) == 1
    mesh.network.run_for(FOREIGN_IDLE + 1)
    assert (connections(relay), relay.tables.control) == (0, set())
    assert relay.core._visitors._by_id == {}


def test_a_connection_has_so_many_requests_and_no_more() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    for _ in range(FOREIGN_STREAMS):
        assert browser.get("/live").status == 200
    more = browser.ask("/live")
    assert browser.refused() == NO_ERROR
    assert more.status == 0
    totals = relay.core.totals().http3
    assert totals is not None
    assert totals.requests["200"] == FOREIGN_STREAMS


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_is_not_read(method: str) -> None:
    """QUIC's own windows, never opened further, are the bound: a stream may carry 8 KiB in its life."""
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    answer = browser.ask("/live", method, bytes(1 << 20))
    browser.until(lambda: answer.status > 0)
    assert answer.status == (405 if method == "POST" else 200)
    mesh.network.run_for(2)
    assert browser.stopped == (method == "POST"), "STOP_SENDING: the rest is not wanted"
    sent = sum(len(data) for _, source, _, data in mesh.network.sent if source == browser.address)
    assert sent < FOREIGN_STREAM_DATA + 16384
    browser.until(lambda: connections(relay) == 0) if method == "GET" else None


def ignore_windows(browser: Browser) -> None:
    connection = browser.connection
    connection._remote_max_data = connection._remote_max_stream_data_bidi_remote = 1 << 30
    connection._remote_max_stream_data_uni = 1 << 30
    connection._remote_max_streams_bidi = connection._remote_max_streams_uni = 1 << 20


def long_header(browser: Browser) -> None:
    browser.connection.send_stream_data(0, encode_frame(0x1, bytes(FOREIGN_STREAM_DATA + 1)))


def many_streams(browser: Browser) -> None:
    browser.connection.send_stream_data(4 * FOREIGN_STREAMS, b"x")


def many_uni_streams(browser: Browser) -> None:
    browser.connection.send_stream_data(4 * FOREIGN_UNI_STREAMS + 2, b"x")


def much_in_all(browser: Browser) -> None:
    for n in range(FOREIGN_DATA // FOREIGN_STREAM_DATA + 1):
        browser.connection.send_stream_data(
            4 * n, b"\x40\x21\x80\x10\x00\x00" + bytes(FOREIGN_STREAM_DATA - 6)
        )


FLOW_CONTROL, STREAM_LIMIT = 0x3, 0x4


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (long_header, FLOW_CONTROL),
        (many_streams, STREAM_LIMIT),
        (many_uni_streams, STREAM_LIMIT),
        (much_in_all, FLOW_CONTROL),
    ],
)
def test_windows_are_kept_by_force(act: Callable[[Browser], None], code: int) -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    browser.until(lambda: browser.complete)
    ignore_windows(browser)
    act(browser)
    mesh.network.flush(browser)
    assert browser.refused() == code
    assert connections(relay) == 0


BAD_HTTP = {
    "a frame that does not belong there": (2, CONTROL + encode_frame(0x0, b"x"), 0x10A),
    "a push stream": (2, b"\x01\x00", 0x103),
    "settings twice": (2, CONTROL + SETTINGS + SETTINGS, 0x105),
    "a dynamic table": (6, ENCODER + b"\x3f\xe1\x1f", 0x201),
    "no header of a request": (0, encode_frame(0x1, b"\x00\x00\xd1"), 0x10E),
    "garbage for a header": (0, encode_frame(0x1, b"\xff" * 40), 0x200),
    "an entry of a dynamic table": (0, encode_frame(0x1, b"\x03\x01\x80"), 0x200),
    "a cut frame": (0, b"\x01\x20abc", 0x106),
}


@pytest.mark.parametrize("what", BAD_HTTP)
def test_bad_http_ends_its_connection_and_nothing_else(what: str) -> None:
    stream, data, code = BAD_HTTP[what]
    mesh, relay = mesh_with()
    other = Browser(mesh, Address("198.51.100.77", 7000))
    assert other.get("/live").status == 200
    browser = Browser(mesh)
    browser.make = lambda _: None  # it speaks no HTTP but this
    browser.until(lambda: browser.complete)
    browser.connection.send_stream_data(stream, data, end_stream=stream == 0)
    mesh.network.flush(browser)
    assert browser.refused() == code
    assert other.get("/live").status == 200
    assert relay.core.drops["http3_failed"] == 0


class _Greedy(H3Connection):
    def _get_local_settings(self) -> dict[int, int]:
        return dict.fromkeys((0x1, 0x6, 0x7), (1 << 62) - 1)


def test_settings_without_measure_are_harmless() -> None:
    """The library would reserve 350 MB for each; nothing of what they allow is used."""
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    browser.make = _Greedy
    for _ in range(FOREIGN_STREAMS // 2):
        assert browser.get("/status").status == 200
    used = next(iter(relay.core._visitors._visitors)).http._received_settings  # type: ignore[union-attr]
    assert used == {0x1: 0, 0x6: (1 << 62) - 1, 0x7: 0}


def test_what_escapes_the_library_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, __: object) -> list[object]:
        raise ZeroDivisionError

    mesh, relay = mesh_with()
    with monkeypatch.context() as patched:
        patched.setattr(h3._Http, "handle_event", fail)
        assert Browser(mesh).refused() == 0x1, "INTERNAL_ERROR"
    assert relay.core.drops["http3_failed"] >= 1
    assert connections(relay) == 0
    assert Browser(mesh).get("/live").status == 200


def test_a_request_that_is_cancelled_at_once_harms_no_other() -> None:
    mesh, relay = mesh_with()
    browser = Browser(mesh)
    cancelled = browser.ask("/live", flush=False)
    browser.connection.stop_stream(0, 0x10C)
    mesh.network.flush(browser)
    assert browser.get("/live").status == 200
    assert (cancelled.status, relay.core.drops["http3_failed"]) == (0, 0)


def test_tickets_are_nothing_to_a_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket is a member's: somebody who has read its name off the wire can't use it up with `h3`."""
    mesh, relay = mesh_with()
    taken: list[bytes] = []
    monkeypatch.setattr(relay.core._tickets, "take", lambda name, now: taken.append(name))
    policy = dataclasses.replace(FOREIGN_POLICY, groups=(0x11EC,))
    ticket = PeerTicket.of(bytes(32), bytes(32), bytes(2592))
    configuration = QuicConfiguration(
        is_client=True, server_name="shadowmesh", verify_mode=0, session_ticket=ticket
    )
    browser = Browser(mesh, connection=HybridConnection(configuration=configuration, policy=policy))
    assert browser.get("/live").status == 200
    assert not browser.connection.hybrid.session_resumed
    assert taken == []

"""The hybrid handshake between two of our own connections: results, cost, loss, resumption, exporter."""

from __future__ import annotations

import hashlib
import hmac
import random
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.events import HandshakeCompleted

from shadowmesh.crypto import hybrid, rebound
from shadowmesh.crypto.quic import SessionConnection
from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.errors import LocalProtocolError
from tests.unit.quic_pair import Link, Pair, public_of, session_client, session_pair, session_server

BOTH = (hybrid.X25519MLKEM1024.code, hybrid.X25519MLKEM768.code)


def test_both_sides_prove_their_keys() -> None:
    pair = session_pair()
    assert pair.handshake()
    client, server = pair.client.connection, pair.server.connection
    assert client.peer_mldsa_public == public_of("bob")
    assert server.peer_mldsa_public == public_of("alice")
    assert client.key_exchange == server.key_exchange == "X25519+ML-KEM-1024"
    assert client.cipher == server.cipher == "TLS_CHACHA20_POLY1305_SHA256"
    assert client.handshake_confirmed
    assert server.handshake_confirmed


@pytest.mark.parametrize(
    ("client_groups", "server_groups", "name"),
    [
        ((hybrid.X25519MLKEM768.code,), (hybrid.X25519MLKEM768.code,), "X25519+ML-KEM-768"),
        (BOTH, (hybrid.X25519MLKEM768.code,), "X25519+ML-KEM-768"),
        (BOTH, BOTH, "X25519+ML-KEM-1024"),
    ],
)
def test_other_groups(client_groups: tuple[int, ...], server_groups: tuple[int, ...], name: str) -> None:
    pair = session_pair(client_groups=client_groups, server_groups=server_groups)
    assert pair.handshake()
    assert pair.client.connection.key_exchange == pair.server.connection.key_exchange == name


def test_one_round_trip_when_the_path_is_validated() -> None:
    pair = session_pair()
    assert pair.handshake()
    assert pair.round_trips(pair.client) == pytest.approx(1.0)
    assert pair.round_trips(pair.server) == pytest.approx(1.5)
    assert 14_000 < sum(map(len, pair.client.sent)) < 17_000
    assert 14_000 < sum(map(len, pair.server.sent)) < 17_000


def test_an_unvalidated_path_costs_round_trips_by_the_amplification_limit() -> None:
    pair = session_pair(server_path_validated=False)
    pair.connect()
    pair.run(seconds=0.14)  # until the client's first Handshake packet proves its address
    assert sum(map(len, pair.server.sent)) <= 3 * 2400
    assert pair.run(pair.confirmed)
    assert (pair.round_trips(pair.client) or 0) >= 1.9


def test_a_path_may_be_validated_later() -> None:
    pair = session_pair(server_path_validated=False)
    pair.connect()
    pair.run(seconds=0.06)
    held_back = sum(map(len, pair.server.sent))
    pair.server.connection.mark_path_validated()
    assert pair.run(pair.confirmed)
    assert held_back <= 3 * 2400
    assert pair.round_trips(pair.client) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "link",
    [
        Link(latency=0.02, jitter=0.03),
        Link(latency=0.02, loss=0.05, jitter=0.01),
        Link(latency=0.02, loss=0.2, duplicate=0.2, jitter=0.04),
    ],
    ids=["reorder", "loss", "all"],
)
def test_handshakes_survive_bad_links(link: Link, seed: int) -> None:
    pair = session_pair(link, seed)
    assert pair.handshake()
    client, server = pair.client.connection, pair.server.connection
    assert client.export(b"label", b"", 32) == server.export(b"label", b"", 32)
    client.send_stream_data(0, b"x" * 50_000, end_stream=True)
    assert pair.run(lambda: len(pair.server.stream_data()) == 50_000)


def test_packets_that_overtake_their_keys_are_kept() -> None:
    """The server's first datagram (ServerHello) arrives last: nothing of the flight may be lost."""
    pair = session_pair()
    held: list[bytes] = []

    def delay_first(sender: object, data: bytes) -> list[bytes]:
        if sender is pair.server and len(held) < 1:
            held.append(data)
            return []
        return [data]

    pair.tamper = delay_first
    pair.connect()
    pair.run(seconds=0.11)
    sent = len(pair.server.sent)
    pair.client.receive(held[0], pair.now)
    assert pair.run(lambda: pair.client.completed_at() is not None, seconds=0.3)
    resent = [data for data in pair.server.sent[sent:] if len(data) > 1000]
    assert (pair.client.completed_at() or 0) - pair.start < 0.13, "completed without waiting for a timeout"
    assert len(resent) <= 3


def test_the_early_buffer_is_bounded() -> None:
    client = session_client()
    client.start(1.0)
    client.transmit(1.0)
    cid = next(iter(client.host_cids()))
    for _ in range(100):
        client.receive(b"\x43" + cid + bytes(1100), 1.0)
    kept = [pair.early for pair in client._cryptos.values() if hasattr(pair, "early")]
    assert max(map(len, kept)) == 16


def test_replayed_packets_count_once_for_the_amplification_limit() -> None:
    client = session_client()
    server = session_server(client.original_destination_connection_id, path_validated=False)
    client.start(1.0)
    first, second = client.transmit(1.0)
    server.receive(first, 1.0)
    ids = [next(iter(side.host_cids())) for side in (server, client)]
    early = b"\xe3\0\0\0\1" + b"".join(bytes([8]) + cid for cid in ids) + b"\x43\xe8" + bytes(1000)
    for _ in range(5):
        server.receive(early, 1.0)
    server.receive(second, 1.0)
    assert server.key_exchange is not None, "the keys are there, so the early packets were tried again"
    assert server._virtual_path.bytes_received == len(first) + len(second) + 5 * len(early)


def test_a_loss_timer_that_rounding_puts_too_early_does_not_loop() -> None:
    """aioquic computes the time of loss as sent + delay, and on that time asks for sent <= now - delay."""
    rng = random.Random(5)
    tried = 0
    while tried < 20:
        sent, rtt = 2000 + rng.random(), rng.random()
        delay = 9 / 8 * rtt
        if (sent + delay) - delay >= sent:
            continue
        tried += 1
        pair = session_pair()
        assert pair.handshake()
        pair.run(seconds=1)
        client = pair.client.connection
        client._loss._rtt_latest = client._loss._rtt_smoothed = rtt
        client._close_at = 3000.0
        client.send_ping(1)
        client.transmit(sent)
        space = client._spaces[tls.Epoch.ONE_RTT]
        space.largest_acked_packet = max(space.sent_packets)
        space.loss_time = sent + delay
        due = client.get_timer()
        assert due == sent + delay
        client.handle_timer(due)
        assert client.get_timer() != due
        assert not space.sent_packets, "the packet is declared lost at once"


def test_results_are_refused_before_the_handshake_is_complete() -> None:
    client = session_client()
    with pytest.raises(LocalProtocolError):
        client.export(b"label", b"", 32)
    client.start(1.0)
    with pytest.raises(LocalProtocolError):
        client.export(b"label", b"", 32)
    with pytest.raises(LocalProtocolError):
        _ = client.peer_mldsa_public
    assert client.key_exchange is None
    assert client.cipher is None


def test_a_server_exports_nothing_before_the_client_is_authenticated() -> None:
    pair = session_pair()
    pair.connect()
    pair.run(lambda: pair.client.completed_at() is not None)
    assert pair.server.completed_at() is None
    with pytest.raises(LocalProtocolError):
        pair.server.connection.export(b"label", b"", 32)


# --- exporter ---


def _expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand from RFC 5869, 2.3, written out again here."""
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(secret, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def _expand_label(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    full = b"tls13 " + label
    return _expand(
        secret,
        length.to_bytes(2, "big") + bytes([len(full)]) + full + bytes([len(context)]) + context,
        length,
    )


def test_exporter_is_that_of_rfc_8446(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed again from the recorded messages and the recorded key exchange, by HMAC-SHA256 alone."""
    messages: dict[str, bytes] = {}
    secrets: list[bytes] = []
    original_messages = tls.KeySchedule.update_hash
    original_extract = tls.KeySchedule.extract

    def update_hash(self: tls.KeySchedule, data: bytes) -> None:
        log = messages.get(str(id(self)), b"")
        messages[str(id(self))] = log + bytes(data)
        original_messages(self, data)

    def extract(self: tls.KeySchedule, key_material: bytes | None = None) -> None:
        if key_material is not None and len(key_material) == 64:
            secrets.append(key_material)
        original_extract(self, key_material)

    monkeypatch.setattr(rebound.KeySchedule, "update_hash", update_hash)
    monkeypatch.setattr(rebound.KeySchedule, "extract", extract)
    pair = session_pair()
    assert pair.handshake()
    assert len(secrets) == 2
    assert secrets[0] == secrets[1], "both sides have the same 64-byte hybrid secret"

    transcript = max(messages.values(), key=len)
    upto_server_finished, at = b"", 0
    while at < len(transcript):
        size = 4 + int.from_bytes(transcript[at + 1 : at + 4], "big")
        upto_server_finished += transcript[at : at + size]
        if transcript[at] == 20:  # the first Finished is the server's
            break
        at += size
    empty = hashlib.sha256(b"").digest()
    early = hmac.new(bytes(32), bytes(32), hashlib.sha256).digest()
    handshake = hmac.new(_expand_label(early, b"derived", empty, 32), secrets[0], hashlib.sha256).digest()
    master = hmac.new(_expand_label(handshake, b"derived", empty, 32), bytes(32), hashlib.sha256).digest()
    digest = hashlib.sha256(upto_server_finished).digest()
    exporter_master = _expand_label(master, b"exp master", digest, 32)
    for label, context, length in ((b"EXPORTER-x", b"", 32), (b"shadowmesh", b"context", 76)):
        derived = _expand_label(exporter_master, label, empty, 32)
        expected = _expand_label(derived, b"exporter", hashlib.sha256(context).digest(), length)
        assert pair.client.connection.export(label, context, length) == expected
        assert pair.server.connection.export(label, context, length) == expected


def test_exporter_separates_labels_contexts_and_connections() -> None:
    first, second = session_pair(), session_pair()
    assert first.handshake()
    assert second.handshake()
    outputs = {
        pair.client.connection.export(label, context, 32)
        for pair in (first, second)
        for label in (b"a", b"b")
        for context in (b"", b"c")
    }
    assert len(outputs) == 8


def test_a_wiped_exporter_is_gone() -> None:
    pair = session_pair()
    assert pair.handshake()
    client = pair.client.connection
    secret = client.hybrid._exporter
    client.wipe_exporter()
    assert secret == bytes(32), "the memory itself is overwritten"
    with pytest.raises(LocalProtocolError):
        client.export(b"label", b"", 32)
    client.wipe_exporter()


# --- resumption ---


SECRET, NAME = bytes(range(32)), b"n" * 32


def _resume(client: PeerTicket, server: PeerTicket | None) -> Pair:
    """A server that knows at most one ticket, which serves once."""
    known = {} if server is None else {server.ticket: server}
    pair = session_pair(client_ticket=client, server_fetch_ticket=lambda name: known.pop(name, None))
    assert pair.handshake()
    assert not known
    return pair


def _resumed(pair: Pair) -> list[bool]:
    ends = (pair.client, pair.server)
    return [e.session_resumed for end in ends for _, e in end.events if isinstance(e, HandshakeCompleted)]


def _ticket(peer: str, secret: bytes = SECRET) -> PeerTicket:
    return PeerTicket.of(NAME, secret, public_of(peer))


def test_resumption_exposes_the_proved_keys_again() -> None:
    pair = _resume(_ticket("bob"), _ticket("alice"))
    assert _resumed(pair) == [True, True]
    assert pair.client.connection.resumed
    assert pair.server.connection.resumed
    assert pair.client.connection.peer_mldsa_public == public_of("bob")
    assert pair.server.connection.peer_mldsa_public == public_of("alice")
    assert pair.client.connection.key_exchange == "X25519+ML-KEM-1024", "a fresh hybrid exchange each time"
    assert sum(map(len, pair.client.sent)) < 5_000
    assert pair.client.connection.export(b"x", b"", 32) == pair.server.connection.export(b"x", b"", 32)


def test_two_resumptions_by_one_secret_share_no_keys() -> None:
    one, other = (_resume(_ticket("bob"), _ticket("alice")).client.connection for _ in range(2))
    assert one.export(b"x", b"", 32) != other.export(b"x", b"", 32)


def test_an_unknown_ticket_means_a_full_handshake() -> None:
    pair = _resume(_ticket("bob"), None)
    assert _resumed(pair) == [False, False]
    assert not pair.client.connection.resumed
    assert not pair.server.connection.resumed
    assert pair.server.connection.peer_mldsa_public == public_of("alice")


def test_a_name_without_its_secret_resumes_nothing() -> None:
    pair = session_pair(
        client_ticket=_ticket("bob", b"s" * 32), server_fetch_ticket=lambda _name: _ticket("alice")
    )
    assert not pair.handshake()
    assert pair.server.closed_with() is not None
    assert not pair.client.connection.resumed


def test_no_early_data_is_offered_or_sent() -> None:
    client = session_client(ticket=_ticket("bob"))
    client.start(1.0)
    client._get_or_create_stream_for_send(0).sender.write(b"too early")
    flight = client.transmit(1.0)
    assert len(flight) == 2, "a ClientHello alone"
    assert all(data[0] & 0xF0 == 0xC0 for data in flight), "Initial packets only"
    assert not client._cryptos[tls.Epoch.ZERO_RTT].send.is_valid()


def test_a_ticket_without_a_key_is_not_used() -> None:
    ticket = _ticket("bob")
    bare = {name: value for name, value in vars(ticket).items() if name != "peer_mldsa_public"}
    pair = session_pair(
        client_ticket=tls.SessionTicket(**bare), server_fetch_ticket=lambda _: _ticket("alice")
    )
    assert pair.handshake()
    assert _resumed(pair) == [False, False]
    pair = session_pair(client_ticket=ticket, server_fetch_ticket=lambda _: tls.SessionTicket(**bare))
    assert pair.handshake()
    assert _resumed(pair) == [False, False]


def test_a_ticket_shows_nothing_of_itself() -> None:
    assert repr(_ticket("bob")) == "PeerTicket()"


# --- connection surface ---


def test_connection_ids_are_ours_and_change() -> None:
    pair = session_pair()
    assert pair.handshake()
    pair.run(seconds=1)
    for end in (pair.client, pair.server):
        ids = end.connection.host_cids()
        assert len(ids) == 8
        assert all(len(cid) == 8 for cid in ids)
    old = pair.server.connection.host_cids()
    pair.client.connection.change_connection_id()
    pair.run(seconds=1)
    assert pair.server.connection.host_cids() != old


def test_idle_connections_end_and_data_plane_traffic_renews_them() -> None:
    pair = session_pair(client_idle_timeout=5.0, server_idle_timeout=5.0)
    assert pair.handshake()
    pair.run(seconds=2.0)
    idle_from = pair.now
    for _ in range(20):
        pair.now += 1.0
        pair.client.connection.renew_idle(pair.now)
        pair.run(seconds=0.5)
    assert pair.client.closed_with() is None
    assert pair.server.closed_with().reason_phrase == "Idle timeout"
    assert pair.now - idle_from > 15
    pair.run(seconds=30)
    assert pair.client.closed_with().reason_phrase == "Idle timeout"
    assert pair.client.connection.get_timer() is None
    pair.client.connection.renew_idle(pair.now)
    assert pair.client.connection.get_timer() is None


def test_few_streams_and_no_datagram_frames() -> None:
    pair = session_pair()
    assert pair.handshake()
    client = pair.client.connection
    assert client._remote_max_streams_bidi == 8
    assert client._remote_max_streams_uni == 0
    assert client._remote_max_datagram_frame_size is None
    client.send_datagram_frame(b"no")
    pair.run(seconds=2)
    assert pair.server.closed_with().reason_phrase == "Unexpected DATAGRAM frame"


def test_flow_control_slides_and_does_not_grow() -> None:
    pair = session_pair()
    assert pair.handshake()
    pair.client.connection.send_stream_data(0, bytes(3_000_000))
    assert pair.run(lambda: len(pair.server.stream_data()) == 3_000_000, seconds=120)
    server = pair.server.connection
    assert server._local_max_data.value - server._local_max_data.used <= 262144
    stream = server._streams[0]
    assert stream.max_stream_data_local - stream.receiver.starting_offset() <= 262144


def test_handshake_objects_are_dropped_when_confirmed() -> None:
    pair = session_pair()
    assert pair.handshake()
    for connection in (pair.client.connection, pair.server.connection):
        assert isinstance(connection, SessionConnection)
        assert connection.tls.key_schedule is None
        assert connection.tls._peer_certificate is None
        assert connection._crypto_buffers == {}
        assert connection.tls._ec_private_keys == []


def test_a_closed_connection_ignores_everything() -> None:
    pair = session_pair()
    assert pair.handshake()
    server = pair.server.connection
    server.close(reason_phrase="enough")
    pair.client.connection.send_stream_data(0, b"late")
    for data in pair.client.transmit(pair.now):
        server.receive(data, pair.now)
    pair.server.transmit(pair.now)
    assert pair.server.stream_data() == b""
    assert server.closed


def test_a_goodbye_is_known_at_once() -> None:
    pair = session_pair()
    assert pair.handshake()
    pair.server.connection.close(error_code=7, reason_phrase="enough")
    client: SessionConnection = pair.client.connection
    assert client.closed_by_peer is None
    pair.run(seconds=0.06)
    goodbye: Any = pair.client.connection.closed_by_peer
    assert (goodbye.error_code, goodbye.reason_phrase) == (7, "enough")
    assert pair.server.connection.closed_by_peer is None


def test_a_server_without_a_datagram_is_quiet() -> None:
    server = session_server(b"12345678")
    assert server.transmit(1.0) == []
    assert server.get_timer() is None
    server.handle_timer(2.0)
    client = session_client()
    assert client.get_timer() is None
    assert client.transmit(1.0) == []

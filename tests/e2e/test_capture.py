"""The capture tools: the pcap reader, and that the search finds what is there (positive controls).

Everything here is without root but the last test, which captures a handshake on a real underlay.
"""

from __future__ import annotations

import datetime as dt
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, encode_quic_retry, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from shadowmesh.testing.capture import (
    Capture,
    InitialReader,
    assert_absent,
    parse_datagram,
    read_datagrams,
    read_pcap,
    search,
)
from shadowmesh.testing.process import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shadowmesh.testing.lab import Lab

SERVER_NAME = "sni-for-the-search.example"
ALPN = "alpn-for-the-search/1"
CHANNEL = b"\x43channel8"


def _configurations() -> tuple[QuicConfiguration, QuicConfiguration]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    client = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], server_name=SERVER_NAME, verify_mode=0)
    server = QuicConfiguration(is_client=False, alpn_protocols=[ALPN])
    server.certificate, server.private_key = certificate, key
    return client, server


def _handshake(retry: bool = False) -> list[tuple[bool, bytes]]:
    """(sent by the client, datagram) of an aioquic handshake in memory, with a Retry before it if asked."""
    client_configuration, server_configuration = _configurations()
    client = QuicConnection(configuration=client_configuration)
    log: list[tuple[bool, bytes]] = []
    client.connect(("192.0.2.1", 1), now=0.0)
    first = [data for data, _ in client.datagrams_to_send(now=0.0)]
    log += [(True, data) for data in first]
    header = pull_quic_header(Buffer(data=first[0]), host_cid_length=8)
    retry_cid = None
    if retry:
        retry_cid = b"retry-id"
        packet = encode_quic_retry(
            version=1,
            source_cid=retry_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=b"token",
        )
        log.append((False, packet))
        client.receive_datagram(packet, ("192.0.2.1", 1), now=0.0)
    server = QuicConnection(
        configuration=server_configuration,
        retry_source_connection_id=retry_cid,
        original_destination_connection_id=header.destination_cid,
    )
    pending = [data for data, _ in client.datagrams_to_send(now=0.0)] if retry else first
    log += [(True, data) for data in pending] if retry else []
    for _ in range(4):
        for data in pending:
            server.receive_datagram(data, ("192.0.2.2", 2), now=0.0)
        answers = [data for data, _ in server.datagrams_to_send(now=0.0)]
        log += [(False, data) for data in answers]
        for data in answers:
            client.receive_datagram(data, ("192.0.2.1", 1), now=0.0)
        pending = [data for data, _ in client.datagrams_to_send(now=0.0)]
        log += [(True, data) for data in pending]
    return log


def _frame(by_client: bool, payload: bytes) -> bytes:
    """Ethernet, IPv4 and UDP around a payload; checksums are zero, the reader does not look at them."""
    ports = (1000, 2000) if by_client else (2000, 1000)
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2")
    return bytes(12) + b"\x08\x00" + ip + udp


def _write_pcap(path: Path, frames: Sequence[bytes], order: str = "<") -> Path:
    records = [struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)]
    records += [struct.pack(order + "IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    path.write_bytes(b"".join(records))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_reader_returns_every_frame(tmp_path: Path, order: str) -> None:
    frames = [_frame(True, b"one"), _frame(False, b"two" * 500), bytes(14)]
    path = _write_pcap(tmp_path / "x.pcap", frames, order)
    assert list(read_pcap(path)) == frames
    datagrams = list(read_datagrams(path))
    assert [datagram.payload for datagram in datagrams] == [b"one", b"two" * 500]
    assert datagrams[0][:4] == ("192.0.2.1", 1000, "192.0.2.2", 2000)


def test_reader_survives_every_truncation(tmp_path: Path) -> None:
    frames = [_frame(True, b"payload")]
    whole = _write_pcap(tmp_path / "x.pcap", frames).read_bytes()
    for size in range(24, len(whole)):
        (tmp_path / "cut.pcap").write_bytes(whole[:size])
        assert list(read_pcap(tmp_path / "cut.pcap")) == []
    for size in range(len(frames[0])):
        parse_datagram(frames[0][:size])


def test_reader_refuses_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(40))
    with pytest.raises(LabError, match="not a pcap"):
        list(read_pcap(path))
    path.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 113))
    with pytest.raises(LabError, match="not an Ethernet"):
        list(read_pcap(path))
    path.write_bytes(_write_pcap(path, []).read_bytes() + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30))
    with pytest.raises(LabError, match="record of"):
        list(read_pcap(path))


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("channel", [b"", CHANNEL])
def test_search_reads_initials(tmp_path: Path, retry: bool, channel: bytes) -> None:
    """The texts of the ClientHello are not in the datagrams, but are found once the Initials are opened."""
    log = _handshake(retry)
    assert not any(text.encode() in data for _, data in log for text in (SERVER_NAME, ALPN))
    path = _write_pcap(tmp_path / "x.pcap", [_frame(by_client, channel + data) for by_client, data in log])
    patterns = {"server name": SERVER_NAME.encode(), "alpn": ALPN.encode(), "absent": b"not there at all"}
    result = search([path], patterns)
    assert {found.split(" in ")[0] for found in result.found} == {"server name", "alpn"}
    assert all("Initial packets of" in found for found in result.found)
    assert result.retries == retry
    assert result.unread == 0
    # After a Retry the same client id begins again with new keys.
    assert len(result.connections) == 1 + retry
    assert all(connection.relayed == bool(channel) for connection in result.connections)
    assert bytes(result.connections[-1].server.data[:1]) == b"\x02", "the ServerHello was read as well"
    with pytest.raises(LabError, match="alpn in Initial"):
        assert_absent([path], patterns)
    assert assert_absent([path], {"absent": b"not there at all"}).initials > 1


def test_search_finds_what_is_in_clear(tmp_path: Path) -> None:
    path = _write_pcap(tmp_path / "x.pcap", [_frame(True, b"no"), _frame(True, b"the marker is here")])
    assert search([path], {"m": b"marker"}).found == ["m in packet 2 of x.pcap"]


def test_reader_counts_initials_it_cannot_open() -> None:
    data = next(data for by_client, data in _handshake() if not by_client)
    reader = InitialReader()
    reader.feed(data)
    assert reader.unread == 1
    assert reader.connections == []
    for size in range(len(data)):
        reader.feed(data[:size])
        reader.feed(CHANNEL + data[:size])


def test_initials_are_what_aioquic_calls_initials() -> None:
    kinds = {pull_quic_header(Buffer(data=data), host_cid_length=8).packet_type for _, data in _handshake()}
    assert QuicPacketType.INITIAL in kinds


@pytest.mark.root
def test_capture_of_a_real_handshake(lab: Lab) -> None:
    """tcpdump, sentinels, UDP over veth and the reader together: an aioquic handshake between two hosts."""
    client_host, server_host = lab.host("client"), lab.host("server")
    capture = Capture(lab, "handshake").start()
    log = _handshake()
    for family, source, target in (
        (socket.AF_INET, client_host.ipv4, server_host.ipv4),
        (socket.AF_INET6, client_host.ipv6, server_host.ipv6),
    ):
        assert source is not None
        assert target is not None
        with (
            client_host.socket(family, socket.SOCK_DGRAM) as one,
            server_host.socket(family, socket.SOCK_DGRAM) as two,
        ):
            one.bind((source, 1000))
            two.bind((target, 2000))
            for by_client, data in log:
                if by_client:
                    one.sendto(data, (target, 2000))
                else:
                    two.sendto(data, (source, 1000))
    result = search([capture.stop()], {"alpn": ALPN.encode(), "sentinel": b"capture begins"})
    assert {text.split(" in ")[0] for text in result.found} == {"alpn", "sentinel"}
    assert any("Initial packets" in text for text in result.found)
    assert result.initials >= 4
    assert threading.active_count() < 10


@pytest.mark.root
def test_capture_splits_super_datagrams(lab: Lab) -> None:
    """UDP GSO (socket option UDP_SEGMENT, udp(7)) would else be one packet, its datagrams unreadable."""
    one, two = lab.host("one"), lab.host("two")
    pieces = [bytes([number]) * 500 for number in range(8)]
    capture = Capture(lab, "segments").start()
    with (
        one.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        two.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((two.address, 7))
        sender.setsockopt(socket.IPPROTO_UDP, 103, 500)
        sender.sendto(b"".join(pieces), (two.address, 7))
    path = capture.stop()
    assert [datagram.payload for datagram in read_datagrams(path) if datagram.target_port == 7] == pieces

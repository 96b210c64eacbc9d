"""A relay as a process on loopback, asked over HTTP/3 by stacks that nobody here wrote: curl's and qh3."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowmesh import __version__
from shadowmesh.crypto import identity
from shadowmesh.testing.web import write_certificate
from shadowmesh_relay.control import ask_status
from shadowmesh_relay.report import PREFIX, Report
from shadowmesh_relay.verbs import render
from tests.unit.test_relay_service import COMMAND, DEADLINE, free_port, read_line, samples

curl_cffi = pytest.importorskip(
    "curl_cffi", reason="curl_cffi is not installed: pip install 'shadowmesh[dev]'"
)
qh3 = pytest.importorskip("qh3", reason="qh3 is not installed: pip install 'shadowmesh[dev]'")
qh3_http = pytest.importorskip("qh3.h3.connection")
NAME = "relay.test"


@dataclass
class Relay:
    process: subprocess.Popen[str]
    config: Path
    port: int
    metrics: int
    first_line: str


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    identity.create(tmp_path / "state", "relay1")
    certificate, key = write_certificate(tmp_path, NAME)
    port, metrics = free_port(), free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(
        f"relay: {{name: relay1, state_dir: {tmp_path / 'state'}, listen: '127.0.0.1:{port}'}}\n"
        f"admission: {{open: true}}\nmetrics: '127.0.0.1:{metrics}'\n"
        f"http3: {{certificate: {certificate}, key: {key}, show_clients: true}}\n"
    )
    environment = os.environ | {"PYTHONWARNINGS": ""}
    with subprocess.Popen(
        [*COMMAND, "serve", "-c", str(config)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Relay(process, config, port, metrics, read_line(process))
        finally:
            process.kill()


def curl(relay: Relay, path: str, groups: str, method: str = "GET", **options: Any) -> Any:
    """curl with ngtcp2, nghttp3 and BoringSSL; it checks certificate and name."""
    options_of_curl = {
        curl_cffi.CurlOpt.RESOLVE: [f"{NAME}:{relay.port}:127.0.0.1"],
        curl_cffi.CurlOpt.SSL_EC_CURVES: groups,
    }
    with curl_cffi.Session(curl_options=options_of_curl) as session:
        return session.request(
            method,
            f"https://{NAME}:{relay.port}{path}",
            http_version="v3only",
            verify=str(relay.config.parent / f"{NAME}.crt"),
            timeout=DEADLINE,
            **options,
        )


def ask_by_qh3(relay: Relay, path: str) -> tuple[bytes, bytes]:
    """Status and body, by a connection of its own over a socket of ours; it checks certificate and name."""
    configuration = qh3.QuicConfiguration(
        is_client=True,
        server_name=NAME,
        alpn_protocols=["h3"],
        cafile=str(relay.config.parent / f"{NAME}.crt"),
    )
    connection = qh3.QuicConnection(configuration=configuration)
    http, status, body, ended, end = None, b"", b"", False, time.monotonic() + DEADLINE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", relay.port))
        connection.connect(("127.0.0.1", relay.port), time.monotonic())
        while not ended:
            assert time.monotonic() < end, "no answer"
            for data, _ in connection.datagrams_to_send(time.monotonic()):
                sock.send(data)
            wait = max(0.0, (connection.get_timer() or end) - time.monotonic())
            if select.select([sock], [], [], min(wait, 1.0))[0]:
                connection.receive_datagram(sock.recv(65535), ("127.0.0.1", relay.port), time.monotonic())
            else:
                connection.handle_timer(time.monotonic())
            while (event := connection.next_event()) is not None:
                assert not isinstance(event, qh3.quic.events.ConnectionTerminated), event
                if isinstance(event, qh3.quic.events.HandshakeCompleted):
                    http = qh3_http.H3Connection(connection)
                    fields = {":method": "GET", ":scheme": "https", ":authority": NAME, ":path": path}
                    headers = [(key.encode(), value.encode()) for key, value in fields.items()]
                    http.send_headers(connection.get_next_available_stream_id(), headers, end_stream=True)
                for one in http.handle_event(event) if http is not None else ():
                    status = dict(one.headers)[b":status"] if hasattr(one, "headers") else status
                    body += getattr(one, "data", b"")
                    ended = one.stream_ended
        connection.close()
        for data, _ in connection.datagrams_to_send(time.monotonic()):
            sock.send(data)
    return status, body


@pytest.mark.timeout(120)
def test_two_foreign_stacks_ask_a_relay(relay: Relay) -> None:
    assert f"serves on UDP 127.0.0.1:{relay.port} with HTTP/3, admits everybody" in relay.first_line
    for groups in ("X25519MLKEM768", "X25519", "P-256"):
        answer = curl(relay, "/live", groups)
        assert (answer.status_code, answer.http_version, answer.json()) == (200, 30, {"live": True})
    answer = curl(relay, "/status", "X25519MLKEM768:X25519", impersonate="chrome")
    found = answer.json()
    assert found.pop("uptime") in range(3600)
    schema = "shadowmesh.relay-public/1"
    assert found == {"schema": schema, "version": __version__, "draining": False, "clients": 0}
    assert curl(relay, "/nothing", "X25519").status_code == 404
    refused = curl(relay, "/live", "X25519", "POST", data=bytes(100_000))
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert curl(relay, "/live", "X25519", "HEAD").status_code == 200

    assert ask_by_qh3(relay, "/version") == (
        b"200",
        json.dumps({"version": __version__}, separators=(",", ":")).encode(),
    )
    assert ask_by_qh3(relay, "/ready")[0] == b"200"

    report = msgspec.json.decode(ask_status(relay.config.parent / "state/relay.sock"), type=Report)
    totals = report.totals.http3
    assert totals is not None
    assert totals.handshakes == {"hybrid": 4, "classical": 5}
    assert totals.requests == {"200": 7, "404": 1, "405": 1, "503": 0}
    line = next(line for line in render(report) if line.startswith("HTTP/3: "))
    assert line.endswith(
        "9 handshakes completed (4 post-quantum), 9 requests (7 with 200, 1 with 404, 1 with 405)"
    )
    text = curl_cffi.get(f"http://127.0.0.1:{relay.metrics}/metrics").text
    found = samples(text)
    assert found[f"{PREFIX}_http3_requests_total"]["404"] == 1
    assert found[f"{PREFIX}_http3_handshakes_total"] == {"hybrid": 4, "classical": 5}
    relay.process.terminate()
    log = relay.process.communicate(timeout=DEADLINE)[1]
    assert "Traceback" not in log
    assert log.count("\n") == 1, f"strangers write nothing into the log: {log}"

"""What the relay's WebSocket service takes of the machine: certificates, a port, descriptors."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from shadowmesh.errors import ConfigError, DeviceError
from shadowmesh.testing.web import write_certificate
from shadowmesh.units import Address
from shadowmesh_relay.certificate import Certificate, tls_context
from shadowmesh_relay.config import WebSocketSection
from shadowmesh_relay.websocket import Origins, WebSocketService


def test_a_renewed_certificate_is_taken_and_a_bad_one_is_not(tmp_path: Path) -> None:
    paths = write_certificate(tmp_path, "relay.test")
    made = Certificate(*paths, tls_context)
    write_certificate(tmp_path, "relay.test")
    os.utime(paths[0], (1, 1))
    first = made.value
    made.renew()
    assert made._read_at[0] == 1_000_000_000
    assert made.value is not first
    good = made.value
    write_certificate(tmp_path / "other", "relay.test")
    paths[0].write_bytes((tmp_path / "other" / "relay.test.crt").read_bytes())  # of another key
    made.renew()
    assert made.value is good
    write_certificate(tmp_path, "relay.test")
    made.renew()
    assert made.value is not good


def test_files_that_are_no_certificate_are_told(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "relay.test")
    with pytest.raises(ConfigError, match="No such file"):
        Certificate(tmp_path / "missing", key, tls_context)
    key.write_text("this is none")
    with pytest.raises(ConfigError, match="can't be used for TLS"):
        Certificate(certificate, key, tls_context)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        section = WebSocketSection("127.0.0.1", other.getsockname()[1], None, None)
        service = WebSocketService(section, Address("127.0.0.1", 1), Origins(), set, set)
        with pytest.raises(DeviceError, match="can't listen on TCP"):
            service.open()


def test_descriptors_are_allowed_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    for connections, expected in ((100, (1024, 4096)), (1000, (2256, 4096)), (9000, (4096, 4096))):
        service = WebSocketService(
            WebSocketSection("127.0.0.1", 0, None, None, max_connections=connections),
            Address("127.0.0.1", 1),
            Origins(),
            set,
            set,
        )
        service.open()
        service.close()
        assert limits[-1] == expected

"""A relay as a process on loopback: local API, verbs, metrics, health, logs, drain, end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shadowmesh._ext.drops import DropReason, Statistic
from shadowmesh.crypto import identity
from shadowmesh_relay.report import PREFIX

DEADLINE = 40.0
COMMAND = [sys.executable, "-m", "shadowmesh_relay.cli"]


@dataclass
class Service:
    process: subprocess.Popen[str]
    config: Path
    metrics: int
    first_line: str

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, arguments[0], "-c", str(self.config), *arguments[1:]]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE)

    def end(self) -> str:
        """The rest of the log after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=DEADLINE)[1]


def free_port() -> int:
    """By UDP and TCP, and below the ports that the kernel gives out: nobody comes to it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with (
            contextlib.suppress(OSError),
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            socket.socket() as tcp,
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port


def read_line(process: subprocess.Popen[str]) -> str:
    """Byte by byte: what Python reads ahead, `select` would not tell of."""
    assert process.stderr is not None
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stderr], [], [], DEADLINE)
        assert ready, "the relay says nothing"
        more = os.read(process.stderr.fileno(), 1)
        assert more, "the relay has ended"
        line += more
    return line.decode()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    state = tmp_path / "state"
    identity.create(state, "relay1")
    metrics = free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(
        f"relay: {{name: relay1, state_dir: {state}, listen: '127.0.0.1:{free_port()}'}}\n"
        f"admission: {{open: true}}\nmetrics: '127.0.0.1:{metrics}'\nlog: {{format: json}}\n"
    )
    environment = os.environ | {"PYTHONWARNINGS": ""}
    with subprocess.Popen(
        [*COMMAND, "serve", "-c", str(config)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Service(process, config, metrics, read_line(process))
        finally:
            process.kill()


def samples(text: str) -> dict[str, dict[str, float]]:
    """Values by name of the metric, then by its labels."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_a_relay_tells_how_it_is_and_ends_by_drain(service: Service) -> None:
    line = json.loads(service.first_line)
    assert (line["level"], line["logger"]) == ("info", "shadowmesh.relay")
    assert re.search(r"serves on UDP 127\.0\.0\.1:\d+, admits everybody", line["message"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])

    assert service.get("/live") == (200, '{"live":true}')
    assert service.get("/ready") == (200, '{"ready":true,"reason":""}')
    assert service.get("/nothing")[0] == 404
    code, text = service.get("/metrics")
    assert code == 200
    found = samples(text)
    assert found[f"{PREFIX}_clients"] == {"": 0.0}
    assert found[f"{PREFIX}_clients_limit"] == {"": 4096.0}
    assert {reason.name.lower() for reason in DropReason} <= set(found[f"{PREFIX}_dropped_total"])
    assert "socket_full" in found[f"{PREFIX}_dropped_total"]
    assert {f"{PREFIX}_{what.name.lower()}_total" for what in Statistic} <= set(found)
    assert "process_resident_memory_bytes" in found

    status: dict[str, Any] = json.loads(service.verb("status", "--json").stdout)
    assert status["schema"] == "shadowmesh.relay-status/1"
    assert status["totals"]["clients"] == 0
    assert "No clients are connected." in service.verb("status").stdout
    assert (service.config.parent / "state/relay.sock").stat().st_mode & 0o777 == 0o600

    drained = service.verb("drain", "--timeout", "5", "--json")
    assert (drained.returncode, json.loads(drained.stdout)["clients"]) == (0, 0)
    assert service.process.wait(timeout=DEADLINE) == 0
    assert service.verb("status").returncode == 4


def test_a_second_relay_does_not_take_the_socket_of_the_first(service: Service) -> None:
    text = service.config.read_text().replace("127.0.0.1:", "127.0.0.2:")
    service.config.write_text(text)
    second = service.verb("serve")
    assert second.returncode == 5
    assert "answers on" in second.stderr
    assert service.get("/live")[0] == 200
    assert '"message": "stopped; clients 0' in service.end()


TOKEN, OTHER = "n2yq8rWcDk5VtGm1Zs0xEu7b", "Q0j9aL4hTf6pXw3oRi8cYv2e"


def test_reload_takes_what_may_change_and_a_mistake_changes_nothing(service: Service, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    text = service.config.read_text()
    service.config.write_text(text.replace("open: true", f"token_file: {tokens}"))
    assert json.loads(service.verb("reload", "--json").stdout) == {
        "schema": "shadowmesh.relay-reload/1",
        "applied": ["admission.open", "admission.token_file"],
        "restart": [],
        "ended": 0,
    }
    tokens.write_text(f"{OTHER}\n")
    assert service.verb("reload").stdout == "changed: admission.token_file; 0 sessions ended\n"
    assert service.verb("reload").stdout == "changed: nothing; 0 sessions ended\n"
    service.config.write_text(service.config.read_text() + "limits: {clients: 7}\n")
    done = service.verb("reload")
    assert (done.returncode, done.stdout) == (0, "changed: nothing; 0 sessions ended\n")
    assert "needs a restart: limits [config.pending]" in done.stderr
    for broken in ("short\n", ""):
        tokens.write_text(broken)
        refused = service.verb("reload")
        assert refused.returncode == 3
        assert str(tokens) in refused.stderr
    tokens.write_text(f"{OTHER}\n")
    service.config.write_text("relay: 7\n")
    refused = service.verb("reload", "--socket", str(tmp_path / "state" / "relay.sock"))
    assert refused.returncode == 3
    assert "relay.yaml:1" in refused.stderr
    service.process.send_signal(signal.SIGHUP)
    while "nothing was changed" not in (line := read_line(service.process)) or "relay.yaml:1" not in line:
        assert line
    service.config.write_text(text)
    service.process.send_signal(signal.SIGHUP)
    while "was read again; changed: admission.open, admission.token_file" not in read_line(service.process):
        pass
    assert service.process.poll() is None
    assert "stopped" in service.end()

"""Spans from stages: by the SDK's own exporter in memory, and to a collector on loopback."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shadowmesh import config as client_config
from shadowmesh import observing
from shadowmesh.errors import ConfigError
from shadowmesh.io import spans as spans_module
from shadowmesh.io.spans import Spans
from shadowmesh.io.tracing import trace_to
from shadowmesh_relay.config import load_relay_config
from tests.protocol.mesh import Mesh
from tests.unit.test_config import MINIMAL
from tests.unit.test_relay_service import COMMAND, Service, free_port, read_line, service  # noqa: F401 - a fixture


@contextmanager
def in_memory(names: bool = False) -> Iterator[tuple[Spans, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    tracing = Spans(exporter, "shadowmesh-client", names)
    try:
        yield tracing, exporter
    finally:
        tracing.close()


def finished(tracing: Spans, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_part_is_a_child_also_if_it_ends_last() -> None:
    with in_memory() as (tracing, exporter):
        now = time.monotonic()
        whole = tracing.stages.begin("whole", now)
        first, late = whole.part("first", now + 0.25), whole.part("late", now + 0.5)
        first.end(now + 1)
        tracing.flush()
        whole.end(now + 2)
        tracing.flush()
        late.end(now + 3)
        spans = finished(tracing, exporter)
    assert [spans[name].parent.span_id for name in ("first", "late")] == [  # type: ignore[union-attr]
        spans["whole"].context.span_id
    ] * 2
    assert len({span.context.trace_id for span in spans.values()}) == 1
    began, ended = spans["late"].start_time, spans["late"].end_time
    assert began is not None
    assert ended is not None
    assert ended - began == pytest.approx(2.5e9, abs=1000)
    assert began == pytest.approx(time.time_ns() + 0.5e9, abs=1e9)
    assert spans["whole"].resource.attributes["service.name"] == "shadowmesh-client"


def test_two_wholes_are_two_traces() -> None:
    with in_memory() as (tracing, exporter):
        for name in ("a", "b"):
            tracing.stages.begin(name, 1.0).end(2.0)
        spans = finished(tracing, exporter)
    assert spans["a"].context.trace_id != spans["b"].context.trace_id
    assert spans["a"].parent is None


@pytest.mark.parametrize("names", [False, True])
def test_names_only_where_the_log_may_have_them(names: bool) -> None:
    with in_memory(names) as (tracing, exporter):
        stage = tracing.stages.begin("x", 1.0, transport="udp", relay=0)
        stage.confide(server_address="relay.test", peer_name="bob")
        stage.end(2.0, "refused", "relay.test does not know bob")
        span = finished(tracing, exporter)["x"]
    public = {"network.transport": "udp", "shadowmesh.relay": 0, "error.type": "refused"}
    private = {
        "server.address": "relay.test",
        "shadowmesh.peer_name": "bob",
        "shadowmesh.reason": "relay.test does not know bob",
    }
    assert span.attributes == (public | private if names else public)
    assert span.status.description == ("relay.test does not know bob" if names else "refused")
    assert not span.status.is_ok


class Stuck(SpanExporter):
    """A collector that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.spans = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.entered.set()
        self.go.wait(10)
        self.spans += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to give back."""


def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "MAX_WAITING", 512)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    exporter = Stuck()
    tracing = Spans(exporter, "x", names=False)
    try:
        tracing.stages.begin("x", 1.0).end(2.0)
        tracing.flush()
        assert exporter.entered.wait(10)
        for _ in range(1000):
            tracing.stages.begin("x", 1.0).end(2.0)
        tracing.flush()
        assert tracing.lost == 1000 - 512
    finally:
        exporter.go.set()
        tracing.close()
    assert exporter.spans == 1 + 512
    assert tracing.lost == 1000 - 512


def test_an_end_waits_for_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "LINGER", 0.05)
    monkeypatch.setattr(spans_module, "GIVING_UP", 0.05)
    exporter = Stuck()
    tracing = Spans(exporter, "x", names=False)
    tracing.stages.begin("x", 1.0).end(2.0)
    before = time.monotonic()
    tracing.close()
    assert time.monotonic() - before < 5  # the exporter alone would take ten
    exporter.go.set()


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OTLP; `requests` of the server has what came."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Content-Type"], body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Not into the tests' output."""


@contextmanager
def collecting(listener: socket.socket) -> Iterator[http.server.HTTPServer]:
    """A collector that listens there."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector, bind_and_activate=False)
    server.socket.close()
    server.socket, server.server_port = listener, listener.getsockname()[1]
    server.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def collector() -> Iterator[http.server.HTTPServer]:
    with collecting(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def collected(server: http.server.HTTPServer) -> list[Any]:
    found = []
    for path, kind, body in server.requests:  # type: ignore[attr-defined]
        assert (path, kind) == ("/v1/traces", "application/x-protobuf")
        request = ExportTraceServiceRequest.FromString(body)
        found += [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
    return found


def test_a_set_up_at_a_collector(collector: http.server.HTTPServer) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    mesh = Mesh()
    mesh.start_relay()
    with trace_to(observing.parse_otlp(url) or "", "shadowmesh-client", names=False) as tracing:
        mesh.start_client(0, (1,))
        mesh.network.run_for(1)
        mesh.start_client(1, (0,), direct="auto", stages=tracing.stages)
        mesh.pair_up()
        mesh.network.run_for(1)
        tracing.flush()
    assert tracing.lost == 0
    spans = {span.span_id: span for span in collected(collector)}
    (setup,) = [span for span in spans.values() if span.name == "session.setup"]
    assert setup.parent_span_id == b""
    children = {span.name for span in spans.values() if span.parent_span_id == setup.span_id}
    assert {"channel.open", "session.handshake", "path.first"} <= children
    (handshake,) = [span for span in spans.values() if span.name == "session.handshake"]
    phases = [span for span in spans.values() if span.parent_span_id == handshake.span_id]
    assert {span.name for span in phases} == {"quic.handshake", "session.proofs", "session.confirmation"}
    for span in phases:
        assert setup.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= setup.end_time_unix_nano
        assert span.trace_id == setup.trace_id


def test_a_collector_that_is_not_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_module, "LINGER", 0.05)
    monkeypatch.setattr(spans_module, "GIVING_UP", 10.0)
    caplog.set_level(logging.INFO)
    with trace_to(f"http://127.0.0.1:{free_port()}/v1/traces", "x", names=False) as tracing:
        tracing.stages.begin("x", 1.0).end(2.0)
    assert tracing.lost == 1
    assert [record.message for record in caplog.records] == [
        "traces do not reach tracing.otlp; they are counted and dropped [tracing.collector]"
    ]


def test_a_relay_tells_of_itself(collector: http.server.HTTPServer, service: Service) -> None:  # noqa: F811
    """The program as it is: it serves, counts what it lost, and ends at once."""
    service.end()
    with service.config.open("a") as file:
        file.write(f"tracing: {{otlp: 'http://127.0.0.1:{collector.server_port}'}}\n")
    command = [*COMMAND, "serve", "-c", str(service.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        again = Service(process, service.config, service.metrics, read_line(process))
        assert json.loads(again.verb("status", "--json").stdout)["drops"]["spans_lost"] == 0
        again.end()
        assert process.returncode == 0


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return file


RELAY = "relay: {name: r}\nadmission: {open: true}\n"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example.net/", "https://otel.example.net/v1/traces"),
        ("http://[::1]:4318/api/otlp", "http://[::1]:4318/api/otlp"),
    ],
)
def test_where_traces_go(tmp_path: Path, text: str, url: str) -> None:
    addition = f'tracing: {{otlp: "{text}"}}\n'
    assert load_relay_config(write(tmp_path, RELAY + addition)).tracing == url
    assert client_config.load_client_config(write(tmp_path, MINIMAL + addition)).tracing == url


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tracing: {}", 'x.yaml:3: tracing.otlp: is missing; for example: otlp: "http://127.0.0.1:4318"'),
        ("tracing: {otlp: localhost:4318}", "no URL of an OTLP collector"),
        ("tracing: {otlp: 'http://u:p@host'}", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("tracing: {otlp: 'http://host/?x=1'}", "no URL of an OTLP collector"),
        ("tracing: {oltp: 'http://host'}", "did you mean otlp?"),
    ],
)
def test_what_is_no_collector(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_relay_config(write(tmp_path, RELAY + text + "\n"))
    assert problem in str(error.value)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "_missing", lambda module: "exporter" in module)
    with pytest.raises(ConfigError, match=r"x\.yaml:3: tracing\.otlp: needs OpenTelemetry.*see Extras"):
        load_relay_config(write(tmp_path, RELAY + 'tracing: {otlp: "http://127.0.0.1:4318"}\n'))


def test_missing_is_seen() -> None:
    assert [observing._missing(name) for name in ("json", "opentelemetry.nothing", "nothing.at.all")] == [
        False,
        True,
        True,
    ]


def test_nothing_is_imported_while_it_is_off(service: Service) -> None:  # noqa: F811
    """By what a running relay has mapped, and by what the client's modules bring in."""
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "_ext" in maps
    assert not any(name in maps for name in ("opentelemetry", "protobuf", "google"))
    code = (
        "import sys, shadowmesh.node.lifecycle, shadowmesh_relay.server\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "('opentelemetry', 'google', 'requests')), 'shadowmesh.io.spans' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[] False\n"

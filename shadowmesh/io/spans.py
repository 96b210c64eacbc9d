"""Spans of OpenTelemetry from the stages of protocol code, sent to a collector by OTLP over HTTP.

Nothing here waits for the collector: spans wait in a bounded queue for a thread of the SDK, and what finds no
room, or no collector, is counted and gone. The SDK's own environment variables count for all that the
configuration does not say.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from shadowmesh import __version__
from shadowmesh.io.tracing import Tracing
from shadowmesh.stages import Stage, Stages

log = logging.getLogger("shadowmesh.tracing")

MAX_WAITING = 2048
"""Spans that wait for the collector: about 1 MB, and the SDK's own default."""
LINGER = 2.0
"""Seconds at the end in which what waits may still be sent."""
GIVING_UP = 0.5
"""Seconds more for the exporter to notice that it may not."""

_NAMES = {
    "transport": "network.transport",
    "server_address": "server.address",
    "server_port": "server.port",
    "peer_address": "network.peer.address",
    "peer_port": "network.peer.port",
    "client_address": "client.address",
    "client_port": "client.port",
}
"""Facts that OpenTelemetry has names for (semantic conventions); all others get a prefix."""


class Spans(Tracing):
    """Makes spans; runs in the thread of the event loop.

    :param exporter: where they go.
    :param service: the program.
    :param names: whether spans may name addresses, nodes and NodeIDs.
    """

    def __init__(self, exporter: SpanExporter, service: str, names: bool) -> None:
        super().__init__(Stages(on=True))
        self._names = names
        self._exporter = _Counting(exporter)
        resource = Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": __version__}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=MAX_WAITING))
        self._tracer = self._provider.get_tracer("shadowmesh", __version__)
        self._given = 0
        self._lost = 0
        self._offset = 0

    @property
    def lost(self) -> int:
        return self._lost + self._exporter.failed + self.stages.lost

    def flush(self) -> None:
        for stage in self.stages.poll():
            self._finish(stage)

    def close(self) -> None:
        """Send what waits, as far as that takes no longer than `LINGER`."""
        self.flush()
        ending = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        ending.start()
        ending.join(LINGER)
        if ending.is_alive():
            self._exporter.shutdown()  # it gives up what it would try for another ten seconds
            ending.join(GIVING_UP)

    def _finish(self, stage: Stage) -> None:
        span = self._span_of(stage)
        if not span.is_recording():
            return  # not sampled
        if self._given - self._exporter.taken >= MAX_WAITING:
            self._lost += 1
            return
        facts = stage.facts | stage.private if self._names else stage.facts
        span.set_attributes({_NAMES.get(key, f"shadowmesh.{key}"): value for key, value in facts.items()})
        if stage.error:
            span.set_attribute("error.type", stage.error)
            span.set_status(Status(StatusCode.ERROR, str(facts.get("reason", stage.error))))
        assert stage.ended_at is not None
        self._given += 1
        span.end(end_time=self._wall(stage.ended_at))

    def _span_of(self, stage: Stage) -> Span:
        """A part may end before the whole, and after it."""
        if stage.span is None:
            if stage.parent is None:
                # Anew for each trace: the wall clock may be set meanwhile.
                self._offset = time.time_ns() - time.monotonic_ns()
                context = Context()
            else:
                context = set_span_in_context(self._span_of(stage.parent), Context())
            began = self._wall(stage.began_at)
            stage.span = self._tracer.start_span(stage.name, context, start_time=began)
        span: Span = stage.span
        return span

    def _wall(self, at: float) -> int:
        return int(at * 1e9) + self._offset


class _Counting(SpanExporter):
    """Counts what goes through, and says once when it goes no further. Runs in the thread of the SDK."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.taken = 0
        self.failed = 0
        self._exporter = exporter
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        self.failed += 0 if works else len(spans)
        if works != self._works:
            self._works = works
            if works:
                log.info("traces reach the collector again")
            else:
                log.warning(
                    "traces do not reach tracing.otlp; they are counted and dropped [tracing.collector]"
                )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def exporter_to(url: str) -> SpanExporter:
    """Sends spans to the collector at `url`."""
    # What it would say of each try, `_Counting` says once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return OTLPSpanExporter(url)

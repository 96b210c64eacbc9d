"""What Prometheus reads, and what tells whether a program of ours lives and serves: /metrics, /live, /ready.

Off unless the configuration names an address; only of this machine, since there is no authentication.  Values
are read when they are asked for: nothing is counted here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shadowmesh.errors import DeviceError
from shadowmesh.units import Address
from shadowmesh.web.server import application, bind_tcp, guarded, json_answer, serve, serve_unix

Labels = tuple[str, ...]


class Source(Collector):
    """Calls a function for each scrape."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()


def gauge(name: str, text: str, values: Mapping[Labels, float | None], labels: Labels = ()) -> Metric:
    """A gauge with a value for each combination of labels; None is left out: it is not known now."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(key, value)
    return family


def counter(name: str, text: str, values: Mapping[Labels, float], labels: Labels = ()) -> Metric:
    """A counter; `_total` is added to its name."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def program(prefix: str, version: str, uptime: float, now: float) -> list[Metric]:
    """What every program of ours tells. `now`: seconds since 1970."""
    return [
        gauge(f"{prefix}_build_info", "Version of the program.", {(version,): 1.0}, ("version",)),
        gauge(f"{prefix}_start_time_seconds", "When it was started, since 1970.", {(): now - uptime}),
    ]


def data_plane(prefix: str, counters: Mapping[str, int], drops: Mapping[str, int]) -> list[Metric]:
    """Counters and drops under the names that docs/cli.md gives them."""
    found = [
        counter(f"{prefix}_{name}", "See Counters in docs/cli.md.", {(): value})
        for name, value in counters.items()
    ]
    dropped: dict[Labels, float] = {(reason,): float(count) for reason, count in drops.items()}
    text = "Packets and messages dropped; docs/cli.md has the reasons."
    return [*found, counter(f"{prefix}_dropped", text, dropped, ("reason",))]


def create_app(read: Callable[[], Iterable[Metric]], ready: Callable[[], str]) -> Starlette:
    """The application.

    :param read: the metrics now.
    :param ready: why the program does not serve just now; empty if it does.
    """
    registry = CollectorRegistry()
    registry.register(Source(read))
    ProcessCollector(registry=registry)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def live(_request: Request) -> Response:
        return json_answer(200, {"live": True})

    async def is_ready(_request: Request) -> Response:
        why = ready()
        return json_answer(503 if why else 200, {"ready": not why, "reason": why})

    return application(
        [
            Route("/metrics", guarded(metrics), methods=["GET"]),
            Route("/live", guarded(live), methods=["GET"]),
            Route("/ready", guarded(is_ready), methods=["GET"]),
        ]
    )


@contextlib.asynccontextmanager
async def serve_metrics(where: Address | Path | None, app: Starlette) -> AsyncIterator[None]:
    """Answer at an address or Unix socket of the configuration, if there is one. Raises DeviceError."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            if isinstance(where, Path):
                await stack.enter_async_context(serve_unix(where, app))
            elif where is not None:
                await stack.enter_async_context(serve(stack.enter_context(bind_tcp(where)), app))
        except OSError as error:
            text = f"can't serve metrics on {where}: {error.strerror or error}"
            raise DeviceError(text, "device.socket") from error
        yield

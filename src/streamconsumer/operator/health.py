"""The operator's HTTP endpoints /livez, /readyz and /metrics. /livez responds as long as the event loop is running."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamconsumer.http_server import HttpServer, Response, Routes, text_response, threaded_metrics_route


@dataclass
class Health:
    """The state that the operator's probes and metrics report. The operator updates this state on its event loop."""

    queue_depth: Callable[[], int]
    """Function that returns the number of StreamConsumers that wait for a reconcile or are being reconciled."""

    readiness: Callable[[], tuple[bool, str]] = lambda: (False, "starting")
    """Function that returns whether the operator is ready, and the reasons that /readyz reports."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.reconciles = Counter(
            "streamconsumer_operator_reconciles",
            "Finished reconciles, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "streamconsumer_operator_reconcile_duration_seconds",
            "Duration of a reconcile",
            registry=self.registry,
        )
        Gauge(
            "streamconsumer_operator_queue_depth",
            "StreamConsumers that wait for a reconcile or are being reconciled",
            registry=self.registry,
        ).set_function(self.queue_depth)

    def record_reconcile(self, outcome: str, seconds: float) -> None:
        """Count a finished reconcile and its duration."""
        self.reconciles.labels(outcome).inc()
        self.duration.observe(seconds)


async def serve(health: Health, host: str, port: int) -> HttpServer:
    """Start the HTTP server on the running event loop. The caller stops the server."""

    def readyz() -> Response:
        is_ready, text = health.readiness()
        return text_response(200 if is_ready else 503, text)

    routes: Routes = {
        "/livez": lambda: text_response(200, "ok"),
        "/readyz": readyz,
        "/metrics": threaded_metrics_route(health.registry),
    }
    server = HttpServer(routes, host, port)
    await server.start()
    return server

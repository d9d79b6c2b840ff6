"""The operator's HTTP endpoints /livez, /readyz and /metrics. /livez responds as long as the event loop is running."""

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)


@dataclass
class Health:
    """The state that the operator's probes and metrics report. The operator updates this state on its event loop."""

    queue_depth: Callable[[], int]
    """Function that returns the number of StreamConsumers that wait for a reconcile or are being reconciled."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    is_synced: bool = False
    """True after the operator has listed all objects for the first time."""
    is_follower: bool = False
    """True while another operator is the leader. /readyz reports a follower as ready, although a follower has not
    listed any objects."""

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


async def serve(health: Health, host: str, port: int) -> web.AppRunner:
    """Start the HTTP server. The caller stops the server by calling `cleanup` of the returned runner."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if health.is_follower:
            return web.Response(text="ok, follower\n")
        if not health.is_synced:
            return web.Response(status=503, text="waiting for the first lists\n")
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        text = generate_latest(health.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner

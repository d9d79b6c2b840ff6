"""/livez, /readyz and /metrics of the operator. /livez answers while the event loop runs."""

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
    """What the probes answer from. Written by the operator's loop."""

    queue_depth: Callable[[], int]
    """How many StreamConsumers wait for a reconcile or are in one."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    is_synced: bool = False
    is_follower: bool = False
    """Whether another operator leads: ready to take over is all that is asked of this one."""

    def __post_init__(self) -> None:
        self.reconciles = Counter(
            "streamconsumer_operator_reconciles",
            "How many reconciles ended, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "streamconsumer_operator_reconcile_duration_seconds",
            "How long a reconcile took",
            registry=self.registry,
        )
        Gauge(
            "streamconsumer_operator_queue_depth",
            "How many StreamConsumers wait for a reconcile or are in one",
            registry=self.registry,
        ).set_function(self.queue_depth)

    def record_reconcile(self, outcome: str, seconds: float) -> None:
        """A reconcile ended."""
        self.reconciles.labels(outcome).inc()
        self.duration.observe(seconds)


async def serve(health: Health, host: str, port: int) -> web.AppRunner:
    """Answer probes until the runner is cleaned up."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if health.is_follower:
            return web.Response(text="ok, follower\n")
        if not health.is_synced:
            return web.Response(status=503, text="the first lists are not in yet\n")
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

"""/livez, /readyz and /metrics of the operator.

Alive means that events arrive and are worked off: a watch that has been silent for long while the API server answers
is not, nor is a queue that holds work while no reconcile has ended for long.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

STUCK_AFTER = timedelta(minutes=5)
STALE_AFTER = timedelta(minutes=3)
"""A watch without an event for this long is broken. A healthy watch receives a bookmark every minute."""


@dataclass
class Health:
    """What the probes answer from. Written by the operator's loop."""

    waiting: Callable[[], int]
    """How many StreamConsumers wait for a reconcile or are in one."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    synced: bool = False
    follower: bool = False
    """Whether another operator leads: ready to take over is all that is asked of this one."""

    def __post_init__(self) -> None:
        self._last_progress = time.monotonic()
        self._heard: dict[str, float] = {}
        self._looked = time.monotonic()
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
        ).set_function(self.waiting)

    def reconciled(self, outcome: str, seconds: float) -> None:
        """A reconcile ended."""
        self._last_progress = time.monotonic()
        self.reconciles.labels(outcome).inc()
        self.duration.observe(seconds)

    def heard(self, watch: str) -> None:
        """The watch of this name brought something, or has begun."""
        self._heard[watch] = time.monotonic()

    def looked(self) -> None:
        """The API server answered another question than a watch."""
        self._looked = time.monotonic()

    def silent(self, now: float) -> list[str]:
        """The watches that had brought nothing for too long at that time."""
        return [watch for watch, last in self._heard.items() if now - last >= STALE_AFTER.total_seconds()]

    @property
    def watching(self) -> bool:
        """Whether every watch speaks. An API server that answers nothing at all is not held against the operator:
        a restart would not help."""
        return not self.silent(self._looked)

    @property
    def alive(self) -> bool:
        if self.waiting() == 0:
            self._last_progress = time.monotonic()
        return time.monotonic() - self._last_progress < STUCK_AFTER.total_seconds()


async def serve(health: Health, host: str, port: int) -> web.AppRunner:
    """Answer probes until the runner is cleaned up."""

    async def livez(_: web.Request) -> web.Response:
        if not health.watching:
            return _answer(healthy=False, otherwise="the API server answers and a watch brings nothing")
        return _answer(healthy=health.alive, otherwise="no reconcile has ended for 5 minutes")

    async def readyz(_: web.Request) -> web.Response:
        if health.follower:
            return web.Response(text="ok, follower\n")
        return _answer(healthy=health.synced, otherwise="the first lists are not in yet")

    async def metrics(_: web.Request) -> web.Response:
        text = generate_latest(health.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


def _answer(*, healthy: bool, otherwise: str) -> web.Response:
    return web.Response(text="ok\n") if healthy else web.Response(status=503, text=f"{otherwise}\n")

"""The operator's process: lists once, then watches; workers reconcile; SIGTERM ends it between two reconciles."""

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import kopf
from kopf._core.engines.peering import Identity

from streamconsumer.model import names
from streamconsumer.operator.cluster import Cluster, connected, everything
from streamconsumer.operator.handlers import OWNED, SELECTOR, watch, watching
from streamconsumer.operator.health import Health, serve
from streamconsumer.operator.queue import Key, KeyedQueue
from streamconsumer.operator.reconcile import Reconciler
from streamconsumer.operator.settings import OperatorSettings
from streamconsumer.operator.store import Store

log = logging.getLogger(__name__)


def run() -> None:
    """Run the operator from its environment until a signal ends it. Raises InvalidSettings."""
    settings = OperatorSettings.from_env(os.environ)
    log_format = kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.PLAIN
    kopf.configure(log_format=log_format)
    logging.getLogger().setLevel(settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)

    import uvloop  # noqa: PLC0415 - only this process runs on it

    uvloop.run(operate(settings))


async def operate(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with connected() as cluster:
        await Operator(cluster, settings).run(stop)


class Operator:
    """Store, queue and reconciler around one cluster."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.store = Store()
        self.queue = KeyedQueue()
        self.health = Health()
        self.reconciler = Reconciler(cluster, self.store, settings)

    async def run(self, stop: asyncio.Event) -> None:
        """Startup, main loop, shutdown."""
        runner = await serve(self.health, self.settings.http_host, self.settings.http_port)
        try:
            await self._startup()
            async with self._working():
                await self._watch_until(stop)
        finally:
            await runner.cleanup()
        log.info("operator stopped")

    async def _startup(self) -> None:
        """Know everything before the first reconcile: what is missing from the store is missing from the cluster."""
        kinds = [(names.API_VERSION, names.KIND)]
        consumers = await everything(self.cluster, kinds, self.settings.watch_namespaces)
        children = await everything(self.cluster, OWNED, self.settings.watch_namespaces, SELECTOR)
        for manifest in [*children, *consumers]:
            self.store.put(manifest)
        for key in self.store.consumers:
            self.queue.add(key)
        self.health.synced = True
        log.info(
            "operator started",
            extra={
                "consumers": len(consumers),
                "children": len(children),
                "namespaces": self.settings.watch_namespaces,
            },
        )

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.queue.work(self._reconcile, self.settings.workers)),
            asyncio.create_task(self._resync()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_until(self, stop: asyncio.Event) -> None:
        await kopf.operator(
            registry=watch(self.store, self.queue),
            settings=watching(),
            # kopf would derive one from the user name, and a numeric user of a container has none.
            identity=Identity(names.FIELD_MANAGER),
            standalone=True,
            clusterwide=not self.settings.watch_namespaces,
            namespaces=self.settings.watch_namespaces,
            stop_flag=stop,
        )

    async def _reconcile(self, key: Key) -> None:
        started, outcome = time.monotonic(), "error"
        try:
            await self.reconciler.reconcile(key)
            outcome = "success"
        finally:
            self.health.waiting = len(self.queue)
            self.health.reconciled(outcome, time.monotonic() - started)

    async def _resync(self) -> None:
        """Look at everything now and then although nothing happened: a watch may have missed something."""
        while True:
            await asyncio.sleep(_jittered(self.settings.resync_interval))
            for key in list(self.store.consumers):
                self.queue.add(key)


def _jittered(interval: timedelta) -> float:
    return interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads operators, guards nothing

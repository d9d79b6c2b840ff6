"""The operator's process: lists once, then watches; workers reconcile; SIGTERM ends it between two reconciles."""

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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

LISTS_SETTLE_SECONDS = 2
"""kopf lists one kind after the other; one look after the last of them is enough."""

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
        self.health = Health(waiting=self.queue.__len__)
        self.reconciler = Reconciler(cluster, self.store, settings)
        self._listed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Startup, main loop, shutdown."""
        runner = await serve(self.health, self.settings.http_host, self.settings.http_port)
        self.port = runner.addresses[0][1]
        try:
            await self._startup()
            async with self._working():
                await self._watch_until(stop)
        finally:
            await runner.cleanup()
        log.info("operator stopped")

    async def _startup(self) -> None:
        """Know everything before the first reconcile: what is missing from the store is missing from the cluster."""
        await self._look()
        self.health.synced = True
        counts = {"consumers": len(self.store.consumers), "objects": len(self.store.everything())}
        told = {"namespaces": self.settings.watch_namespaces, "http_port": self.port}
        log.info("operator started", extra={**counts, **told})

    async def _look(self) -> None:
        """Make the store what the cluster holds, and reconcile everything."""
        before, namespaces = self.store.everything(), self.settings.watch_namespaces
        children = await everything(self.cluster, OWNED, namespaces, SELECTOR)
        consumers = await everything(self.cluster, [(names.API_VERSION, names.KIND)], namespaces)
        for key in self.store.correct(before, [*children, *consumers]):
            self.queue.add(key)

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
            registry=watch(self.store, self.queue, self._listed.set),
            settings=watching(),
            # kopf would derive one from the user name, and a numeric user of a container has none.
            identity=Identity(names.FIELD_MANAGER),
            standalone=True,
            clusterwide=not self.settings.watch_namespaces,
            namespaces=self.settings.watch_namespaces,
            stop_flag=stop,
        )

    async def _reconcile(self, key: Key) -> timedelta | None:
        started, outcome = time.monotonic(), "error"
        try:
            again = await self.reconciler.reconcile(key)
            outcome = "success"
        finally:
            self.health.reconciled(outcome, time.monotonic() - started)
        return again

    async def _resync(self) -> None:
        """Look at everything after kopf had to list: it does not tell what was deleted while its watch was broken.
        And now and then although nothing happened."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._listed.wait(), _jittered(self.settings.resync_interval))
            self._listed.clear()
            await asyncio.sleep(LISTS_SETTLE_SECONDS)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the API server may be away; the watch outlives that too
                log.warning("cannot list; will be tried again", extra={"error": str(error)})
                self._listed.set()


def _jittered(interval: timedelta) -> float:
    return interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads operators, guards nothing

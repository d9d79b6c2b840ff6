"""The operator's process: lists once, then watches; workers reconcile; SIGTERM ends it between two requests."""

import asyncio
import logging
import os
import random
import signal
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import kopf
from kopf._core.engines.peering import Identity

from streamconsumer.errors import ServerBusy
from streamconsumer.model import names
from streamconsumer.operator.autoscaling.autoscaler import Scaler
from streamconsumer.operator.cache.create_debounce import Arrivals
from streamconsumer.operator.cache.object_cache import Store
from streamconsumer.operator.cache.workqueue import Key, KeyedQueue
from streamconsumer.operator.health import Health, serve
from streamconsumer.operator.kube.api import connected, what_was_said
from streamconsumer.operator.kube.client import Cluster, everything
from streamconsumer.operator.kube.event_recorder import Events
from streamconsumer.operator.kube.leader_election import Lease
from streamconsumer.operator.kube.watches import LISTED, OWNED, SELECTOR, listening, watch, watching
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.metrics import StreamGauges
from streamconsumer.operator.reconcile.reconciler import Reconciler
from streamconsumer.operator.reconcile_trace import ENDPOINTS, current
from streamconsumer.operator.redis_monitor.monitor import Streams
from streamconsumer.operator.settings import OperatorSettings

if TYPE_CHECKING:
    from streamconsumer.operator.tracing import Tracing

RETRY_SECONDS = 2
WORKERS = 8
"""The number of StreamConsumers that are reconciled at the same time."""

RESYNC_INTERVAL = timedelta(minutes=10)
"""The interval at which every StreamConsumer is reconciled even without an event. Jittered by 25 %."""

log = logging.getLogger(__name__)


def run() -> None:
    """Run the operator from its environment until a signal ends it. Raises InvalidSettings."""
    settings = OperatorSettings.from_env(os.environ)
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger().setLevel(settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)

    from streamconsumer.event_loop import new_event_loop  # noqa: PLC0415 - only this process runs on it

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(operate(settings))


async def operate(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with connected() as api:
        await Operator(Cluster(api), settings).run(stop)


class Operator:
    """Store, queue and reconciler around one cluster."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.store = Store()
        self.queue = KeyedQueue()
        self.arrivals = Arrivals(self.queue.add)
        self.health = Health(waiting=self.queue.__len__)
        self.scaler = Scaler(self.queue.add, time.monotonic)
        self.streams = Streams(
            cluster,
            self.queue.add,
            interval=settings.stream_interval,
            looked=self.scaler.looked,
        )
        self.health.registry.register(StreamGauges(self.store.consumers, self.streams.latest, self.scaler.pace))
        self.events = Events(cluster)
        self.reconciler = Reconciler(cluster, self.store, settings, self.streams, self.scaler, self.events)
        self.lease = Lease(cluster, settings.lease) if settings.lease else None
        self.tracing = _tracing(settings)
        self._listed = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Startup, main loop, shutdown."""
        self._runner = await serve(self.health, self.settings.http_host, self.settings.http_port)
        self._working = asyncio.create_task(self._startup())
        try:
            await _first_of(self._working, stop)
            if not stop.is_set():
                self._working = asyncio.create_task(self._main_loop())
                self._working.add_done_callback(lambda _: stop.set())  # it never ends by itself
                await self._watch_until(stop)
        finally:
            await self._shutdown()
        if not self._working.cancelled():
            self._working.result()
        log.info("operator stopped")

    async def _startup(self) -> None:
        """Lead, then know everything before the first reconcile: what is missing from the store is missing from the
        cluster."""
        if self.lease:
            await self._lead(self.lease)
        while not await self._looked():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(RETRY_SECONDS)
        self.health.synced = True
        counts = {"consumers": len(self.store.consumers), "objects": len(self.store.everything())}
        told = {"namespaces": self.settings.watch_namespaces, "http_port": self._runner.addresses[0][1]}
        log.info("operator started", extra={**counts, **told})

    async def _lead(self, lease: Lease) -> None:
        self.health.follower = True
        log.info("operator stands by", extra={"http_port": self._runner.addresses[0][1]})
        await lease.acquire()
        self.health.follower = False
        self._holding = asyncio.create_task(_hold_or_end(lease))

    async def _looked(self) -> bool:
        """Whether the cluster could be looked at: the API server may be away, a definition only just be there."""
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - without a look there is nothing to do but to try again
            log.warning("cannot list; will be tried again", extra={"error": what_was_said(error)})
            if isinstance(error, ServerBusy):
                await asyncio.sleep(error.after.total_seconds())
            return False
        return True

    async def _look(self) -> None:
        """Make the store what the cluster holds, and reconcile everything."""
        before, there, concerned = self.store.versions(), set[str](), set[Key | None]()
        for kinds, selector in ((OWNED, SELECTOR), ([(names.API_VERSION, names.KIND)], "")):
            async for manifest in everything(self.cluster, kinds, self.settings.watch_namespaces, selector):
                there.add(manifest["metadata"]["uid"])
                concerned.add(self.store.put(manifest))
        for key in concerned | self.store.drop_missing(before, there):
            if key:
                self.queue.add(key)

    async def _main_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.work(self._reconcile, WORKERS))
            group.create_task(self.events.write())
            group.create_task(self._resync())

    async def _shutdown(self) -> None:
        """Between two requests, and at once: whatever was begun is found and ended by the next operator."""
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)
        await self.streams.aclose()
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
        if self.lease:
            await self.lease.release()
        await self._runner.cleanup()
        if (tracing := self.tracing) is not None:
            self.tracing = None
            await asyncio.to_thread(tracing.shutdown)

    async def _watch_until(self, stop: asyncio.Event) -> None:
        registry = watch()

        async def cleanup(**_: Any) -> None:
            """kopf takes the signals over, and at the end waits 5 s for tasks that still run: ours and its own."""
            stop.set()
            await self._shutdown()

        kopf.on.cleanup(registry=registry)(cleanup)
        with listening(self._seen):
            await kopf.operator(
                registry=registry,
                settings=watching(),
                # kopf would derive one from the user name, and a numeric user of a container has none.
                identity=Identity(names.FIELD_MANAGER),
                standalone=True,
                clusterwide=not self.settings.watch_namespaces,
                namespaces=self.settings.watch_namespaces,
                stop_flag=stop,
            )

    def _seen(self, event: str, manifest: Manifest) -> None:
        if event == LISTED:
            self._listed.set()
        key = self.store.drop(manifest) if event == "DELETED" else self.store.put(manifest)
        if key is None:
            return
        if event == "ADDED" and manifest["kind"] == names.KIND:
            self.arrivals.came(key)
        else:
            self.queue.add(key)

    async def _reconcile(self, key: Key) -> timedelta | None:
        started, outcome = time.monotonic(), "error"
        try:
            again = await self._traced(key)
            outcome = "success"
        finally:
            self.health.reconciled(outcome, time.monotonic() - started)
        return again

    async def _traced(self, key: Key) -> timedelta | None:
        if self.tracing is None:
            return await self.reconciler.reconcile(key)
        with self.tracing.reconcile(key, self.store.consumers.get(key), self.queue.waited_seconds.get(key, 0)) as told:
            current.set(told)  # of this worker's task, until its next reconcile
            return await self.reconciler.reconcile(key)

    async def _resync(self) -> None:
        """Look at everything after kopf had to list: it does not tell what was deleted while its watch was broken.
        And now and then although nothing happened."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_jittered(RESYNC_INTERVAL)):
                    await self._listed.wait()
            await asyncio.sleep(RETRY_SECONDS)  # kopf lists one kind after the other: one look after the last will do
            self._listed.clear()
            if not await self._looked():
                self._listed.set()


async def _first_of(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait for the task, but no longer than until stop is set. Raises what the task raised."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()


async def _hold_or_end(lease: Lease) -> None:
    """Another may lead as soon as the Lease is lost. So nothing is tidied up: what was begun is found by the other,
    and Kubernetes starts this one again, as a follower."""
    await lease.hold()
    log.critical("the lease is lost: this operator ends at once, and is a follower when it is started again")
    logging.shutdown()
    os._exit(1)


def _tracing(settings: OperatorSettings) -> "Tracing | None":
    """Where somebody is told to take spans. Nothing of OpenTelemetry is loaded otherwise."""
    told = settings.telemetry_endpoint or any(os.environ.get(name) for name in ENDPOINTS)
    off = os.environ.get("OTEL_SDK_DISABLED") == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if not told or off:
        return None
    from streamconsumer.operator import tracing  # noqa: PLC0415 - 10 MiB

    return tracing.Tracing(settings.telemetry_endpoint)


def _jittered(interval: timedelta) -> float:
    return interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - spreads operators, guards nothing

"""The operator process lists and watches all objects, and reconciles StreamConsumers in several workers until
SIGTERM."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import kopf
from kopf._core.engines.peering import Identity

from streamconsumer.errors import InvalidSettings
from streamconsumer.http_server import HttpServer
from streamconsumer.log_formatter import PrintableFormatter
from streamconsumer.model import names
from streamconsumer.model.env_codec import unknown_variables
from streamconsumer.operator.cache.create_debounce import CreateDebounce
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key, WorkQueue
from streamconsumer.operator.health import Health, serve
from streamconsumer.operator.kube.api import api_error_message, connect
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.kube.leader_election import LeaderLease
from streamconsumer.operator.kube.resync import CHECK_INTERVAL, RESYNC_INTERVAL, Resync, with_jitter
from streamconsumer.operator.kube.secret_reader import SecretReader
from streamconsumer.operator.kube.status_writer import StatusWriter
from streamconsumer.operator.kube.watches import build_registry, intercept_watches, kopf_settings
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.metrics import NamespaceGauges, StreamGauges
from streamconsumer.operator.reconcile.reconciler import Reconciler
from streamconsumer.operator.reconcile_trace import ENDPOINT_VARIABLES, current
from streamconsumer.operator.redis_monitor.destinations import Destinations, dangerous_addresses
from streamconsumer.operator.redis_monitor.monitor import RedisMonitor
from streamconsumer.operator.settings import PREFIX, OperatorSettings
from streamconsumer.text import json_printable

if TYPE_CHECKING:
    from streamconsumer.operator.tracing import ReconcileTracing

RETRY_DELAY_SECONDS = 2
WORKERS = 8
"""The maximum number of StreamConsumers that are reconciled at the same time."""

DANGEROUS_EXCEPTION = "allowed_destinations lets all authors of StreamConsumers use the operator to reach its own host"

log = logging.getLogger(__name__)


def run() -> None:
    """Run the operator until SIGTERM or SIGINT, with settings from environment variables. Raises InvalidSettings if a
    variable is invalid."""
    settings = OperatorSettings.from_env(os.environ)
    unknown = unknown_variables(os.environ, [PREFIX + name.upper() for name in OperatorSettings.model_fields])
    _raise_open_files_limit()
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger().setLevel(settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter(handler.formatter or logging.Formatter(), json_printable))
    for name, remedy in unknown.items():
        log.warning("unknown environment variable", extra={"found": name, "remedy": remedy})

    from streamconsumer.event_loop import new_event_loop  # noqa: PLC0415 - importers of this module need no event loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(operate(settings))


def _raise_open_files_limit() -> None:
    """Raise the soft limit of open files to the hard limit, as Go programs do. Container runtimes keep the soft limit
    low for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def operate(settings: OperatorSettings) -> None:
    """Run the operator until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _warn_of_dangerous_exceptions(settings)
    async with connect() as api:
        await Operator(KubeClient(api), settings).run(stop)


def _warn_of_dangerous_exceptions(settings: OperatorSettings) -> None:
    for network in settings.allowed_destinations:
        if kinds := dangerous_addresses(network):
            fields = {"network": str(network), "allows": kinds, "remedy": "remove it from allowedDestinations"}
            log.warning(DANGEROUS_EXCEPTION, extra=fields)


class Operator:
    """The object cache, the work queue and the reconciler of one cluster."""

    def __init__(self, kube: KubeClient, settings: OperatorSettings) -> None:
        self.kube = kube
        self.settings = settings
        self.queue = WorkQueue(self._is_large)
        self.cache = ObjectCache(self.queue.add)
        self.create_debounce = CreateDebounce(self.queue.add)
        self.status_writer = StatusWriter(kube)
        self.resync = Resync(kube, self.cache, self.queue.add, settings.watch_namespaces)
        self.health = Health(queue_depth=self.queue.__len__, readiness=self._readiness)
        self.secrets = SecretReader(kube, self._on_secrets_permission, is_cluster_wide=not settings.watch_namespaces)
        self.destinations = Destinations(settings.allowed_destinations)
        self.redis_monitor = RedisMonitor(
            self.secrets, self.queue.add, interval=settings.stream_interval, destinations=self.destinations
        )
        self.events = EventRecorder(kube)
        self.reconciler = Reconciler(
            kube, self.secrets, self.cache, settings, self.redis_monitor, self.events, self.status_writer
        )
        self.health.registry.register(StreamGauges(self.cache.consumers, self.reconciler.states))
        self.health.registry.register(NamespaceGauges(self.resync.served))
        self.lease = LeaderLease(kube, settings.lease) if settings.lease else None
        self._is_follower = False
        self._obstacle = "checking whether this follower could lead"
        """Reason why this operator could not lead. Empty if it could lead."""
        self.tracing = _build_tracing(settings)
        self._lease_renewal: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Start the operator, run the main loop until `stop` is set, and shut down. If the main loop fails, raises its
        error."""
        self._http_server = await self._serve()
        self._main_task = asyncio.create_task(self._startup())
        try:
            await _first_of(self._main_task, stop)
            if not stop.is_set():
                self._main_task = asyncio.create_task(self._main_loop())
                self._main_task.add_done_callback(lambda _: stop.set())  # only an error ends the main loop
                await self._watch_until(stop)
        finally:
            await self._shutdown()
        if not self._main_task.cancelled():
            self._main_task.result()
        log.info("operator stopped")

    async def _serve(self) -> HttpServer:
        host, port = self.settings.http_host, self.settings.http_port
        try:
            return await serve(self.health, host, port)
        except OSError as error:
            variables = f"{PREFIX}HTTP_HOST is {host}, {PREFIX}HTTP_PORT is {port}"
            raise InvalidSettings(f"{variables}: {error.strerror}") from None

    async def _startup(self) -> None:
        """Become the leader, then list all objects. The lists of a namespace come before its first reconcile. A
        reconcile assumes that objects that are not in the cache do not exist."""
        if self.lease:
            await self._acquire_leadership(self.lease)
        await self.resync.start()
        while not await self._update_api_servers():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(RETRY_DELAY_SECONDS)
        gc.collect()
        gc.freeze()  # garbage collections then skip these objects and take 50 ms less
        counts = {"consumers": len(self.cache.consumers), "objects": len(self.cache.all_objects())}
        log_fields = {"namespaces": self.settings.watch_namespaces, "http_port": self._http_server.port}
        log.info("operator started", extra={**counts, **log_fields})

    async def _acquire_leadership(self, lease: LeaderLease) -> None:
        self._is_follower = True
        log.info("running as follower until the leader election is won", extra={"http_port": self._http_server.port})
        checks = asyncio.create_task(self._check_repeatedly_for_obstacles(lease))
        try:
            await lease.acquire(may_lead=lambda: not self._obstacle)
        finally:
            checks.cancel()
        self._is_follower = False
        self._lease_renewal = asyncio.create_task(_exit_when_lease_lost(lease))

    async def _check_repeatedly_for_obstacles(self, lease: LeaderLease) -> None:
        """Check whether this follower could lead. A follower that could not lead is not ready, so that a rolling
        upgrade does not stop a leader that works."""
        while True:
            obstacle = await lease.find_obstacle() or await self.resync.find_obstacle()
            if obstacle and obstacle != self._obstacle:
                log.warning("this follower could not lead; retrying", extra={"error": obstacle})
            self._obstacle = obstacle
            await asyncio.sleep(RETRY_DELAY_SECONDS if obstacle else with_jitter(CHECK_INTERVAL))

    def _readiness(self) -> tuple[bool, str]:
        """Return whether the operator is ready, and the reasons that /readyz reports."""
        if self._is_follower:
            return not self._obstacle, f"follower; {self._obstacle}" if self._obstacle else "ok, follower"
        if not self.resync.has_served:
            return False, f"waiting for the lists; {self.resync.warning()}"
        return True, "; ".join(filter(None, ("ok", self.status_writer.warning, self.resync.warning())))

    async def _update_api_servers(self) -> bool:
        """Add the current addresses of the API server to `destinations.api_servers`. The operator never connects to
        these addresses on behalf of a StreamConsumer. Earlier addresses stay in the set, because a cluster may have
        several API servers, and each API server announces only its own address.

        Returns False if the API server does not respond."""
        loop = asyncio.get_running_loop()
        try:
            endpoints = await self.kube.server_endpoints()
        except Exception as error:  # noqa: BLE001 - without a response, retrying is the only option
            log.warning("failed to connect to the API server; retrying", extra={"error": api_error_message(error)})
            return False
        for host, port in endpoints:
            try:
                answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError:  # the name is looked up again later
                continue
            addresses = {(ip_address(sockaddr[0]), port) for *_, sockaddr in answers}
            self.destinations.api_servers |= addresses
        return True

    async def _main_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run_workers(self._reconcile, WORKERS))
            group.create_task(self.events.run())
            group.create_task(self.secrets.run())
            group.create_task(self.resync.run())
            group.create_task(self._update_api_servers_repeatedly())

    async def _shutdown(self) -> None:
        """Stop immediately and cancel the running reconciles. The next operator process completes these reconciles."""
        self._main_task.cancel()
        await asyncio.gather(self._main_task, return_exceptions=True)
        await self.redis_monitor.aclose()
        if self._lease_renewal:
            self._lease_renewal.cancel()
            await asyncio.gather(self._lease_renewal, return_exceptions=True)
        if self.lease:
            await self.lease.release()
        self._http_server.stop()
        if (tracing := self.tracing) is not None:
            self.tracing = None
            await asyncio.to_thread(tracing.shutdown)

    async def _watch_until(self, stop: asyncio.Event) -> None:
        registry = build_registry()

        async def cleanup(**_: Any) -> None:
            """Stop the operator's tasks first. After a signal, kopf waits up to 5 s for tasks that still run."""
            stop.set()
            await self._shutdown()

        kopf.on.cleanup(registry=registry)(cleanup)
        with intercept_watches(self.kube, self.resync, self._on_object):
            await kopf.operator(
                registry=registry,
                settings=kopf_settings(),
                # By default, kopf derives the identity from the user name, but a container's numeric user has no name.
                identity=Identity(names.FIELD_MANAGER),
                standalone=True,
                clusterwide=not self.settings.watch_namespaces,
                namespaces=self.settings.watch_namespaces,
                stop_flag=stop,
            )

    def _on_object(self, event: str, manifest: Manifest) -> None:
        key = self.cache.remove(manifest) if event == "DELETED" else self.cache.upsert(manifest)
        if key is None:
            return
        if event == "ADDED" and manifest["kind"] == names.KIND:
            self.create_debounce.add(key)
        else:
            self.queue.add(key)

    def _on_secrets_permission(self, namespace: str) -> None:
        """Poll and reconcile the StreamConsumers of a namespace in which the permission to get Secrets has changed."""
        self.redis_monitor.poll_namespace(namespace)
        for key in self.cache.consumers:
            if key[0] == namespace:
                self.queue.add(key)

    def _is_large(self, key: Key) -> bool:
        return self.cache.is_large(key)

    async def _reconcile(self, key: Key) -> timedelta | None:
        if not self.resync.is_served(key[0]):
            self.reconciler.forget(key)
            return None
        started, outcome = time.monotonic(), "error"
        try:
            delay = await self._reconcile_traced(key)
            outcome = "success"
        finally:
            self.health.record_reconcile(outcome, time.monotonic() - started)
        return delay

    async def _reconcile_traced(self, key: Key) -> timedelta | None:
        if self.tracing is None:
            return await self.reconciler.reconcile(key)
        queue_seconds = self.queue.queue_seconds.get(key, 0)
        with self.tracing.reconcile(key, self.cache.consumers.get(key), queue_seconds) as trace:
            current.set(trace)  # applies to this worker's task, until its next reconcile
            return await self.reconciler.reconcile(key)

    async def _update_api_servers_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(with_jitter(RESYNC_INTERVAL))
            await self._update_api_servers()


async def _first_of(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait until the task ends or `stop` is set. Raises the task's error if the task failed."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()


async def _exit_when_lease_lost(lease: LeaderLease) -> None:
    """Exit the process when the Lease is lost. The exit is immediate and without cleanup, because another operator may
    already be the leader. The new leader completes unfinished reconciles, and Kubernetes restarts this process as a
    follower."""
    await lease.renew_until_lost()
    log.critical("lost the leader lease; exiting")
    logging.shutdown()
    os._exit(1)


def _build_tracing(settings: OperatorSettings) -> "ReconcileTracing | None":
    """Return a ReconcileTracing, or None if no endpoint is configured or tracing is disabled. OpenTelemetry is imported
    only if tracing is enabled."""
    has_endpoint = settings.telemetry_endpoint or any(os.environ.get(name) for name in ENDPOINT_VARIABLES)
    is_off = os.environ.get("OTEL_SDK_DISABLED") == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if not has_endpoint or is_off:
        return None
    from streamconsumer.operator import tracing  # noqa: PLC0415 - takes 10 MiB of memory

    return tracing.ReconcileTracing(settings.telemetry_endpoint)

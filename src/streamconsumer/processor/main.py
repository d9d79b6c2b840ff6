"""A pod's process: environment → settings → processor; a signal → stop_listening → flush → exit.

Exit code 0 after a drain, 78 (configuration) when it cannot begin: the one line that says why goes to the log and to
the termination log, from where the operator lifts it into the StreamConsumer's condition.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.model.env_codec import env_name, from_env
from streamconsumer.model.processor_settings import ProcessorSettings
from streamconsumer.processor import logs
from streamconsumer.processor.consumer import StreamManager
from streamconsumer.processor.handler.http_handler import HttpHandler
from streamconsumer.processor.handler.loader import BatchHandler, Handler, add_handler_paths, load_handler
from streamconsumer.processor.health import Health, ProbeServer
from streamconsumer.processor.metrics import Metrics, build_registry
from streamconsumer.processor.processor import RedisStreamProcessor
from streamconsumer.processor.telemetry import FLUSH_BUDGET, SpanRecorder, telemetry_from_env
from streamconsumer.processor.telemetry.otlp_metrics import MetricsExporter, exporter_from_env

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""

log = logging.getLogger(__name__)


def run() -> int:
    """Run one processor from its environment until a signal ends it. Returns the exit code."""
    logs.configure("INFO", os.environ.get("STREAMCONSUMER_LOG_FORMAT", "json"))
    # Until there is something to drain, a signal just ends it: process 1 has no such default.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        settings = from_env(ProcessorSettings, os.environ)
        logs.configure(settings.log_level, settings.log_format)
        _run_until_signalled(settings, _load_handler(settings))
    except InvalidSettings as error:
        return _exit_with_configuration_error(error)
    return 0


def _run_until_signalled(settings: ProcessorSettings, handler: Handler | BatchHandler) -> None:
    from streamconsumer.event_loop import new_event_loop  # noqa: PLC0415 - only this process runs on it

    manager, metrics = _build_manager(settings), Metrics()
    telemetry = _build_telemetry(settings, manager, metrics)
    figures = exporter_from_env(os.environ, metrics, lambda: _metric_attributes(settings, manager))
    if figures:
        figures.start()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        stuck = runner.run(_serve(settings, handler, manager, telemetry, metrics))
        _flush(telemetry, figures)
        if (
            stuck or _has_live_threads()
        ):  # closing the loop waits for coroutines and its threads, Python for all threads
            logging.shutdown()
            os._exit(0)


def _flush(telemetry: SpanRecorder | None, metrics_exporter: MetricsExporter | None) -> None:
    """Spans and figures side by side, within one budget."""
    deadline = time.monotonic() + FLUSH_BUDGET.total_seconds()
    if metrics_exporter:
        metrics_exporter.stop()
    if telemetry and not telemetry.shutdown():
        log.warning(
            "the collector did not take the last spans in time; they are lost",
            extra={"spans_sent": telemetry.sent, "spans_dropped": telemetry.dropped},
        )
    if metrics_exporter and not metrics_exporter.join(deadline - time.monotonic()):
        log.warning("the collector did not take the last figures in time; they are lost")


def _metric_attributes(settings: ProcessorSettings, manager: StreamManager) -> dict[str, str | int]:
    address, port = manager.address
    about: dict[str, str | int] = {
        "messaging.system": "redis",
        "messaging.destination.name": settings.stream,
        "messaging.consumer.group.name": settings.consumer_group,
        "server.address": address,
    }
    return about if port is None else {**about, "server.port": port}


def _load_handler(settings: ProcessorSettings) -> Handler | BatchHandler:
    said = settings.handler
    if said.http_url is None:
        assert said.python
        add_handler_paths()
        return load_handler(said.python, batch=said.batch)
    return HttpHandler(said.http_url, settings.concurrency, settings.delivery.timeout)


def _has_live_threads() -> bool:
    """Threads that Python would wait for, such as those of a handler's own `asyncio.to_thread`."""
    return any(each is not threading.main_thread() and not each.daemon for each in threading.enumerate())


def _exit_with_configuration_error(error: InvalidSettings) -> int:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    log.critical(line)
    path = os.environ.get("STREAMCONSUMER_TERMINATION_LOG", names.TERMINATION_LOG)
    with suppress(OSError):  # there is none outside a pod
        Path(path).write_text(line[:4096])
    return EXIT_CONFIGURATION


async def _serve(
    settings: ProcessorSettings,
    handler: Handler | BatchHandler,
    manager: StreamManager,
    telemetry: SpanRecorder | None,
    metrics: Metrics,
) -> bool:
    """Startup, listening, shutdown. True if handlers are still running."""
    health = Health()
    labels = {"stream": settings.stream, "consumer_group": settings.consumer_group}
    try:
        endpoint = ProbeServer(health, build_registry(metrics, labels), settings.http_host, settings.http_port)
    except OSError as error:
        raise InvalidSettings(f"{env_name('http_port')} is {settings.http_port}: {error.strerror}") from None
    endpoint.start()
    processor = RedisStreamProcessor(
        manager,
        settings.stream,
        settings.consumer_group,
        settings.consumer_name,
        settings.batch_count,
        settings.poll_interval.total_seconds(),
        concurrency=settings.concurrency,
        batch=settings.handler.batch,
        ordering_key=settings.ordering_key,
        drain_timeout=settings.drain_timeout,
        telemetry=telemetry,
        metrics=metrics,
        health=health,
    )
    processor.set_message_callback(handler)
    stop = _install_signal_handlers(processor)
    await processor.start_listening()
    log.info(
        "processor started",
        extra={
            "redis": manager.address_text,
            "handler": settings.handler.python or settings.handler.http_url,
            "http_port": endpoint.port,
            "tracing": telemetry is not None,
        },
    )
    ended = asyncio.create_task(processor.wait_stopped())
    await asyncio.wait([asyncio.create_task(stop.wait()), ended], return_when=asyncio.FIRST_COMPLETED)
    await processor.stop_listening()
    if isinstance(handler, HttpHandler):
        await handler.aclose()
    await manager.aclose()
    endpoint.stop()
    log.info("processor stopped", extra=metrics.counters())  # what the last scrape missed
    await ended
    return processor.has_stuck_handlers


def _build_manager(settings: ProcessorSettings) -> StreamManager:
    manager = StreamManager.from_settings(
        settings.redis,
        settings.stream,
        start_from=settings.start_from,
        encoding=settings.encoding,
        delivery=settings.delivery,
        retention=settings.retention,
    )
    if manager.skips_tls_verification:
        log.warning("the server's certificate is not verified: whoever is in between can read and change everything")
    return manager


def _build_telemetry(settings: ProcessorSettings, manager: StreamManager, metrics: Metrics) -> SpanRecorder | None:
    return telemetry_from_env(
        os.environ,
        stream=settings.stream,
        consumer_group=settings.consumer_group,
        consumer=settings.consumer_name,
        server=lambda: manager.address,
        metrics=metrics,
        startup_name=os.environ.get("OTEL_SERVICE_NAME") or settings.consumer_group,
        trust=settings.telemetry.context,
        field=settings.telemetry.context_field,
        allowed_baggage=settings.telemetry.baggage,
        is_batch=settings.handler.batch,
    )


def _install_signal_handlers(processor: RedisStreamProcessor) -> asyncio.Event:
    """The first SIGTERM or SIGINT sets the event; a second one hurries the drain."""
    stop = asyncio.Event()

    def signalled(number: int) -> None:
        log.info("received %s", signal.Signals(number).name)
        if stop.is_set():
            processor.force_stop()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    return stop

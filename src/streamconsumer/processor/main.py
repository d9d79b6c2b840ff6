"""The process of a pod: reads the settings from environment variables, runs the processor, and drains on a signal.

The exit code is 0 after a drain, 78 (configuration error) if the process cannot start, and 1 after any other error. A
process that fails writes the reason as one line to the log and to the container's termination log. The operator copies
the reason from the termination log to the StreamConsumer's condition.
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
from streamconsumer.model.env_codec import env_name, field_paths, from_env, unknown_variables
from streamconsumer.model.processor_settings import ProcessorSettings
from streamconsumer.processor import logs
from streamconsumer.processor.consumer import StreamManager, registered_pod_uid
from streamconsumer.processor.forked_children import reset_signals_in_children
from streamconsumer.processor.handler.http_handler import HttpHandler
from streamconsumer.processor.handler.loader import BatchHandler, Handler, add_handler_paths, load_handler
from streamconsumer.processor.health import Health, ProbeServer
from streamconsumer.processor.metrics import Metrics, build_registry
from streamconsumer.processor.processor import RedisStreamProcessor
from streamconsumer.processor.runtime import Runtime
from streamconsumer.processor.telemetry import FLUSH_BUDGET, SpanRecorder, telemetry_from_env
from streamconsumer.processor.telemetry.otlp_metrics import MetricsExporter, exporter_from_env
from streamconsumer.text import printable

EXIT_CONFIGURATION = 78
"""Exit code for a configuration error, as defined by EX_CONFIG in `sysexits.h`."""

log = logging.getLogger(__name__)


def run() -> int:
    """Run the processor with the settings in the environment variables until a signal ends it. Returns the exit
    code."""
    logs.configure("INFO", os.environ.get("STREAMCONSUMER_LOG_FORMAT", "json"))
    # Until the processor runs, this handler ends the process on SIGTERM. For process 1, the kernel ignores signals that
    # have no handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    reset_signals_in_children()
    known = [env_name(*path) for path in field_paths(ProcessorSettings)]
    for name, remedy in unknown_variables(os.environ, known).items():
        log.warning("unknown environment variable", extra={"found": printable(name, 253), "remedy": remedy})
    try:
        settings = from_env(ProcessorSettings, os.environ)
        logs.configure(settings.log_level, settings.log_format)
        handler = _load_handler(settings)
        logs.protect_loggers()  # also those of modules that were imported meanwhile
        _run_until_signalled(settings, handler)
    except InvalidSettings as error:
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()), 4096)
        log.critical(reason)
        exit_code = EXIT_CONFIGURATION
    except (Exception, asyncio.CancelledError) as error:  # for example, a handler stopped the event loop
        reason = f"the processor failed with {type(error).__name__}"  # the text may contain a secret
        log.critical(reason, exc_info=error)
        exit_code = 1
    else:
        return 0
    _write_termination_log(reason)
    return exit_code


def _run_until_signalled(settings: ProcessorSettings, handler: Handler | BatchHandler) -> None:
    from streamconsumer.event_loop import new_event_loop  # noqa: PLC0415 - only this process uses it

    manager, metrics = _build_manager(settings), Metrics()
    telemetry = _build_telemetry(settings, manager, metrics)
    metrics_exporter = exporter_from_env(os.environ, metrics, lambda: _metric_attributes(settings, manager))
    if metrics_exporter:
        metrics_exporter.start()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        has_stuck_handlers = runner.run(_serve(settings, handler, manager, telemetry, metrics))
        _flush(telemetry, metrics_exporter)
        # `os._exit` avoids two waits: closing the loop waits for its coroutines and threads, and Python waits for all
        # threads.
        if has_stuck_handlers or _has_live_threads():
            logging.shutdown()
            os._exit(0)


def _flush(telemetry: SpanRecorder | None, metrics_exporter: MetricsExporter | None) -> None:
    """Export the last spans and metrics in parallel. Both exports together take at most `FLUSH_BUDGET`."""
    deadline = time.monotonic() + FLUSH_BUDGET.total_seconds()
    if metrics_exporter:
        metrics_exporter.stop()
    if telemetry and not telemetry.shutdown():
        log.warning(
            "timed out exporting the last spans; these spans are dropped",
            extra={"spans_sent": telemetry.sent, "spans_dropped": telemetry.dropped},
        )
    if metrics_exporter and not metrics_exporter.join(deadline - time.monotonic()):
        log.warning("timed out exporting the last metrics; these metrics are dropped")


def _metric_attributes(settings: ProcessorSettings, manager: StreamManager) -> dict[str, str | int]:
    address, port = manager.address
    attributes: dict[str, str | int] = {
        "messaging.system": "redis",
        "messaging.destination.name": settings.stream,
        "messaging.consumer.group.name": settings.consumer_group,
        "server.address": address,
    }
    return attributes if port is None else {**attributes, "server.port": port}


def _load_handler(settings: ProcessorSettings) -> Handler | BatchHandler:
    handler_settings = settings.handler
    if handler_settings.http_url is None:
        assert handler_settings.python
        add_handler_paths()
        return load_handler(handler_settings.python, batch=handler_settings.batch)
    return HttpHandler(handler_settings.http_url, settings.concurrency, settings.delivery.timeout)


def _has_live_threads() -> bool:
    """Return whether Python would wait for a thread at exit, such as a thread that a handler started."""
    return any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate())


def _write_termination_log(reason: str) -> None:
    path = os.environ.get("STREAMCONSUMER_TERMINATION_LOG", names.TERMINATION_LOG)
    with suppress(OSError):  # outside a pod, the path does not exist
        Path(path).write_text(reason)


async def _serve(
    settings: ProcessorSettings,
    handler: Handler | BatchHandler,
    manager: StreamManager,
    telemetry: SpanRecorder | None,
    metrics: Metrics,
) -> bool:
    """Run the processor until a signal or an unusable Redis server ends it.

    Returns True if handlers are still running after the drain."""
    health = Health()
    labels = {"stream": settings.stream, "consumer_group": settings.consumer_group}
    try:
        probe_server = ProbeServer(health, build_registry(metrics, labels), settings.http_host, settings.http_port)
    except OSError as error:
        variables = f"{env_name('http_host')} is {settings.http_host}, {env_name('http_port')} is {settings.http_port}"
        raise InvalidSettings(f"{variables}: {error.strerror}") from None
    probe_server.start()
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
        runtime=Runtime(pod_uid=registered_pod_uid(os.environ.get(names.POD_UID_VARIABLE, ""))),
    )
    processor.set_message_callback(handler)
    stop = _install_signal_handlers(processor)
    await processor.start_listening()
    log.info(
        "processor started",
        extra={
            "redis": manager.address_text,
            "handler": settings.handler.python or settings.handler.http_url,
            "http_port": probe_server.port,
            "tracing": telemetry is not None,
        },
    )
    stopped = asyncio.create_task(processor.wait_stopped())
    await asyncio.wait([asyncio.create_task(stop.wait()), stopped], return_when=asyncio.FIRST_COMPLETED)
    await processor.stop_listening()
    if isinstance(handler, HttpHandler):
        await handler.aclose()
    await manager.aclose()
    probe_server.stop()
    log.info("processor stopped", extra=metrics.counters())  # The last counts are never scraped.
    await stopped
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
        log.warning("TLS certificate verification is disabled; the connection can be intercepted")
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
        trace_context=settings.telemetry,
        is_batch=settings.handler.batch,
    )


def _install_signal_handlers(processor: RedisStreamProcessor) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets. A second signal ends the drain immediately."""
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        log.info("received signal %s", signal.Signals(number).name)
        if stop.is_set():
            processor.force_stop()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop

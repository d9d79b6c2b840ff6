"""Builds the pipeline: the components that handle a message from its read to its settlement.

A processor builds a new pipeline on each start, so that a run uses no state of an earlier run.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypedDict

from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Consumer, PollingConsumer, StreamManager, build_consumer
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.handler.loader import AsyncHandler, HandlerThreadPool
from streamconsumer.processor.message import ConsumerId, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import AttemptRunner
from streamconsumer.processor.pipeline.batch import BatchRunner
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.fast_path import FastPath
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.prefetch import Prefetch
from streamconsumer.processor.pipeline.preparation import Preparation
from streamconsumer.processor.pipeline.recovery_loop import RecoveryLoop
from streamconsumer.processor.pipeline.settlement import Settler
from streamconsumer.processor.runtime import Runtime
from streamconsumer.processor.telemetry import MessageTracing


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Settings of a processor that its pipeline uses."""

    batch_count: int
    """Maximum number of entries that one read returns, and of messages in one batch."""

    poll_interval: float
    """Pause in seconds between two reads through a custom stream manager, or from a server that ignores BLOCK. If the
    pause is shorter than `blocking_reads.FIRST_BLOCK`, the first blocking reads take as long as the pause."""

    concurrency: int
    """Number of worker slots."""

    is_batch: bool
    """True if the handler takes a list of messages."""

    ordering_key: str | None
    """Name of the entry field whose value is the ordering key. None if messages may be handled in any order."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class ProcessorHooks:
    """Functions of the processor that its pipeline calls."""

    require_handler: Callable[[], AsyncHandler]
    """Returns the user's handler. Raises InvalidSettings if no handler is set."""

    handle_entry: Callable[[Entry], Coroutine[Any, Any, None]]
    """Handles one entry. Not used for batch handlers."""

    fast_path_handler: AsyncHandler | None
    """Handler that the fast path calls. None if there is no fast path."""

    may_claim: Callable[[], bool]
    """Returns True if the processor may claim entries."""

    thread_pool: HandlerThreadPool
    """Threads for handlers that are not async."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Components that a processor uses from its start to its stop."""

    consumer_id: ConsumerId
    consumer: Consumer
    in_flight: InFlightTable
    preparation: Preparation
    settler: Settler
    attempt_runner: AttemptRunner
    recovery_loop: RecoveryLoop
    prefetch: Prefetch
    fast_path: FastPath | None
    """None if every message goes through `ProcessorHooks.handle_entry`."""


class _Observers(TypedDict):
    """Arguments that several components have in common."""

    metrics: Metrics
    telemetry: MessageTracing | None


def build_pipeline(
    manager: StreamManagerProtocol,
    consumer_id: ConsumerId,
    settings: PipelineSettings,
    hooks: ProcessorHooks,
    *,
    metrics: Metrics,
    telemetry: MessageTracing | None,
    runtime: Runtime,
) -> Pipeline:
    """Create the components and connect them."""
    is_batch, delivery, batch_count = settings.is_batch, settings.delivery, settings.batch_count
    breaker = CircuitBreaker(delivery.breaker, runtime.clock)
    in_flight = InFlightTable(
        (lambda first: batch_runner.run(first)) if is_batch else hooks.handle_entry,  # noqa: PLW0108 - created later
        concurrency=settings.concurrency,
        metrics=metrics,
        busy_ids=hooks.thread_pool.busy_ids,
        ordering_key=settings.ordering_key,
        can_park=isinstance(manager, StreamManager),
        timeout=None if is_batch else delivery.timeout,  # BatchRunner has its own timer
        gate=breaker,
        max_held_bytes=memory_limits(delivery.max_entry_bytes).in_flight_bytes,
        clock=runtime.clock,
    )
    consumer = build_consumer(manager, consumer_id, settings.poll_interval, in_flight.ids, metrics, telemetry, runtime)
    in_flight.on_entry_removed, in_flight.on_full = consumer.on_entry_removed, consumer.end_long_read
    consumer.on_stream_recreated = in_flight.drop_all
    observers: _Observers = {"metrics": metrics, "telemetry": telemetry}
    settler = Settler(consumer, in_flight, delivery, breaker, consumer_id=consumer_id, runtime=runtime, **observers)
    collaborators = (consumer, in_flight, delivery, breaker, settler, hooks.thread_pool)
    preparation = Preparation(*collaborators, consumer_id, metrics, runtime.clock)
    handler = _single_message_handler(hooks.require_handler) if is_batch else hooks.require_handler
    attempt_runner = AttemptRunner(handler, settler, telemetry, in_flight.timeouts)
    batch_runner = BatchRunner(
        hooks.require_handler,
        in_flight,
        preparation,
        settler,
        delivery,
        max_count=batch_count,
        thread_pool=hooks.thread_pool,
        consumer_id=consumer_id,
        clock=runtime.clock,
        **observers,
    )
    recovery_loop = RecoveryLoop(
        consumer,
        in_flight,
        may_claim=hooks.may_claim,
        batch_count=batch_count,
        log_context=consumer_id.log_context,
        **observers,
    )
    calls_per_slot = (1 if is_batch else batch_count) / settings.concurrency
    prefetch, fast_path = Prefetch(metrics, batch_count=batch_count, calls_per_slot=calls_per_slot), None
    if not (is_batch or settings.ordering_key or preparation.marks_first_attempts):
        fast_path = _build_fast_path(hooks, in_flight, attempt_runner, settler, breaker, consumer, metrics, runtime)
    parts = (consumer_id, consumer, in_flight, preparation, settler, attempt_runner, recovery_loop)
    return Pipeline(*parts, prefetch, fast_path)


def _build_fast_path(  # noqa: PLR0917 - one per collaborator
    hooks: ProcessorHooks,
    in_flight: InFlightTable,
    attempt_runner: AttemptRunner,
    settler: Settler,
    breaker: CircuitBreaker,
    consumer: Consumer,
    metrics: Metrics,
    runtime: Runtime,
) -> FastPath | None:
    """Return the fast path. Returns None in three cases: the hooks contain no handler for the fast path, every message
    can get a span, or the consumer uses a custom stream manager."""
    if hooks.fast_path_handler is None or attempt_runner.trace_fields is None or isinstance(consumer, PollingConsumer):
        return None
    collaborators = (in_flight, attempt_runner, settler, breaker, consumer, hooks.thread_pool)
    fast_path = FastPath(hooks.fast_path_handler, *collaborators, metrics, runtime.clock)
    in_flight.fast_path = fast_path.run
    return fast_path


def _single_message_handler(require_handler: Callable[[], AsyncHandler]) -> Callable[[], AsyncHandler]:
    """Return a function that returns a handler for a single message. This handler calls the user's batch handler with a
    list of one message.

    The adapted handler is used if a user's code calls `_process_single_message` directly."""

    def adapted() -> AsyncHandler:
        handler = require_handler()
        return lambda data: handler([data])

    return adapted

"""The heart: read a batch, handle each message, acknowledge. One consumer of one consumer group.

Redis failing is the loop's affair (recovery: pause and go on); a handler failing is the message's affair
(`_process_single_message`: log, do not acknowledge). Nothing else ends the loop than `stop_listening`.
Policies stand beside the loop: which entries and slots in in_flight, what becomes of a message in settling, signs of
life and take-over in pending, batch handlers in batches, talking to Redis in stream, tracing in telemetry.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Consumer, StreamManager, build_consumer
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.handler.loader import AsyncHandler, BatchHandler, Handler, HandlerThreadPool, as_coroutine
from streamconsumer.processor.health import Health, LivenessMonitor
from streamconsumer.processor.message import ConsumerId, Entry, reset_current, set_current
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import AttemptRunner
from streamconsumer.processor.pipeline.batch import BatchRunner
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.fast_path import FastPath
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.prefetch import Prefetch
from streamconsumer.processor.pipeline.reconnect import ReconnectBackoff
from streamconsumer.processor.pipeline.recovery_loop import RecoveryLoop
from streamconsumer.processor.pipeline.settlement import Settler
from streamconsumer.processor.telemetry import MessageTracing

log = logging.getLogger(__name__)

SHUTDOWN_COMMAND_TIMEOUT = timedelta(seconds=1)
"""What each last command of a drain may take: a Redis that does not answer must not eat the grace period."""

STARTUP_TIMEOUT = timedelta(seconds=2)
"""How long `start_listening` waits for the group to be created."""


class RedisStreamProcessor:
    """Reads a stream as a member of a consumer group and calls a function with each message.

    `stream_manager` is a `StreamManager`, or anything with its three coroutines: then the processor polls it, waits
    `poll_interval` seconds when a read returns nothing, and neither renews nor takes over entries.

    With `batch` the function takes a list: what is ready when one of the `concurrency` slots is free, at most
    `batch_count` messages.
    """

    def __init__(  # noqa: PLR0917 - the first six are the users' own words
        self,
        stream_manager: StreamManagerProtocol,
        stream_name: str,
        consumer_group_name: str,
        consumer_name: str,
        batch_count: int = 10,
        poll_interval: float = 1.0,
        *,
        concurrency: int = 1,
        batch: bool = False,
        ordering_key: str | None = None,
        delivery: Delivery | None = None,
        drain_timeout: timedelta = timedelta(seconds=25),
        telemetry: MessageTracing | None = None,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        self.stream_manager = stream_manager
        self.stream_name = stream_name
        self.consumer_group_name = consumer_group_name
        self.consumer_name = consumer_name
        self.batch_count = batch_count
        self.poll_interval = poll_interval
        self.concurrency = concurrency
        self.batch = batch
        self.ordering_key = ordering_key
        self.delivery = delivery or (
            stream_manager.delivery if isinstance(stream_manager, StreamManager) else Delivery()
        )
        self.drain_timeout = drain_timeout
        self.metrics = metrics or Metrics()
        self.health = health or Health()
        self._telemetry = telemetry
        self._thread_pool = HandlerThreadPool(concurrency)
        self._callback: AsyncHandler | None = None
        self._log_context = f"stream {stream_name!r}, group {consumer_group_name!r}"
        self._loop_task: asyncio.Task[None] | None = None
        self._fatal_error: InvalidSettings | None = None
        """The reason why the processor has ended. None while the server can be used."""
        self._read_task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stop_forced = asyncio.Event()
        self._first_attempt_done = asyncio.Event()
        self._reconnect_backoff = ReconnectBackoff(stream_name, consumer_group_name, self.metrics, self.health)
        self._liveness_monitor = LivenessMonitor(self.health, poll_interval)
        self._reset()

    # -- the user's interface ----------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the processor listens or is draining."""
        return self._loop_task is not None

    @property
    def has_stuck_handlers(self) -> bool:
        """Whether a handler goes on although the drain is over: a thread cannot be ended, a coroutine may refuse."""
        return bool(self._thread_pool.busy_ids or self._in_flight.running)

    def set_message_callback(self, callback: Handler | BatchHandler) -> None:
        """The function to call with each message's data, or with a list of them where `batch` is set; a plain function
        runs in a thread."""
        self._callback = as_coroutine(callback, self._thread_pool)
        if self._fast_path:
            self._fast_path.handler = self._callback

    async def start_listening(self) -> None:
        """Create the group and start the loop as a task. While listening, a second start does nothing.

        Returns when the group is there. A Redis that does not answer is no error: the loop goes on trying, and this
        returns after the first try. Raises InvalidSettings without a callback, and for a server that refuses what is
        required, such as scripts. Where such a server answers only later, the processor ends, and `wait_stopped`
        raises the error.
        """
        self._require_handler()
        if self.is_running:
            log.warning("already listening", extra={"stream": self.stream_name})
            return
        self._reset()
        self._stop_task = None
        for event in (self._stopping, self._stop_forced, self._first_attempt_done):
            event.clear()
        self._loop_task = asyncio.create_task(self._run_tasks(), name=f"consume {self.stream_name}")
        log.info("listening", extra={"stream": self.stream_name, "group": self.consumer_group_name})
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_attempt_done.wait(), STARTUP_TIMEOUT.total_seconds())
        if self._fatal_error is not None:
            await self.wait_stopped()

    async def wait_stopped(self) -> None:
        """Return when the processor no longer listens. Raises InvalidSettings if it ended because the server refuses
        what is required."""
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task])
        if self._fatal_error is not None:
            raise self._fatal_error

    async def stop_listening(self) -> None:
        """Stop reading at once, finish what runs within `drain_timeout`, hand the rest back.

        Safe to call twice and from several places; returns when all is done.
        """
        if self._loop_task is None:
            return
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop(self._loop_task), name="drain")
        await asyncio.shield(self._stop_task)

    def force_stop(self) -> None:
        """End a drain now: what still runs is cancelled and stays pending for a peer."""
        self._stop_forced.set()

    # -- the loop ------------------------------------------------------------------------------------------------

    async def _run_tasks(self) -> None:
        """The loop, and beside it whoever looks after what is pending; the latter outlives the loop."""
        care = self._recovery_loop.run(lambda: self.health.liveness()[0])
        beside = [asyncio.create_task(each) for each in (care, self._liveness_monitor.run())]
        self._read_task = asyncio.create_task(self._consume_loop(), name=f"read {self.stream_name}")
        try:
            await asyncio.wait([self._read_task])
            if self._fatal_error is None:
                await self._drain()
        finally:
            self._recovery_loop.is_stopped = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if self._fatal_error is not None:
            self._loop_task = None

    async def _consume_loop(self) -> None:
        """Read and begin until told to stop. Survives every error."""
        while not self._stopping.is_set():
            try:
                if not self._is_open:
                    await self._open()
                await self._read_batch()
            except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
                if self._fatal_error is not None:
                    return
                await self._pause(self._reconnect_backoff.record_failure(error))

    async def _open(self) -> None:
        try:
            await self._consumer.open()
            if self._telemetry is not None and isinstance(self.stream_manager, StreamManager):
                self._telemetry.on_ready(await self.stream_manager.clock_offset_ns())
            self._is_open = True
        except InvalidSettings as error:
            log.error("the server cannot be used; the processor ends", extra={"error": str(error)})  # noqa: TRY400
            self._fatal_error = error
            raise
        finally:
            self._first_attempt_done.set()

    async def _read_batch(self) -> None:
        """Wait for room, read one batch, begin its messages."""
        await self._in_flight.has_capacity.wait()
        if self._telemetry is not None and self._telemetry.is_backlogged:
            await self._telemetry.wait_for_export()
        if self._stopping.is_set():
            return
        self._liveness_monitor.reading_since = time.monotonic()
        try:
            entries = await self._consumer.read(self.batch_count)
        finally:
            self._liveness_monitor.reading_since = None
        self._reconnect_backoff.record_success()
        if not self._stopping.is_set():
            self.health.mark_ready()
        if self._telemetry is not None:
            self._telemetry.on_received(entries)
        self._in_flight.prefetch_limit = self._prefetch.limit()
        self._in_flight.admit(entries)
        if len(entries) == self.batch_count:
            return  # there is more: the next read is under way while these are handled
        if entries:
            await asyncio.sleep(0)  # what is handled at once rides with the next read
        elif not self._consumer.is_blocking:
            await self._pause(self.poll_interval)

    # -- one message ---------------------------------------------------------------------------------------------

    async def _handle_entry(self, entry: Entry) -> None:
        """Handle one entry, and raise nothing but what ends its slot."""
        data = await self._settler.prepare_data(entry)
        if data is not None:
            await self._process_single_message(entry.message_id, data)

    async def _process_single_message(self, message_id: str, data: dict[Any, Any]) -> None:
        """Call the handler, then acknowledge. A failure is logged and not acknowledged: the entry stays pending until
        it is tried again, or is a dead letter."""
        entry = self._in_flight.get(message_id) or Entry.standalone(message_id)
        told = (entry, self._consumer_id, data)
        result, verdict = None, None
        token, started = set_current(told), time.perf_counter()
        try:
            result = await self._attempt_runner.run(entry, told, data)
        except BaseException:
            verdict = entry.decision
            if verdict is None:  # cancelled, or the process ends
                raise
        finally:
            self.metrics.record_duration(time.perf_counter() - started)
            reset_current(token)
        if entry.is_standalone:
            if verdict is None:  # somebody calls this without the loop: nothing would carry it
                await self._ack_directly(message_id)
        elif verdict is not None:
            await self._settler.apply_decision(entry)
        # A handler may return although it was cancelled, at the end of a drain or for a peer: that is no success.
        elif not entry.disposition:
            await self._settler.on_success(entry, result)

    def _require_handler(self) -> AsyncHandler:
        if self._callback is None:
            raise InvalidSettings("no message callback; call set_message_callback() first")
        return self._callback

    def _single_message_handler(self) -> AsyncHandler:
        """A batch handler, for somebody who calls `_process_single_message` by himself."""
        handler = self._require_handler()
        return lambda data: handler([data])

    async def _ack_directly(self, message_id: str) -> None:
        with logging_redis_errors(
            "acknowledgement failed; the entry stays pending and will be handled again", self._log_context
        ):
            await self.stream_manager.ack_event(self.stream_name, self.consumer_group_name, message_id)

    async def _pause(self, seconds: float) -> None:
        """Wait, or be stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _stop(self, loop_task: asyncio.Task[None]) -> None:
        log.info("draining", extra={"running": self._in_flight.running, "unbegun": self._in_flight.queued})
        self.health.mark_not_ready("draining")
        self._stopping.set()
        self._in_flight.close()
        await self._interrupt_read()
        await loop_task
        self._loop_task = None
        log.info("stopped", extra={"stream": self.stream_name})

    async def _interrupt_read(self) -> None:
        """A read is woken, not cancelled: its outcome would be unknown. Unless the server does not answer."""
        try:
            await asyncio.wait_for(self._consumer.interrupt_read(), SHUTDOWN_COMMAND_TIMEOUT.total_seconds())
        except TimeoutError:
            if self._read_task:
                self._read_task.cancel()

    async def _drain(self) -> None:
        """Finish what runs, hand back what was not begun, then leave. Renewal goes on until the end."""
        deadline = time.monotonic() + self.drain_timeout.total_seconds()
        await self._release_unstarted()
        await self._in_flight.drain(deadline, self._stop_forced)
        await self._release_unstarted()  # what a claim brought that was under way
        await self._best_effort(self._consumer.close())

    async def _release_unstarted(self) -> None:
        await self._best_effort(self._settler.release(self._in_flight.take_unstarted()))

    async def _best_effort(self, command: Coroutine[Any, Any, None]) -> None:
        with logging_redis_errors("draining goes on without Redis", self._log_context):
            await asyncio.wait_for(command, SHUTDOWN_COMMAND_TIMEOUT.total_seconds())

    # -- small things ------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        """Everything that belongs to one time of listening."""
        self._is_open = False
        self._fatal_error = None
        consumer_id = self._consumer_id = ConsumerId(self.stream_name, self.consumer_group_name, self.consumer_name)
        breaker = CircuitBreaker(self.delivery.breaker)
        self._in_flight = InFlightTable(
            (lambda first: self._batch_runner.run(first)) if self.batch else self._handle_entry,  # noqa: PLW0108 - created later
            concurrency=self.concurrency,
            metrics=self.metrics,
            busy_ids=self._thread_pool.busy_ids,
            ordering_key=self.ordering_key,
            timeout=None if self.batch else self.delivery.timeout,  # batches have their own
            gate=breaker if self.delivery.breaker.failures else None,
        )
        held, telemetry = self._in_flight.ids, self._telemetry
        self._consumer: Consumer = build_consumer(
            self.stream_manager, consumer_id, self.poll_interval, held, self.metrics, telemetry
        )
        self._recovery_loop = RecoveryLoop(
            self._consumer,
            self._in_flight,
            may_claim=self._may_claim,
            batch_count=self.batch_count,
            log_context=self._log_context,
            metrics=self.metrics,
            telemetry=self._telemetry,
        )
        self._settler = Settler(
            self._consumer,
            self._in_flight,
            self.delivery,
            breaker,
            consumer_id=consumer_id,
            metrics=self.metrics,
            telemetry=self._telemetry,
        )
        handler = self._single_message_handler if self.batch else self._require_handler
        self._attempt_runner = AttemptRunner(handler, self._settler, self._telemetry, self._in_flight.timeouts)
        self._batch_runner = BatchRunner(
            self._require_handler,
            self._in_flight,
            self._settler,
            self.delivery,
            max_count=self.batch_count,
            consumer_id=consumer_id,
            telemetry=self._telemetry,
            metrics=self.metrics,
        )
        self._fast_path = self._new_fast_path(breaker)
        self._in_flight.fast_path = self._fast_path.run if self._fast_path else None
        calls = 1 if self.batch else self.batch_count
        self._prefetch = Prefetch(self.metrics, batch_count=self.batch_count, calls_per_slot=calls / self.concurrency)

    def _new_fast_path(self, breaker: CircuitBreaker) -> FastPath | None:
        callback, soon = self._callback, self._consumer.ack_nowait
        if (
            callback is None or soon is None or self._attempt_runner.trace_fields is None
        ):  # without a callback nothing is read
            return None
        if self.batch or self.ordering_key or self._overrides_single_message:
            return None
        ours = (callback, self._in_flight, self._attempt_runner, self._settler, breaker)
        encoding = self._consumer.encoding
        return FastPath(*ours, ack=soon, encoding=encoding, consumer_id=self._consumer_id, metrics=self.metrics)

    @property
    def _overrides_single_message(self) -> bool:
        """Whether somebody put his own `_process_single_message` in place of ours: then every message goes through
        it."""
        own = getattr(self._process_single_message, "__func__", None)
        return own is not RedisStreamProcessor._process_single_message

    def _may_claim(self) -> bool:
        return self._is_open and not self._reconnect_backoff.consecutive_failures and not self._stopping.is_set()

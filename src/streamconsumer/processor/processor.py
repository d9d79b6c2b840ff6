"""The consume loop of one consumer: reads a batch, handles each message and acknowledges it.

After a Redis error, the loop pauses and reads again. If a handler fails, the error is logged and the message is not
acknowledged. The loop ends only on `stop_listening`, or if the server lacks a required feature. `pipeline.build`
creates the components that the loop uses.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.library_arguments import ProcessorArguments, check_arguments
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import StreamManager, unique_consumer_name
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol, check_manager
from streamconsumer.processor.entry_state import RUNNING, SETTLING
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.forked_children import start_nothing_in_children
from streamconsumer.processor.handler.loader import AsyncHandler, BatchHandler, Handler, HandlerThreadPool, as_coroutine
from streamconsumer.processor.handler.terminal_errors import import_terminal_errors
from streamconsumer.processor.health import Health, LivenessMonitor
from streamconsumer.processor.message import ConsumerId, Entry, reset_current, set_current
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.build import Pipeline, PipelineSettings, ProcessorHooks, build_pipeline
from streamconsumer.processor.pipeline.drain import drain
from streamconsumer.processor.pipeline.reconnect import ReconnectBackoff
from streamconsumer.processor.pipeline.retry_policy import process_exit
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime
from streamconsumer.processor.telemetry import MessageTracing

log = logging.getLogger(__name__)

SHUTDOWN_COMMAND_TIMEOUT = timedelta(seconds=1)
"""Timeout of each Redis command during a drain, so that an unresponsive Redis does not use up the grace period."""

STARTUP_TIMEOUT = timedelta(seconds=2)
"""Maximum time that `start_listening` waits for the group to be created."""


class RedisStreamProcessor:
    """Reads a stream as a member of a consumer group and calls a function with each message.

    `stream_manager` is a `StreamManager`, or any object with the three coroutines of `StreamManagerProtocol`. With an
    object that is not a `StreamManager`, the processor polls: it waits `poll_interval` seconds after a read that
    returned no entries. A polling processor neither renews leases nor claims entries.

    No two processes may use the same `consumer_name` at the same time. If `consumer_name` is empty, the processor uses
    a new name that consists of the host name, the process id and a random number.

    If `batch` is True, the function takes a list of at most `batch_count` messages. The list contains the messages that
    are ready when one of the `concurrency` worker slots becomes free.
    """

    def __init__(  # noqa: PLR0917 - the first six are part of the promised interface
        self,
        stream_manager: StreamManagerProtocol,
        stream_name: str,
        consumer_group_name: str,
        consumer_name: str = "",
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
        runtime: Runtime = DEFAULT_RUNTIME,
    ) -> None:
        check_manager(stream_manager)
        arguments = {"batch_count": batch_count, "poll_interval": poll_interval, "concurrency": concurrency}
        check_arguments(ProcessorArguments, {**arguments, "drain_timeout": drain_timeout, "delivery": delivery})
        self.stream_manager = stream_manager
        self.stream_name, self.consumer_group_name = stream_name, consumer_group_name
        self.consumer_name = consumer_name or unique_consumer_name()
        self.batch_count, self.poll_interval, self.concurrency = batch_count, poll_interval, concurrency
        self.batch, self.ordering_key = batch, ordering_key
        self.delivery = delivery or (
            stream_manager.delivery if isinstance(stream_manager, StreamManager) else Delivery()
        )
        self.drain_timeout = drain_timeout
        self.metrics, self.health = metrics or Metrics(), health or Health()
        self._telemetry, self._runtime = telemetry, runtime
        self._thread_pool = HandlerThreadPool(concurrency, runtime, self.health.failures)
        self._callback: AsyncHandler | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._fatal_error: InvalidSettings | None = None
        """Error that ended the processor, because the server lacks a required feature. None if there is no error."""
        self._is_open = False
        """True after `consumer.open` has created the consumer group, or found that the group exists."""
        self._read_task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stop_forced = asyncio.Event()
        self._first_attempt_done = asyncio.Event()
        """Event that is set after the first attempt to open the consumer, even if the attempt failed."""
        self._reconnect_backoff = ReconnectBackoff(stream_name, consumer_group_name, self.metrics, self.health, runtime)
        self._liveness_monitor = LivenessMonitor(self.health, poll_interval, runtime)
        self._pipeline = self._build_pipeline()

    # -- public interface ------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """True while the processor is listening or draining."""
        return self._loop_task is not None

    @property
    def has_stuck_handlers(self) -> bool:
        """True if a handler is still running after the drain: in a thread, or because it ignores its cancellation."""
        return bool(self._thread_pool.busy_ids or self._pipeline.in_flight.running)

    def set_message_callback(self, callback: Handler | BatchHandler) -> None:
        """Set the function that is called with each message's data, or with a list of such data if `batch` is True.

        A function that is not a coroutine function runs in a thread. Raises HandlerUnusable."""
        self._callback = as_coroutine(callback, self._thread_pool, batch=self.batch)
        if self._pipeline.fast_path:
            self._pipeline.fast_path.handler = self._callback

    async def start_listening(self) -> None:
        """Create the group and start the consume loop as a task. Does nothing if the processor is already listening.

        Returns when the group exists. If Redis does not respond, returns after the first attempt or after
        `STARTUP_TIMEOUT`, and the loop retries. Raises InvalidSettings if no callback is set, or if the server lacks a
        required feature, such as scripts. If a server that lacks a required feature responds only later, `wait_stopped`
        raises the error.
        """
        self._require_handler()
        if self.is_running:
            log.warning("processor is already listening", extra={"stream": self.stream_name})
            return
        self._is_open, self._fatal_error, self._stop_task = False, None, None
        self._keep_stuck_handlers()
        self._thread_pool.is_stopping = False
        self.delivery = import_terminal_errors(self.delivery)
        self._pipeline = self._build_pipeline()
        for event in (self._stopping, self._stop_forced, self._first_attempt_done):
            event.clear()
        self._loop_task = asyncio.create_task(self._run_tasks(), name=f"consume {self.stream_name}")
        log.info("listening to the stream", extra={"stream": self.stream_name, "group": self.consumer_group_name})
        with suppress(TimeoutError):
            async with asyncio.timeout(STARTUP_TIMEOUT.total_seconds()):
                await self._first_attempt_done.wait()
        if self._fatal_error is not None:
            await self.wait_stopped()

    def _keep_stuck_handlers(self) -> None:
        """Prevent the next run from starting entries whose handlers of the previous run are still running."""
        for message_id, task in self._pipeline.in_flight.tasks.items():
            self._thread_pool.busy_ids.add(message_id)
            task.add_done_callback(partial(self._thread_pool.end, message_id))

    async def wait_stopped(self) -> None:
        """Wait until the processor has stopped.

        Raises InvalidSettings if the processor stopped because the server lacks a required feature."""
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task])
        if self._fatal_error is not None:
            raise self._fatal_error

    async def stop_listening(self) -> None:
        """Stop reading immediately, wait up to `drain_timeout` for running messages, and release all other messages.

        Returns when the drain is complete. You can call this method more than once, and from several tasks.
        """
        if self._loop_task is None:
            return
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop(self._loop_task), name="drain")
        await asyncio.shield(self._stop_task)

    def force_stop(self) -> None:
        """End the drain immediately. Cancels handlers that are still running. The entries of these handlers stay
        pending until another consumer claims the entries."""
        self._stop_forced.set()

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _run_tasks(self) -> None:
        """Run the consume loop, then drain. The recovery loop and the liveness monitor run until the drain ends."""
        self._pipeline.in_flight.owner = asyncio.current_task()
        start_nothing_in_children(self._pipeline.in_flight)
        recovery = self._pipeline.recovery_loop.run(self.health)
        background = [asyncio.create_task(task) for task in (recovery, self._liveness_monitor.run())]
        self._read_task = asyncio.create_task(self._consume_loop(), name=f"read {self.stream_name}")
        try:
            await asyncio.wait([self._read_task])
            if self._fatal_error is None:
                await self._drain()
        finally:
            self._pipeline.in_flight.close()
            self._pipeline.recovery_loop.is_stopped = True
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self._loop_task = None

    async def _consume_loop(self) -> None:
        """Read and dispatch entries until the processor stops. Continues after every error, unless the server is
        unusable."""
        while not self._stopping.is_set():
            try:
                if not self._is_open:
                    await self._open()
                await self._read_batch()
            except Exception as error:  # noqa: BLE001 - a custom stream manager may raise anything
                if self._fatal_error is not None:
                    return
                await self._pause(self._reconnect_backoff.record_failure(error))

    async def _open(self) -> None:
        try:
            await self._pipeline.consumer.open()
            if self._telemetry is not None and isinstance(self.stream_manager, StreamManager):
                self._telemetry.on_ready(await self.stream_manager.clock_offset_ns())
            self._is_open = True
        except InvalidSettings as error:
            log.error("Redis server is unusable; stopping the processor", extra={"error": str(error)})  # noqa: TRY400
            self._fatal_error = error
            raise
        finally:
            self._first_attempt_done.set()

    async def _read_batch(self) -> None:
        """Wait for capacity, read one batch and dispatch its messages."""
        pipeline, has_failed = self._pipeline, self._reconnect_backoff.consecutive_failures > 0
        replay, in_flight = pipeline.consumer.replay, pipeline.in_flight
        in_flight.update_capacity()
        # A read of no entries checks the server, so that the pod does not stay unready until there is capacity.
        if not (is_check := has_failed and replay is not None and not in_flight.has_capacity.is_set()):
            await in_flight.has_capacity.wait()
        if self._telemetry and self._telemetry.is_backlogged:
            await self._telemetry.wait_for_export()
        if self._stopping.is_set():
            return
        is_replay = not is_check and has_failed and replay is not None and replay.is_pending  # reads no new entries
        self._liveness_monitor.reading_since = self._runtime.clock()
        try:
            count = 0 if is_check else max(1, in_flight.read_count(self.batch_count))
            entries = await pipeline.consumer.read(count)
        finally:
            self._liveness_monitor.reading_since = None
        if not is_replay:
            self._reconnect_backoff.record_success()
            if not self._stopping.is_set():
                self.health.mark_ready()
        if self._telemetry:
            self._telemetry.on_received(entries)
        in_flight.prefetch_limit = pipeline.prefetch.limit()
        in_flight.admit(entries)
        if count and len(entries) == count:
            return  # The stream probably contains more entries, so the next read starts while these are being handled.
        if entries:
            await asyncio.sleep(0)  # Let fast handlers return, so that the next read sends their acknowledgements.
        elif not pipeline.consumer.is_blocking:
            await self._pause(self.poll_interval)

    # -- one message -----------------------------------------------------------------------------------------------

    async def _handle_entry(self, entry: Entry) -> None:
        """Handle one entry. An error that this method raises ends the worker slot."""
        data = await self._pipeline.preparation.data_for_handler(entry)
        if data is not None:
            await self._process_single_message(entry.message_id, data)

    async def _process_single_message(self, message_id: str, data: dict[Any, Any]) -> None:
        """Call the handler, then acknowledge the entry.

        If the handler fails, the error is logged and the entry stays pending until it is retried or dead-lettered."""
        pipeline = self._pipeline
        entry = pipeline.in_flight.entries.get(message_id) or Entry.standalone(message_id)
        context = (entry, pipeline.consumer_id, data)
        result = None
        token, started = set_current(context), self._runtime.clock()
        try:
            result = await pipeline.attempt_runner.run(entry, context, data)
        except BaseException as error:
            if entry.state is RUNNING or process_exit(error):  # cancelled by the handler, or the process ends
                raise
        finally:
            self.metrics.record_duration(self._runtime.clock() - started)
            reset_current(token)
        if entry.is_standalone:
            if entry.state is RUNNING:  # called without the loop, so no read would send the acknowledgement
                await self._ack_directly(message_id)
        elif entry.state is SETTLING:
            await pipeline.settler.apply_decision(entry)
        # A handler that is cancelled, because a drain ended or another consumer claimed the entry, may still return.
        elif entry.state is RUNNING:
            await pipeline.settler.on_success(entry, result)

    def _require_handler(self) -> AsyncHandler:
        if self._callback is None:
            raise InvalidSettings("no message callback; call set_message_callback() first")
        return self._callback

    async def _ack_directly(self, message_id: str) -> None:
        with logging_redis_errors(
            "acknowledgement failed; the entry stays pending and will be handled again",
            self._pipeline.consumer_id.log_context,
        ):
            await self.stream_manager.ack_event(self.stream_name, self.consumer_group_name, message_id)
            self.metrics.acknowledged += 1

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, but at most until the processor stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _stop(self, loop_task: asyncio.Task[None]) -> None:
        in_flight = self._pipeline.in_flight
        log.info("draining: no new messages start", extra={"running": in_flight.running, "unstarted": in_flight.queued})
        self.health.mark_not_ready("draining")
        self._stopping.set()
        in_flight.close()
        self._thread_pool.stop_waiting()
        await self._interrupt_read()
        await asyncio.wait([loop_task])
        log.info("stopped listening to the stream", extra={"stream": self.stream_name})

    async def _interrupt_read(self) -> None:
        """End the current blocking read by CLIENT UNBLOCK. If Redis does not respond, cancel the read.

        CLIENT UNBLOCK is preferred because Redis may still deliver entries to a cancelled read."""
        try:
            async with asyncio.timeout(SHUTDOWN_COMMAND_TIMEOUT.total_seconds()):
                await self._pipeline.consumer.interrupt_read()
        except TimeoutError:
            if self._read_task:
                self._read_task.cancel()

    async def _drain(self) -> None:
        """Release unstarted messages, wait for running messages, then leave the group. Leases are renewed until the
        end."""
        deadline = self._runtime.clock() + self.drain_timeout.total_seconds()
        await self._release_unstarted()
        await drain(self._pipeline.in_flight, self.metrics, deadline, self._stop_forced, self._runtime.clock)
        await self._release_unstarted()  # entries whose attempts or releases failed during the drain
        await self._best_effort(self._pipeline.consumer.close())

    async def _release_unstarted(self) -> None:
        """Release the unstarted entries, including the entries of a claim that is in progress."""
        await self._best_effort(self._pipeline.recovery_loop.finish_claim())
        await self._best_effort(self._pipeline.settler.release(self._pipeline.in_flight.take_unstarted()))

    async def _best_effort(self, command: Coroutine[Any, Any, None]) -> None:
        with logging_redis_errors(
            "Redis unavailable while draining; continuing", self._pipeline.consumer_id.log_context
        ):
            async with asyncio.timeout(SHUTDOWN_COMMAND_TIMEOUT.total_seconds()):
                await command

    # -- wiring ----------------------------------------------------------------------------------------------------

    def _build_pipeline(self) -> Pipeline:
        """Create the components that the processor uses until it stops. Without a callback there is no fast path."""
        return build_pipeline(
            self.stream_manager,
            ConsumerId(self.stream_name, self.consumer_group_name, self.consumer_name),
            PipelineSettings(
                batch_count=self.batch_count,
                poll_interval=self.poll_interval,
                concurrency=self.concurrency,
                is_batch=self.batch,
                ordering_key=self.ordering_key,
                delivery=self.delivery,
            ),
            ProcessorHooks(
                require_handler=self._require_handler,
                handle_entry=self._handle_entry,
                fast_path_handler=None if self._overrides_single_message else self._callback,
                may_claim=self._may_claim,
                thread_pool=self._thread_pool,
            ),
            metrics=self.metrics,
            telemetry=self._telemetry,
            runtime=self._runtime,
        )

    @property
    def _overrides_single_message(self) -> bool:
        """True if a subclass or an assignment replaces `_process_single_message`, so that there is no fast path."""
        method = getattr(self._process_single_message, "__func__", None)
        return method is not RedisStreamProcessor._process_single_message

    def _may_claim(self) -> bool:
        return self._is_open and not self._reconnect_backoff.consecutive_failures and not self._stopping.is_set()

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
from streamconsumer.processor.consumer import Intake, StreamManager, new_intake
from streamconsumer.processor.consumer.protocol import Manager
from streamconsumer.processor.error_logging import noting
from streamconsumer.processor.handler.loader import AsyncHandler, BatchHandler, Handler, Threads, as_coroutine
from streamconsumer.processor.health import Health, Pulse
from streamconsumer.processor.message import Entry, enter, leave
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import Attempts
from streamconsumer.processor.pipeline.batch import Batches
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.fast_path import Express
from streamconsumer.processor.pipeline.in_flight import InFlight
from streamconsumer.processor.pipeline.prefetch import ReadAhead
from streamconsumer.processor.pipeline.reconnect import Recovery
from streamconsumer.processor.pipeline.recovery_loop import PendingCare
from streamconsumer.processor.pipeline.settlement import Settling
from streamconsumer.processor.telemetry import Tracing

log = logging.getLogger(__name__)

LAST_WORDS = timedelta(seconds=1)
"""What each last command of a drain may take: a Redis that does not answer must not eat the grace period."""

FIRST_TRY = timedelta(seconds=2)
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
        stream_manager: Manager,
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
        telemetry: Tracing | None = None,
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
        self._threads = Threads(concurrency)
        self._callback: AsyncHandler | None = None
        self._where = f"stream {stream_name!r}, group {consumer_group_name!r}"
        self._loop_task: asyncio.Task[None] | None = None
        self._refused: InvalidSettings | None = None
        """The reason why the processor has ended. None while the server can be used."""
        self._reading: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tried = asyncio.Event()
        self._recovery = Recovery(stream_name, consumer_group_name, self.metrics, self.health)
        self._pulse = Pulse(self.health, poll_interval)
        self._begin_anew()

    # -- the user's interface ----------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the processor listens or is draining."""
        return self._loop_task is not None

    @property
    def has_stuck_handlers(self) -> bool:
        """Whether a handler goes on although the drain is over: a thread cannot be ended, a coroutine may refuse."""
        return bool(self._threads.busy or self._in_flight.running)

    def set_message_callback(self, callback: Handler | BatchHandler) -> None:
        """The function to call with each message's data, or with a list of them where `batch` is set; a plain function
        runs in a thread."""
        self._callback = as_coroutine(callback, self._threads)
        if self._express:
            self._express.handler = self._callback

    async def start_listening(self) -> None:
        """Create the group and start the loop as a task. While listening, a second start does nothing.

        Returns when the group is there. A Redis that does not answer is no error: the loop goes on trying, and this
        returns after the first try. Raises InvalidSettings without a callback, and for a server that refuses what is
        required, such as scripts. Where such a server answers only later, the processor ends, and `wait_stopped`
        raises the error.
        """
        self._handler()
        if self.is_running:
            log.warning("already listening", extra={"stream": self.stream_name})
            return
        self._begin_anew()
        self._stop_task = None
        for event in (self._stopping, self._hurry, self._tried):
            event.clear()
        self._loop_task = asyncio.create_task(self._listen(), name=f"consume {self.stream_name}")
        log.info("listening", extra={"stream": self.stream_name, "group": self.consumer_group_name})
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_TRY.total_seconds())
        if self._refused is not None:
            await self.wait_stopped()

    async def wait_stopped(self) -> None:
        """Return when the processor no longer listens. Raises InvalidSettings if it ended because the server refuses
        what is required."""
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task])
        if self._refused is not None:
            raise self._refused

    async def stop_listening(self) -> None:
        """Stop reading at once, finish what runs within `drain_timeout`, hand the rest back.

        Safe to call twice and from several places; returns when all is done.
        """
        if self._loop_task is None:
            return
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop(self._loop_task), name="drain")
        await asyncio.shield(self._stop_task)

    def hurry(self) -> None:
        """End a drain now: what still runs is cancelled and stays pending for a peer."""
        self._hurry.set()

    # -- the loop ------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """The loop, and beside it whoever looks after what is pending; the latter outlives the loop."""
        care = self._care.look_after(lambda: self.health.liveness()[0])
        beside = [asyncio.create_task(each) for each in (care, self._pulse.beat())]
        self._reading = asyncio.create_task(self._consume_loop(), name=f"read {self.stream_name}")
        try:
            await asyncio.wait([self._reading])
            if self._refused is None:
                await self._drain()
        finally:
            self._care.over = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if self._refused is not None:
            self._loop_task = None

    async def _consume_loop(self) -> None:
        """Read and begin until told to stop. Survives every error."""
        while not self._stopping.is_set():
            try:
                if not self._opened:
                    await self._open()
                await self._turn()
            except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
                if self._refused is not None:
                    return
                await self._pause(self._recovery.failed(error))

    async def _open(self) -> None:
        try:
            await self._intake.open()
            if self._telemetry is not None and isinstance(self.stream_manager, StreamManager):
                self._telemetry.listening(await self.stream_manager.clock_offset_ns())
            self._opened = True
        except InvalidSettings as error:
            log.error("the server cannot be used; the processor ends", extra={"error": str(error)})  # noqa: TRY400
            self._refused = error
            raise
        finally:
            self._tried.set()

    async def _turn(self) -> None:
        """Wait for room, read one batch, begin its messages."""
        await self._in_flight.room.wait()
        if self._telemetry is not None and self._telemetry.is_behind:
            await self._telemetry.catch_up()
        if self._stopping.is_set():
            return
        self._pulse.reading_since = time.monotonic()
        try:
            entries = await self._intake.read(self.batch_count)
        finally:
            self._pulse.reading_since = None
        self._recovery.succeeded()
        if not self._stopping.is_set():
            self.health.ready()
        if self._telemetry is not None:
            self._telemetry.took_in(entries)
        self._in_flight.ahead = self._read_ahead.limit()
        self._in_flight.take_in(entries)
        if len(entries) == self.batch_count:
            return  # there is more: the next read is under way while these are handled
        if entries:
            await asyncio.sleep(0)  # what is handled at once rides with the next read
        elif not self._intake.blocks:
            await self._pause(self.poll_interval)

    # -- one message ---------------------------------------------------------------------------------------------

    async def _run(self, entry: Entry) -> None:
        """Handle one entry, and raise nothing but what ends its slot."""
        data = await self._settling.data(entry)
        if data is not None:
            await self._process_single_message(entry.message_id, data)

    async def _process_single_message(self, message_id: str, data: dict[Any, Any]) -> None:
        """Call the handler, then acknowledge. A failure is logged and not acknowledged: the entry stays pending until
        it is tried again, or is a dead letter."""
        entry = self._in_flight.get(message_id) or Entry.alone(message_id)
        told = (entry, self._who, data)
        result, verdict = None, None
        token, started = enter(told), time.perf_counter()
        try:
            result = await self._attempts.of(entry, told, data)
        except BaseException:
            verdict = entry.verdict
            if verdict is None:  # cancelled, or the process ends
                raise
        finally:
            self.metrics.handled(time.perf_counter() - started)
            leave(token)
        if entry.is_alone:
            if verdict is None:  # somebody calls this without the loop: nothing would carry it
                await self._acknowledge_directly(message_id)
        elif verdict is not None:
            await self._settling.settle(entry)
        # A handler may return although it was cancelled, at the end of a drain or for a peer: that is no success.
        elif not entry.fate:
            await self._settling.succeeded(entry, result)

    def _handler(self) -> AsyncHandler:
        if self._callback is None:
            raise InvalidSettings("no message callback; call set_message_callback() first")
        return self._callback

    def _handler_of_one(self) -> AsyncHandler:
        """A batch handler, for somebody who calls `_process_single_message` by himself."""
        handler = self._handler()
        return lambda data: handler([data])

    async def _acknowledge_directly(self, message_id: str) -> None:
        with noting("acknowledgement failed; the entry stays pending and will be handled again", self._where):
            await self.stream_manager.ack_event(self.stream_name, self.consumer_group_name, message_id)

    async def _pause(self, seconds: float) -> None:
        """Wait, or be stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _stop(self, loop_task: asyncio.Task[None]) -> None:
        log.info("draining", extra={"running": self._in_flight.running, "unbegun": self._in_flight.waiting})
        self.health.not_ready("draining")
        self._stopping.set()
        self._in_flight.close()
        await self._end_reading()
        await loop_task
        self._loop_task = None
        log.info("stopped", extra={"stream": self.stream_name})

    async def _end_reading(self) -> None:
        """A read is woken, not cancelled: its outcome would be unknown. Unless the server does not answer."""
        try:
            await asyncio.wait_for(self._intake.wake(), LAST_WORDS.total_seconds())
        except TimeoutError:
            if self._reading:
                self._reading.cancel()

    async def _drain(self) -> None:
        """Finish what runs, hand back what was not begun, then leave. Renewal goes on until the end."""
        deadline = time.monotonic() + self.drain_timeout.total_seconds()
        await self._hand_back()
        await self._in_flight.finish(deadline, self._hurry)
        await self._hand_back()  # what a claim brought that was under way
        await self._last_word(self._intake.close())

    async def _hand_back(self) -> None:
        await self._last_word(self._settling.hand_back(self._in_flight.hand_over()))

    async def _last_word(self, command: Coroutine[Any, Any, None]) -> None:
        with noting("draining goes on without Redis", self._where):
            await asyncio.wait_for(command, LAST_WORDS.total_seconds())

    # -- small things ------------------------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Everything that belongs to one time of listening."""
        self._opened = False
        self._refused = None
        who = self._who = (self.stream_name, self.consumer_group_name, self.consumer_name)
        breaker = CircuitBreaker(self.delivery.breaker)
        self._in_flight = InFlight(
            (lambda first: self._batches.run(first)) if self.batch else self._run,  # noqa: PLW0108 - created later
            concurrency=self.concurrency,
            metrics=self.metrics,
            busy=self._threads.busy,
            ordering_key=self.ordering_key,
            timeout=None if self.batch else self.delivery.timeout,  # batches have their own
            gate=breaker if self.delivery.breaker.failures else None,
        )
        held, telemetry = self._in_flight.ids, self._telemetry
        self._intake: Intake = new_intake(self.stream_manager, who, self.poll_interval, held, self.metrics, telemetry)
        self._care = PendingCare(
            self._intake,
            self._in_flight,
            may_claim=self._may_claim,
            batch_count=self.batch_count,
            where=self._where,
            metrics=self.metrics,
            telemetry=self._telemetry,
        )
        self._settling = Settling(
            self._intake,
            self._in_flight,
            self.delivery,
            breaker,
            who=who,
            metrics=self.metrics,
            telemetry=self._telemetry,
        )
        handler = self._handler_of_one if self.batch else self._handler
        self._attempts = Attempts(handler, self._settling, self._telemetry, self._in_flight.overdue)
        self._batches = Batches(
            self._handler,
            self._in_flight,
            self._settling,
            self.delivery,
            most=self.batch_count,
            who=who,
            telemetry=self._telemetry,
            metrics=self.metrics,
        )
        self._express = self._new_express(breaker)
        self._in_flight.express = self._express.run if self._express else None
        calls = 1 if self.batch else self.batch_count
        self._read_ahead = ReadAhead(self.metrics, batch_count=self.batch_count, rounds=calls / self.concurrency)

    def _new_express(self, breaker: CircuitBreaker) -> Express | None:
        callback, soon = self._callback, self._intake.acknowledge_soon
        if callback is None or soon is None or self._attempts.carriers is None:  # without a callback nothing is read
            return None
        if self.batch or self.ordering_key or self._handles_in_its_own_way:
            return None
        ours = (callback, self._in_flight, self._attempts, self._settling, breaker)
        encoding = self._intake.encoding
        return Express(*ours, acknowledge=soon, encoding=encoding, who=self._who, metrics=self.metrics)

    @property
    def _handles_in_its_own_way(self) -> bool:
        """Whether somebody put his own `_process_single_message` in place of ours: then every message goes through
        it."""
        own = getattr(self._process_single_message, "__func__", None)
        return own is not RedisStreamProcessor._process_single_message

    def _may_claim(self) -> bool:
        return self._opened and not self._recovery.faults_in_a_row and not self._stopping.is_set()

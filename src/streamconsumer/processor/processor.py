"""The heart: read a batch, handle each message, acknowledge. One consumer of one consumer group.

Redis failing is the loop's affair (`_recover`: pause and go on); a handler failing is the message's affair
(`_process_single_message`: log, do not acknowledge). Nothing else ends the loop than `stop_listening`.
Policies stand beside the loop: which entries and slots in in_flight, what becomes of a message in settling, signs of
life and take-over in pending, talking to Redis in stream, tracing in telemetry.
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings, UndecodableEntry
from streamconsumer.model.settings import Delivery, Reconnect
from streamconsumer.processor.breaker import CircuitBreaker
from streamconsumer.processor.dead_letters import is_replay
from streamconsumer.processor.faults import fault, noting
from streamconsumer.processor.handler import AsyncHandler, Handler, Threads, as_coroutine
from streamconsumer.processor.health import Health
from streamconsumer.processor.in_flight import InFlight
from streamconsumer.processor.intake import Intake, Manager, PolledIntake
from streamconsumer.processor.message import Entry, Message, enter, leave
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pending import PendingCare
from streamconsumer.processor.settling import Settling
from streamconsumer.processor.stream import StreamManager, caring_intake
from streamconsumer.processor.telemetry import Telemetry

log = logging.getLogger(__name__)

LAST_WORDS = timedelta(seconds=1)
"""What each last command of a drain may take: a Redis that does not answer must not eat the grace period."""

FIRST_TRY = timedelta(seconds=2)
"""How long `start_listening` waits for the group to be created."""

HEARTBEAT = timedelta(seconds=1)

NO_TIME_SECONDS = 0.05
"""What a batch may take for the next one to be read ahead: what one pod buffers, its peers cannot have."""

OVERDUE = timedelta(seconds=30)
"""A read that is out this long beyond `poll_interval` is stuck: the connection's own limit is far below."""


class RedisStreamProcessor:
    """Reads a stream as a member of a consumer group and calls a function with each message.

    `stream_manager` is a `StreamManager`, or anything with its three coroutines: then the processor polls it, waits
    `poll_interval` seconds when a read returns nothing, and neither renews nor takes over entries.
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
        ordering_key: str | None = None,
        delivery: Delivery | None = None,
        drain_timeout: timedelta = timedelta(seconds=25),
        reconnect: Reconnect | None = None,
        telemetry: Telemetry | None = None,
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
        self.ordering_key = ordering_key
        self.delivery = delivery or (
            stream_manager.delivery if isinstance(stream_manager, StreamManager) else Delivery()
        )
        self.drain_timeout = drain_timeout
        self.reconnect = reconnect or Reconnect()
        self.metrics = metrics or Metrics()
        self.health = health or Health()
        self._telemetry = telemetry
        self._threads = Threads(concurrency)
        self._callback: AsyncHandler | None = None
        self._where = f"stream {stream_name!r}, group {consumer_group_name!r}"
        self._loop_task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tried = asyncio.Event()
        self._reading_since: float | None = None
        self._faults_in_a_row = 0
        self._handled_before = (0, 0.0)
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

    def set_message_callback(self, callback: Handler) -> None:
        """The function to call with each message's data; a plain function runs in a thread."""
        self._callback = as_coroutine(callback, self._threads)

    async def start_listening(self) -> None:
        """Create the group and start the loop as a task. While listening, a second start does nothing.

        Returns when the group is there. A Redis that does not answer is no error: the loop goes on trying, and this
        returns after the first try. Raises InvalidSettings without a callback.
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
        beside = [asyncio.create_task(each) for each in (care, self._beat())]
        self._reading = asyncio.create_task(self._consume_loop(), name=f"read {self.stream_name}")
        try:
            await asyncio.wait([self._reading])
            await self._drain()
        finally:
            self._care.over = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _consume_loop(self) -> None:
        """Read and begin until told to stop. Survives every error."""
        while not self._stopping.is_set():
            try:
                if not self._opened:
                    await self._open()
                await self._turn()
            except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
                await self._recover(error)

    async def _open(self) -> None:
        try:
            await self._intake.open()
            self._opened = True
        finally:
            self._tried.set()

    async def _turn(self) -> None:
        """Wait for room, read one batch, begin its messages."""
        await self._in_flight.room.wait()
        if self._stopping.is_set():
            return
        self._reading_since = time.monotonic()
        try:
            entries = await self._intake.read(self.batch_count)
        finally:
            self._reading_since = None
        self._recovered()
        self._in_flight.ahead = self._read_ahead()
        self._in_flight.take_in(entries)
        if len(entries) == self.batch_count:
            return  # there is more: the next read is under way while these are handled
        if entries:
            await asyncio.sleep(0)  # what is handled at once rides with the next read
        elif not self._intake.blocks:
            await self._pause(self.poll_interval)

    def _read_ahead(self) -> int:
        """How many entries may be buffered: a batch if it is handled in no time, else none."""
        count, seconds = self.metrics.handled_count, self.metrics.duration_sum_seconds
        count_before, seconds_before = self._handled_before
        if count == count_before:
            return self._in_flight.ahead
        self._handled_before = count, seconds
        each = (seconds - seconds_before) / (count - count_before)
        return self.batch_count if each * self.batch_count / self.concurrency < NO_TIME_SECONDS else 0

    # -- one message ---------------------------------------------------------------------------------------------

    async def _run(self, entry: Entry) -> None:
        """Handle one entry, and raise nothing but what ends its slot."""
        if is_replay(entry.fields):
            entry.is_replay = True
        if (not entry.is_counted or entry.may_be_large or entry.is_replay) and not await self._settling.may_begin(
            entry
        ):
            return
        try:
            data = entry.data(self._intake.encoding)
        except UndecodableEntry as error:
            await self._settling.undecodable(entry, error)
            return
        await self._process_single_message(entry.message_id, data)

    async def _process_single_message(self, message_id: str, data: dict[Any, Any]) -> None:
        """Call the handler, then acknowledge. A failure is logged and not acknowledged: the entry stays pending until
        it is tried again, or is a dead letter."""
        entry = self._in_flight.get(message_id) or Entry.alone(message_id)
        who = (self.stream_name, self.consumer_group_name, self.consumer_name)
        message = Message(message_id, *who, entry.deliveries, data)
        result, verdict = None, None
        token, started = enter(message), time.perf_counter()
        try:
            attempt = self._attempt if self._telemetry is None else self._traced
            result = await attempt(entry, message)
        except (Exception, SystemExit, asyncio.CancelledError):
            verdict = entry.verdict
            if verdict is None:  # cancelled: for a peer, or at the end of a drain
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

    async def _traced(self, entry: Entry, message: Message) -> Any:
        assert self._telemetry
        with self._telemetry.processing(message):
            return await self._attempt(entry, message)

    async def _attempt(self, entry: Entry, message: Message) -> Any:
        """What the handler returns. What it raises is judged here, where the log line still has the span's ids."""
        try:
            result = await self._handler()(message.data)  # type: ignore[arg-type] # a dict, which others get to see as a Mapping
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if entry.fate != "timeout":
                if not (isinstance(error, asyncio.CancelledError) and _cancelled()):
                    self._settling.judge(entry, error)
                raise
        else:
            if entry.fate != "timeout":
                return result
        late = TimeoutError(f"the handler took longer than delivery.timeout, {self.delivery.timeout}")
        self._settling.judge(entry, late)
        raise late

    def _handler(self) -> AsyncHandler:
        if self._callback is None:
            raise InvalidSettings("no message callback; call set_message_callback() first")
        return self._callback

    async def _acknowledge_directly(self, message_id: str) -> None:
        with noting("acknowledgement failed; the entry stays pending and will be handled again", self._where):
            await self.stream_manager.ack_event(self.stream_name, self.consumer_group_name, message_id)

    # -- when Redis fails ------------------------------------------------------------------------------------------

    async def _recover(self, error: Exception) -> None:
        """Say what happened, and pause: at random below a bound that doubles, so that pods do not march in step."""
        self.metrics.faults += 1
        self._faults_in_a_row += 1
        found = fault(error, self._where)
        self.health.not_ready(found.sentence)
        if self._faults_in_a_row.bit_count() == 1:  # the 1st, 2nd, 4th, 8th … in a row
            log.warning(found.sentence, extra={"code": found.code, "in_a_row": self._faults_in_a_row})
        bound = min(self.reconnect.min_delay * 2 ** min(self._faults_in_a_row, 20), self.reconnect.max_delay)
        await self._pause(bound.total_seconds() * random.uniform(0.5, 1))  # noqa: S311 - spreads pods, guards nothing

    def _recovered(self) -> None:
        if self._faults_in_a_row:
            log.info("reading again", extra={"stream": self.stream_name, "faults": self._faults_in_a_row})
        self._faults_in_a_row = 0
        if not self._stopping.is_set():
            self.health.ready()

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
        who = (self.stream_name, self.consumer_group_name, self.consumer_name)
        policy = self.delivery.breaker
        breaker = CircuitBreaker(policy.failures, policy.min_pause, policy.max_pause)
        self._in_flight = InFlight(
            self._run,
            concurrency=self.concurrency,
            metrics=self.metrics,
            busy=self._threads.busy,
            ordering_key=self.ordering_key,
            timeout=self.delivery.timeout,
            gate=breaker if policy.failures else None,
        )
        self._intake: Intake = self._new_intake(who)
        self._care = PendingCare(
            self._intake,
            self._in_flight,
            may_claim=self._may_claim,
            batch_count=self.batch_count,
            where=self._where,
            metrics=self.metrics,
        )
        self._settling = Settling(self._intake, self._in_flight, self.delivery, breaker, who=who, metrics=self.metrics)

    def _new_intake(self, who: tuple[str, str, str]) -> Intake:
        manager = self.stream_manager
        if isinstance(manager, StreamManager):
            block = timedelta(seconds=self.poll_interval)
            return caring_intake(manager, who, block=block, metrics=self.metrics, held=self._in_flight.ids)
        return PolledIntake(manager, *who)

    def _may_claim(self) -> bool:
        return self._opened and not self._faults_in_a_row and not self._stopping.is_set()

    async def _beat(self) -> None:
        """Alive while the event loop turns and no read is stuck: a handler may take its time, Redis may be away."""
        limit = self.poll_interval + OVERDUE.total_seconds()
        while True:
            if self._reading_since is None or time.monotonic() - self._reading_since < limit:
                self.health.beat()
            await asyncio.sleep(HEARTBEAT.total_seconds())


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

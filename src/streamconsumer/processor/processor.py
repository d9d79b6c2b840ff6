"""The heart: read a batch, handle each message, acknowledge. One consumer of one consumer group.

Redis failing is the loop's affair (`_recover`: pause and go on); a handler failing is the message's affair
(`_process_single_message`: log, do not acknowledge). Nothing else ends the loop than `stop_listening`.
Policies stand beside the loop: decoding in message, talking to Redis in stream, tracing in telemetry.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings, UndecodableEntry
from streamconsumer.model.settings import Reconnect
from streamconsumer.processor.faults import fault, told
from streamconsumer.processor.handler import AsyncHandler, Handler, Threads, as_coroutine
from streamconsumer.processor.health import Health
from streamconsumer.processor.intake import Intake, Manager, PolledIntake
from streamconsumer.processor.message import Entry, Message, handling
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.stream import StreamManager
from streamconsumer.processor.telemetry import Telemetry

log = logging.getLogger(__name__)

LAST_WORDS = timedelta(seconds=1)
"""What each last command of a drain may take: a Redis that does not answer must not eat the grace period."""

HEARTBEAT = timedelta(seconds=1)


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
        self.drain_timeout = drain_timeout
        self.reconnect = reconnect or Reconnect()
        self.metrics = metrics or Metrics()
        self.health = health or Health()
        self._telemetry = telemetry
        self._threads = Threads(concurrency)
        self._callback: AsyncHandler | None = None
        self._where = f"stream {stream_name!r}, group {consumer_group_name!r}"
        self._intake: Intake = self._new_intake()
        self._loop_task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._over = False
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._in_flight: dict[str, Entry] = {}
        """Every entry taken in and not ended: the only gate. What is in it is never taken in again."""
        self._ready: deque[Entry] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._lost: set[str] = set()
        self._faults_in_a_row = 0

    # -- the user's interface ----------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the processor listens or is draining."""
        return self._loop_task is not None

    @property
    def has_stuck_handlers(self) -> bool:
        """Whether a handler goes on although the drain is over: a thread cannot be ended, a coroutine may refuse."""
        return bool(self._threads.busy or self._running)

    def set_message_callback(self, callback: Handler) -> None:
        """The function to call with each message's data; a plain function runs in a thread."""
        self._callback = as_coroutine(callback, self._threads)

    async def start_listening(self) -> None:
        """Create the group and start the loop as a task. While listening, a second start does nothing.

        A Redis that does not answer is no error here: the loop goes on trying. Raises InvalidSettings without a
        callback.
        """
        self._handler()
        if self.is_running:
            log.warning("already listening", extra={"stream": self.stream_name})
            return
        self._intake = self._new_intake()
        self._stop_task = None
        for event in (self._stopping, self._hurry):
            event.clear()
        self._loop_task = asyncio.create_task(self._listen(), name=f"consume {self.stream_name}")
        log.info("listening", extra={"stream": self.stream_name, "group": self.consumer_group_name})

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
        self._over = False
        beside = [asyncio.create_task(each) for each in (self._look_after_pending(), self._beat())]
        self._reading = asyncio.create_task(self._consume_loop(), name=f"read {self.stream_name}")
        try:
            await asyncio.wait([self._reading])
            await self._drain()
        finally:
            self._over = True  # redis-py loses a cancellation now and then
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _consume_loop(self) -> None:
        """Read and begin until told to stop. Survives every error."""
        opened = False
        while not self._stopping.is_set():
            try:
                if not opened:
                    await self._intake.open()
                    opened = True
                await self._turn()
            except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
                await self._recover(error)

    async def _turn(self) -> None:
        """Wait for room, read one batch, begin its messages."""
        if not self._room.is_set():
            self._advance()
            await self._room.wait()
        if self._stopping.is_set():
            return
        entries = await self._intake.read(self.batch_count)
        self._recovered()
        for entry in entries:
            self._take_in(entry)
        if not entries and not self._intake.blocks:
            await self._pause(self.poll_interval)

    def _take_in(self, entry: Entry) -> None:
        """One entry is never in two handlers of one process, whichever way it came."""
        if entry.message_id in self._in_flight or entry.message_id in self._threads.busy:
            return
        self._in_flight[entry.message_id] = entry
        self._ready.append(entry)
        self.metrics.delivered += 1
        self._advance()

    def _advance(self) -> None:
        """Begin what is ready while slots are free, and say whether there is room to read more."""
        while self._ready and len(self._running) < self.concurrency and not self._stopping.is_set():
            entry = self._ready.popleft()
            task = asyncio.create_task(self._run(entry))
            self._running[entry.message_id] = task
            task.add_done_callback(lambda _, message_id=entry.message_id: self._ended(message_id))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        self.metrics.in_flight = len(self._running)
        if self._stopping.is_set() or (not self._ready and len(self._running) < self.concurrency):
            self._room.set()
        else:
            self._room.clear()

    def _ended(self, message_id: str) -> None:
        self._running.pop(message_id, None)
        self._in_flight.pop(message_id, None)
        self._lost.discard(message_id)
        self._advance()

    # -- one message ---------------------------------------------------------------------------------------------

    async def _run(self, entry: Entry) -> None:
        try:
            data = entry.data(self._intake.encoding)
        except UndecodableEntry as error:
            self.metrics.failed += 1
            log.error("message cannot be decoded and stays pending", extra={"error": str(error)})  # noqa: TRY400 - the stack is ours and says nothing
            return
        await self._process_single_message(entry.message_id, data)

    async def _process_single_message(self, message_id: str, data: dict[Any, Any]) -> None:
        """Call the handler, then acknowledge. A failure is logged and not acknowledged: the entry stays pending."""
        entry = self._in_flight.get(message_id)
        message = Message(
            message_id=message_id,
            stream=self.stream_name,
            consumer_group=self.consumer_group_name,
            consumer=self.consumer_name,
            deliveries=entry.deliveries if entry else 1,
            data=data,
        )
        with handling(message):
            succeeded = await self._handle(message)
        if succeeded and message_id not in self._lost:
            await self._acknowledge(message_id)

    async def _handle(self, message: Message) -> bool:
        started = time.perf_counter()
        try:
            with self._telemetry.processing(message) if self._telemetry else nullcontext():
                await self._call(message)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if _cancelled_by_us(error):
                raise
            return False
        else:
            return True
        finally:
            self.metrics.handled(time.perf_counter() - started)

    async def _call(self, message: Message) -> None:
        """What the handler raises is logged here, where the line still gets the ids of the span."""
        try:
            await self._handler()(dict(message.data))
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if not _cancelled_by_us(error):
                self._failed(message, error)
            raise

    def _handler(self) -> AsyncHandler:
        if self._callback is None:
            raise InvalidSettings("no message callback; call set_message_callback() first")
        return self._callback

    def _failed(self, message: Message, error: BaseException) -> None:
        self.metrics.failed += 1
        about = {"message_id": message.message_id, "stream": self.stream_name, "deliveries": message.deliveries}
        log.error("message failed and stays pending", exc_info=error, extra={**about, "error": told(error)})

    async def _acknowledge(self, message_id: str) -> None:
        with self._noting("acknowledgement failed; the entry stays pending and will be handled again"):
            if self.is_running:
                await self._intake.acknowledge(message_id)
            else:  # somebody calls _process_single_message without the loop: nothing would carry it
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
        self.health.ready()

    async def _pause(self, seconds: float) -> None:
        """Wait, or be stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- what is pending -------------------------------------------------------------------------------------------

    async def _look_after_pending(self) -> None:
        """Renew what runs here, take over what shows no sign of life; during the drain too."""
        if self._intake.min_idle is None:
            log.warning("this stream manager cannot renew or take over entries: those of a dead consumer stay pending")
            return
        seconds = self._intake.min_idle.total_seconds()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self._renew, seconds / 4))
            group.create_task(self._again_and_again(self._claim, seconds / 2))

    async def _again_and_again(self, act: Callable[[], Awaitable[None]], seconds: float) -> None:
        while not self._over:
            await asyncio.sleep(seconds * random.uniform(0.75, 1))  # noqa: S311 - spreads pods, guards nothing
            with self._noting("looking after pending entries failed; it will be tried again"):
                await act()

    async def _renew(self) -> None:
        if self._in_flight:
            for message_id in await self._intake.renew(list(self._in_flight)):
                self._lose(message_id)

    def _lose(self, message_id: str) -> None:
        """Another consumer has it: what runs is cancelled, what has not begun never will."""
        entry = self._in_flight.get(message_id)
        if entry is None or message_id in self._lost:
            return
        self.metrics.lost_ownership += 1
        log.warning("another consumer took the message over", extra={"message_id": message_id})
        if task := self._running.get(message_id):
            self._lost.add(message_id)
            task.cancel()
        else:
            self._ready.remove(entry)
            self._ended(message_id)

    async def _claim(self) -> None:
        """As long as claims come back full, go on as soon as there is room."""
        full = True
        while full and not self._faults_in_a_row:
            await self._room.wait()
            if self._stopping.is_set():
                return
            entries = await self._intake.claim(self.batch_count)
            full = len(entries) == self.batch_count
            for entry in entries:
                self._take_in(entry)

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _stop(self, loop_task: asyncio.Task[None]) -> None:
        log.info("draining", extra={"running": len(self._running), "unbegun": len(self._ready)})
        self.health.not_ready("draining")
        self._stopping.set()
        self._room.set()
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
        await self._finish_running(deadline)
        await self._hand_back()  # what a claim brought that was under way
        await self._last_word(self._intake.close())
        self._in_flight.clear()

    async def _hand_back(self) -> None:
        unbegun = [entry.message_id for entry in self._ready]
        self._ready.clear()
        for message_id in unbegun:  # not renewed any more either
            del self._in_flight[message_id]
        self.metrics.released += len(unbegun)
        await self._last_word(self._intake.release(unbegun))

    async def _finish_running(self, deadline: float) -> None:
        """Wait for the handlers, until the deadline or until hurried; then cancel them."""
        hurry = asyncio.create_task(self._hurry.wait())
        while self._running and not hurry.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({hurry, *self._running.values()}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if running := set(self._running.values()):
            log.warning("drain ended with messages running; they stay pending", extra={"messages": len(running)})
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=LAST_WORDS.total_seconds())

    async def _last_word(self, command: Coroutine[Any, Any, None]) -> None:
        with self._noting("draining goes on without Redis"):
            await asyncio.wait_for(command, LAST_WORDS.total_seconds())

    # -- small things ------------------------------------------------------------------------------------------------

    def _new_intake(self) -> Intake:
        manager, who = self.stream_manager, (self.stream_name, self.consumer_group_name, self.consumer_name)
        if isinstance(manager, StreamManager):
            return manager.intake(*who, block=timedelta(seconds=self.poll_interval), metrics=self.metrics)
        return PolledIntake(manager, *who)

    async def _beat(self) -> None:
        """The event loop turns: while it does, a handler may take its time and Redis may be away."""
        while True:
            self.health.beat()
            await asyncio.sleep(HEARTBEAT.total_seconds())

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Go on after an error, and say so."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            found = fault(error, self._where)
            log.warning(what, extra={"code": found.code, "error": found.sentence})


def _cancelled_by_us(error: BaseException) -> bool:
    """Whether the message's task was cancelled; a handler may also await something that somebody cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0

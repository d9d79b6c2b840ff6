"""Simulated pod: the real engine in a simulated process."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

from streamconsumer.model.processor_settings import Backoff, Breaker, Delivery
from streamconsumer.processor import Effects, RedisStreamProcessor, StreamManager, current_message
from streamconsumer.processor.health import Health
from streamconsumer.processor.message import current_messages
from streamconsumer.processor.runtime import Runtime, ThreadMain
from tests.simulation.handlers import SimulatedThreads, handle, handle_batch, kind_of, thread_seconds
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Process, SimulationLoop, context_of
from tests.simulation.plan import PodPlan

STREAM, GROUP = "orders", "billing"


class Pod:
    """One pod. After a crash, a new pod with a new name continues, as a Deployment does."""

    def __init__(self, plan: PodPlan, loop: SimulationLoop, ledger: Ledger, random: Random) -> None:
        self.plan, self._loop, self._ledger = plan, loop, ledger
        self.process = Process(plan.name)
        self._context = context_of(self.process.threads["main"])
        self.runtime = Runtime(
            clock=loop.time, random=random, start_thread=self._start_thread, create_thread_pool=self._create_thread_pool
        )
        self.processor: RedisStreamProcessor | None = None
        self.main_task: asyncio.Task[None] | None = None
        self.thread_tasks: list[asyncio.Task[None]] = []
        self.is_stopping = False
        self.exit_error: BaseException | None = None

    def start(self) -> None:
        """Start the process."""
        self.main_task = self._context.copy().run(self._loop.create_task, self._main())

    def stop(self) -> None:
        """Send SIGTERM."""
        if not self.process.is_dead and not self.is_stopping:
            self.is_stopping = True
            self._context.copy().run(self._loop.create_task, self._stop())

    def crash(self) -> None:
        """End the process at once."""
        self._loop.kill(self.process)

    @property
    def has_ended(self) -> bool:
        """True if the process no longer exists."""
        return self.process.is_dead or (self.main_task is not None and self.main_task.done())

    async def _main(self) -> None:
        delivery = Delivery(
            max_deliveries=self.plan.max_deliveries,
            timeout=timedelta(seconds=self.plan.timeout_seconds) if self.plan.timeout_seconds else None,
            backoff=Backoff(min_delay=timedelta(seconds=0.5), max_delay=timedelta(seconds=4)),
            breaker=Breaker(failures=5, max_pause=timedelta(seconds=5)),
        )
        manager = StreamManager.from_url("redis://server:6379/0", delivery=delivery)
        processor = self.processor = RedisStreamProcessor(
            manager,
            STREAM,
            GROUP,
            self.plan.name,
            concurrency=self.plan.concurrency,
            batch=self.plan.is_batch,
            ordering_key="key" if self.plan.has_ordering_key else None,
            drain_timeout=timedelta(seconds=5),
            health=Health(runtime=self.runtime),
            runtime=self.runtime,
        )
        processor.set_message_callback(self._callback())
        try:
            await processor.start_listening()
            await processor.wait_stopped()
        except Exception as error:  # noqa: BLE001 - reported as a violation
            self.exit_error = error
        await manager.aclose()
        self._loop.kill(self.process)

    async def _stop(self) -> None:
        if self.processor is not None:
            await self.processor.stop_listening()

    # -- handlers ------------------------------------------------------------------------------------------------------

    def _callback(self) -> Any:
        if self.plan.handler in {"thread", "hung_thread"} and not self.plan.is_batch:
            return self._call_in_thread
        return self._call_batch if self.plan.is_batch else self._call

    async def _call(self, data: dict[Any, Any]) -> Effects | None:
        message, number = current_message(), int(data["n"])
        run = self._ledger.on_start(self.process, message.message_id, number, data.get("key", ""))
        try:
            result = await handle(kind_of(self.plan, number), number, run.attempt)
        except BaseException as error:
            self._ledger.on_end(run, error)
            raise
        self._ledger.on_end(run, result)
        return result

    async def _call_batch(self, batch: list[dict[Any, Any]]) -> None:
        numbers = [int(data["n"]) for data in batch]
        runs = [
            self._ledger.on_start(self.process, message.message_id, number, data.get("key", ""))
            for message, number, data in zip(current_messages(), numbers, batch, strict=True)
        ]
        try:
            await handle_batch(kind_of(self.plan, numbers[0]), numbers, [run.attempt for run in runs])
        except BaseException as error:
            failures = getattr(error, "failures", dict.fromkeys(range(len(runs)), error))
            for index, run in enumerate(runs):
                self._ledger.on_end(run, failures.get(index))
            raise
        for run in runs:
            self._ledger.on_end(run, None)

    def _call_in_thread(self, data: dict[Any, Any]) -> None:
        message, number = current_message(), int(data["n"])
        run = self._ledger.on_start(self.process, message.message_id, number, data.get("key", ""))
        seconds = thread_seconds(kind_of(self.plan, number), number)
        if seconds is not None:
            self._loop.call_later(seconds, self._ledger.on_end, run, None)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _start_thread(self, name: str, main: ThreadMain) -> None:
        async def run() -> None:
            with suppress(asyncio.CancelledError):
                await main()

        context = context_of(self.process.thread(name))
        self.thread_tasks.append(context.run(self._loop.create_task, run()))

    def _create_thread_pool(self, max_threads: int) -> SimulatedThreads:
        return SimulatedThreads(self._loop, max_threads, self._seconds)

    def _seconds(self, data: dict[Any, Any]) -> float | None:
        number = int(data["n"])
        return thread_seconds(kind_of(self.plan, number), number)

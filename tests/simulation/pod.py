"""Simulated pod: the real engine in a simulated process."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

from streamconsumer.model.processor_settings import Backoff, Breaker, Delivery, Retention
from streamconsumer.processor import Effects, RedisStreamProcessor, StreamManager, current_message
from streamconsumer.processor.health import Health
from streamconsumer.processor.message import current_messages
from streamconsumer.processor.runtime import Runtime, ThreadMain
from tests.simulation.handlers import SimulatedThreads, handle, handle_batch, kind_of, thread_seconds
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Process, SimulationLoop, context_of
from tests.simulation.own_manager import create_manager
from tests.simulation.plan import PodPlan
from tests.simulation.records import Run
from tests.simulation.tracing import SimulatedTracing

STREAM, GROUP = "orders", "billing"

RETENTION = {
    "": None,
    "acknowledged": Retention(acknowledged=True),
    "max_age": Retention(max_age=timedelta(seconds=1)),
}
"""Rules for trimming the stream, by their name in the plan of a pod."""


class Pod:
    """Simulated pod. After a crash, a new pod with a new name continues, as a Deployment does."""

    def __init__(
        self,
        plan: PodPlan,
        loop: SimulationLoop,
        ledger: Ledger,
        random: Random,
        *,
        consumer: str = "",
        pod_uid: str = "",
    ) -> None:
        """Create a pod that has not started. `consumer` is its consumer name, by default the name of the pod.

        The default of `pod_uid` is the same for all containers of a pod.
        """
        self.plan, self._loop, self._ledger = plan, loop, ledger
        self.consumer = consumer or plan.name
        self.pod_uid = pod_uid or f"uid-{self.consumer}"
        self.process = Process(plan.name)
        self._context = context_of(self.process.threads["main"])
        self.runtime = Runtime(
            clock=lambda: loop.time() * plan.clock_drift,
            random=random,
            start_thread=self._start_thread,
            create_thread_pool=self._create_thread_pool,
            pod_uid=self.pod_uid,
        )
        self.processor: RedisStreamProcessor | None = None
        self.main_task: asyncio.Task[None] | None = None
        self.thread_tasks: list[asyncio.Task[None]] = []
        self._thread_runs: dict[int, list[Run]] = {}
        """Runs in threads that have not ended, by the id of the handler's argument."""
        self._change: asyncio.Task[None] | None = None
        """Task that stops or restarts the processor. None if there is none."""
        self.can_start_threads = True
        """False while the operating system refuses to start a thread."""
        self.started_at: float | None = None
        """Time from which the pod listens. None before."""
        self.died_at: float | None = None
        self.is_replaced = False
        """True if another pod or container starts in its place."""
        self.is_node_lost = False
        """True if the process ended with its node, so that the server did not notice it."""
        self.health = Health(runtime=self.runtime)
        self.exit_error: BaseException | None = None
        self.on_exit: Callable[[], object] = lambda: None
        """Called when the process has ended by itself."""

    def start(self) -> None:
        """Start the process."""
        self.main_task = self._context.copy().run(self._loop.create_task, self._main())

    def stop(self) -> None:
        """Send SIGTERM."""
        if not self.process.is_dead and not self.is_stopping:
            self.process.is_stopping = True
            self._change = self._context.copy().run(self._loop.create_task, self._stop())

    def crash(self) -> None:
        """Kill the process."""
        if not self.process.is_dead:
            self._loop.kill(self.process)
            self.died_at = self._ledger.now

    def restart_listening(self) -> None:
        """Stop and start the processor again, within the same process."""
        if self.can_restart and self.processor is not None:
            self._change = self._context.copy().run(self._loop.create_task, self._restart(self.processor))

    @property
    def can_restart(self) -> bool:
        """True if the processor listens, and nothing stops or restarts it."""
        return self.is_listening and self._change is None and self.processor is not None

    def exit(self) -> None:
        """End the event loop after a KeyboardInterrupt, as asyncio.Runner does: cancel all tasks, and wait for them."""
        self.process.is_exiting = True
        tasks = self._loop.tasks_of(self.process)
        for task in tasks:
            self._context.copy().run(task.cancel)
        self._end_when_done(tasks)

    def _end_when_done(self, tasks: list[Any]) -> None:
        if all(task.done() for task in tasks):
            self.crash()
        else:
            self._loop.after(1000, self._end_when_done, tasks)

    @property
    def instance(self) -> str:
        """Name of this process in a plan: `pod-a~1` is the first replacement of `pod-a~0`."""
        return self.plan.name if "~" in self.plan.name else f"{self.plan.name}~0"

    @property
    def is_stopping(self) -> bool:
        """True after SIGTERM."""
        return self.process.is_stopping

    @property
    def is_listening(self) -> bool:
        """True if the pod should read and handle messages."""
        return not (self.has_ended or self.is_stopping or self.process.is_exiting or self.started_at is None)

    @property
    def has_ended(self) -> bool:
        """True if the process no longer exists."""
        return self.process.is_dead or (self.main_task is not None and self.main_task.done())

    async def _main(self) -> None:
        try:
            await self._run()
        except Exception as error:  # noqa: BLE001 - reported as a violation
            self.exit_error = error
        self.crash()
        self.on_exit()

    async def _run(self) -> None:
        delivery = Delivery(
            max_deliveries=self.plan.max_deliveries,
            timeout=timedelta(seconds=self.plan.timeout_seconds) if self.plan.timeout_seconds else None,
            backoff=Backoff(min_delay=timedelta(seconds=0.5), max_delay=timedelta(seconds=4)),
            breaker=Breaker(failures=5, max_pause=timedelta(seconds=5)),
            max_entry_bytes=self.plan.max_entry_bytes,
        )
        manager: Any = (
            create_manager(self.plan.manager)
            if self.plan.manager
            else StreamManager.from_url(
                "redis://server:6379/0", delivery=delivery, retention=RETENTION[self.plan.retention]
            )
        )
        processor = self.processor = RedisStreamProcessor(
            manager,
            STREAM,
            GROUP,
            self.consumer,
            concurrency=self.plan.concurrency,
            batch=self.plan.is_batch,
            ordering_key="key" if self.plan.has_ordering_key else None,
            delivery=delivery,
            drain_timeout=timedelta(seconds=self.plan.drain_seconds),
            telemetry=SimulatedTracing() if self.plan.is_traced else None,
            health=self.health,
            runtime=self.runtime,
        )
        processor.set_message_callback(self._callback())
        await processor.start_listening()
        self.started_at = self._ledger.now
        await self._wait_for_end(processor)
        await manager.aclose()

    async def _wait_for_end(self, processor: RedisStreamProcessor) -> None:
        """Wait until SIGTERM has stopped the processor. Reports a processor that ends without it."""
        while True:
            await processor.wait_stopped()
            if self._change is None:
                self._ledger.report(
                    "background", f"{self.plan.name}: the loop ended; is_running: {processor.is_running}"
                )
                return
            change = self._change
            await asyncio.wait([change])
            if self.is_stopping or change.exception() is not None:
                return

    async def _stop(self) -> None:
        if self.processor is not None:
            await self.processor.stop_listening()

    async def _restart(self, processor: RedisStreamProcessor) -> None:
        begin = self._ledger.now
        await processor.stop_listening()
        if (calm_since := self._ledger.calm_since()) is None or calm_since >= begin:
            for record in self._ledger.records.values():
                record.on_stopped(self.process, self.consumer)
        self.process.restarts += 1
        if not self.is_stopping:
            await processor.start_listening()
            self._change = None

    # -- handlers ------------------------------------------------------------------------------------------------------

    def _callback(self) -> Any:
        if self.plan.handler in {"thread", "hung_thread"}:
            return self._call_batch_in_thread if self.plan.is_batch else self._call_in_thread
        return self._call_batch if self.plan.is_batch else self._call

    def _start_run(self, entry_id: str, number: int, data: dict[Any, Any], *, is_thread: bool = False) -> Run:
        key = data.get("key", "")
        return self._ledger.on_start(Run(self.process, self.consumer, entry_id, number, key, is_thread=is_thread))

    async def _call(self, data: dict[Any, Any]) -> Effects | None:
        message, number = current_message(), int(data["n"])
        run = self._start_run(message.message_id, number, data)
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
            self._start_run(message.message_id, number, data)
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
        self._start_thread_runs(data, [data])

    def _call_batch_in_thread(self, batch: list[dict[Any, Any]]) -> None:
        self._start_thread_runs(batch, batch)

    def _start_thread_runs(self, argument: Any, batch: list[dict[Any, Any]]) -> None:
        self._thread_runs[id(argument)] = [
            self._start_run(message.message_id, int(data["n"]), data, is_thread=True)
            for message, data in zip(current_messages(), batch, strict=True)
        ]

    def _end_thread_runs(self, argument: Any) -> None:
        """Record that the thread of a handler has ended. `argument` is the argument of the handler."""
        seconds, timeout = self._seconds(argument), self.plan.timeout_seconds
        is_late = seconds is not None and timeout is not None and seconds > timeout
        for run in self._thread_runs.pop(id(argument), ()):
            self._ledger.on_end(run, TimeoutError() if is_late else None)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _start_thread(self, name: str, main: ThreadMain) -> None:
        if not self.can_start_threads:
            raise RuntimeError("can't start new thread")

        async def run() -> None:
            with suppress(asyncio.CancelledError):
                await main()

        context = context_of(self.process.thread(name))
        self.thread_tasks.append(context.run(self._loop.create_task, run()))

    def _create_thread_pool(self, max_threads: int) -> SimulatedThreads:
        return SimulatedThreads(self._loop, max_threads, self._seconds, self._end_thread_runs)

    def _seconds(self, data: Any) -> float | None:
        """Return how long a thread handles a message or a batch. None if it never ends."""
        numbers = [int(each["n"]) for each in (data if isinstance(data, list) else [data])]
        seconds = [thread_seconds(kind_of(self.plan, number), number) for number in numbers]
        return None if None in seconds else sum(filter(None, seconds))

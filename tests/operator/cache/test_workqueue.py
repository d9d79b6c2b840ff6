import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from streamconsumer.operator.cache.workqueue import Key, WorkQueue

A, B, C = ("shop", "a"), ("shop", "b"), ("shop", "c")


class FakeReconciler:
    """A reconcile function that records its start and waits until the test ends it."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Key] = asyncio.Queue()
        self.running: list[Key] = []
        self.max_running = 0
        self._results: dict[Key, asyncio.Queue[Exception | None]] = {}

    async def reconcile(self, key: Key) -> None:
        self.running.append(key)
        self.max_running = max(self.max_running, len(self.running))
        self.started.put_nowait(key)
        try:
            if result := await self._result_queue(key).get():
                raise result
        finally:
            self.running.remove(key)

    def end(self, key: Key, result: Exception | None = None) -> None:
        self._result_queue(key).put_nowait(result)

    async def next_started(self) -> Key:
        async with asyncio.timeout(5):
            return await self.started.get()

    def _result_queue(self, key: Key) -> asyncio.Queue[Exception | None]:
        return self._results.setdefault(key, asyncio.Queue())


@asynccontextmanager
async def working(queue: WorkQueue, reconciler: FakeReconciler, workers: int = 3) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run_workers(reconciler.reconcile, workers))
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def idle() -> None:
    """Run everything that waits for neither the test nor a timer."""
    for _ in range(20):
        await asyncio.sleep(0)


class Timers:
    """A replacement of the loop's `call_later` that records the timers instead of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later)
        monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)

    def _call_later(self, delay: float, callback: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        handle = asyncio.TimerHandle(loop.time() + delay, callback, arguments, loop)
        self.set.append((delay, lambda: None if handle.cancelled() else callback(*arguments)))
        return handle

    def fire(self) -> float:
        """Fire the latest timer. Returns its delay."""
        delay, callback = self.set.pop()
        callback()
        return delay


async def retry_delay(timers: Timers, queue: WorkQueue, reconciler: FakeReconciler) -> float:
    """Return the delay before A is retried."""
    await idle()
    delay = timers.fire()
    await idle()
    assert reconciler.started.get_nowait() == A
    return delay


async def test_an_added_key_is_processed() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler):
        queue.add(A)
        assert await reconciler.next_started() == A


async def test_keys_are_processed_in_the_order_in_which_they_were_added() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    for key in (B, C, A):
        queue.add(key)
    async with working(queue, reconciler, workers=1):
        for key in (B, C, A):
            assert await reconciler.next_started() == key
            reconciler.end(key)


async def test_a_key_that_is_added_several_times_is_processed_once() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    for _ in range(10):
        queue.add(A)
    assert len(queue) == 1
    async with working(queue, reconciler):
        await reconciler.next_started()
        reconciler.end(A)
        await idle()
        assert reconciler.started.empty()


async def test_a_key_is_never_processed_by_two_workers_at_a_time() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler):
        queue.add(A)
        await reconciler.next_started()
        queue.add(A)
        await idle()
        assert reconciler.running == [A]


async def test_only_one_large_key_is_processed_at_a_time_and_other_keys_pass() -> None:
    queue, reconciler = WorkQueue({A, B}.__contains__), FakeReconciler()
    for key in (A, B, C):
        queue.add(key)
    async with working(queue, reconciler):
        await idle()
        assert reconciler.running == [A, C]
        reconciler.end(A)
        await idle()
        assert reconciler.running == [C, B]


async def test_namespaces_take_turns_with_large_keys() -> None:
    queue, reconciler = WorkQueue(lambda _: True), FakeReconciler()
    many, other = [("many", str(number)) for number in range(3)], ("other", "0")
    for key in (*many, other):
        queue.add(key)
    async with working(queue, reconciler):
        for key in (many[0], other, many[1], many[2]):
            assert await reconciler.next_started() == key
            reconciler.end(key)


async def test_a_namespace_with_many_keys_does_not_delay_other_namespaces() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    many, other = [("many", str(number)) for number in range(3)], ("other", "0")
    for key in (*many, other):
        queue.add(key)
    async with working(queue, reconciler, workers=1):
        for key in (many[0], other, many[1], many[2]):
            assert await reconciler.next_started() == key
            reconciler.end(key)


async def test_a_waiting_key_that_becomes_large_waits_for_its_turn() -> None:
    large = {A}
    queue, reconciler = WorkQueue(large.__contains__), FakeReconciler()
    queue.add(A)
    queue.add(B)
    large.add(B)
    queue.add(B)
    async with working(queue, reconciler):
        await idle()
        assert reconciler.running == [A]
        assert len(queue) == 2


async def test_the_time_for_a_key_does_not_grow_with_the_number_of_large_keys() -> None:
    checks = 0

    def is_large(_: Key) -> bool:
        nonlocal checks
        checks += 1
        return True

    queue, reconciler = WorkQueue(is_large), FakeReconciler()
    for number in range(1000):
        queue.add(("shop", str(number)))
    async with working(queue, reconciler):
        for number in range(10):
            assert await reconciler.next_started() == ("shop", str(number))
            reconciler.end(("shop", str(number)))
    assert checks < 2000


async def test_large_key_is_processed_after_another_large_key_has_failed() -> None:
    queue, reconciler = WorkQueue({A, B}.__contains__), FakeReconciler()
    for key in (A, B):
        queue.add(key)
    async with working(queue, reconciler):
        await idle()
        reconciler.end(A, OSError("down"))
        await idle()
        assert reconciler.running == [B]


async def test_a_key_that_is_added_while_in_progress_is_processed_again() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler):
        queue.add(A)
        await reconciler.next_started()
        queue.add(A)
        queue.add(A)
        reconciler.end(A)
        assert await reconciler.next_started() == A
        reconciler.end(A)
        await idle()
        assert reconciler.started.empty()
        assert len(queue) == 0


async def test_a_key_in_progress_does_not_block_other_keys() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler, workers=2):
        queue.add(A)
        await reconciler.next_started()
        queue.add(A)
        queue.add(B)
        assert await reconciler.next_started() == B


async def test_the_number_of_keys_in_progress_does_not_exceed_the_workers() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler, workers=2):
        for key in (A, B, C):
            queue.add(key)
        await idle()
        assert reconciler.max_running == 2
        assert len(queue) == 3


async def test_retry_delays_double_up_to_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    delays = []
    async with working(queue, reconciler):
        queue.add(A)
        await idle()
        reconciler.started.get_nowait()
        for _ in range(14):
            reconciler.end(A, OSError("no API server"))
            delays.append(await retry_delay(timers, queue, reconciler))
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == delays[-2] == timedelta(minutes=2).total_seconds()


async def test_a_success_resets_the_retry_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    async with working(queue, reconciler):
        queue.add(A)
        await idle()
        reconciler.started.get_nowait()
        for _ in range(3):
            reconciler.end(A, OSError())
            await retry_delay(timers, queue, reconciler)
        reconciler.end(A)
        await idle()
        assert not queue._failures
        queue.add(A)
        await idle()
        reconciler.started.get_nowait()
        reconciler.end(A, OSError())
        assert await retry_delay(timers, queue, reconciler) == 0.2


async def test_retry_delays_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    bounds = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 1.0

    monkeypatch.setattr(random, "uniform", uniform)
    async with working(queue, reconciler):
        queue.add(A)
        reconciler.end(A, OSError())
        await idle()
        timers.fire()
    assert bounds == [(0.75, 1.25)]


async def test_a_key_that_is_added_during_a_retry_delay_is_processed_immediately_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    async with working(queue, reconciler):
        queue.add(A)
        reconciler.end(A, OSError())
        await idle()
        reconciler.started.get_nowait()
        queue.add(A)
        await idle()
        assert reconciler.started.get_nowait() == A
        reconciler.end(A)
        await idle()
        timers.fire()
        await idle()
        assert reconciler.started.empty()


async def test_a_failed_key_that_was_added_again_is_retried_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    async with working(queue, reconciler):
        queue.add(A)
        await idle()
        queue.add(A)
        reconciler.end(A, OSError())
        await idle()
        assert reconciler.running == [A]
        assert not timers.set


async def test_a_failing_key_does_not_occupy_a_worker() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler, workers=1):
        queue.add(A)
        queue.add(B)
        reconciler.end(A, OSError())
        assert await reconciler.next_started() == A
        assert await reconciler.next_started() == B


async def test_a_key_in_a_retry_delay_does_not_count_as_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the queue depth of a failing object would look like a stuck operator."""
    queue, reconciler, timers = WorkQueue(), FakeReconciler(), Timers(monkeypatch)
    async with working(queue, reconciler):
        queue.add(A)
        reconciler.end(A, OSError())
        await idle()
        assert timers.set
        assert len(queue) == 0


async def test_cancellation_ends_every_worker_during_a_reconcile() -> None:
    queue, reconciler = WorkQueue(), FakeReconciler()
    async with working(queue, reconciler):
        queue.add(A)
        queue.add(B)
        await reconciler.next_started()
        await reconciler.next_started()
    assert reconciler.running == []
    assert len(queue) == 0


async def test_a_reconcile_can_request_another_one_after_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requested delay is no failure: no warning, and no growing delay."""
    queue, timers, reconciled = WorkQueue(), Timers(monkeypatch), []

    async def reconcile(key: Key) -> timedelta | None:
        reconciled.append(key)
        return timedelta(seconds=30) if len(reconciled) < 3 else None

    task = asyncio.create_task(queue.run_workers(reconcile, 1))
    queue.add(A)
    await idle()
    for _ in range(2):
        assert timers.fire() == 30
        await idle()
    assert reconciled == [A, A, A]
    assert not timers.set
    task.cancel()


async def test_other_tasks_run_between_two_reconciles_that_await_nothing() -> None:
    queue, running = WorkQueue(), list[int]()
    for number in range(100):
        queue.add(("shop", str(number)))

    async def reconcile(_: Key) -> None:
        running.append(len(queue))

    worker = asyncio.create_task(queue.run_workers(reconcile, 1))
    longest, before = 0, 0
    async with asyncio.timeout(20):
        while len(running) < 100:
            await asyncio.sleep(0)
            longest, before = max(longest, len(running) - before), len(running)
    worker.cancel()
    assert longest <= 2

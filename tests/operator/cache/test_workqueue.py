import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from streamconsumer.operator.cache.workqueue import Key, WorkQueue

A, B, C = ("shop", "a"), ("shop", "b"), ("shop", "c")


class Work:
    """What the workers do: say that they have begun, and wait for a word of the test."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Key] = asyncio.Queue()
        self.running: list[Key] = []
        self.most = 0
        self._words: dict[Key, asyncio.Queue[Exception | None]] = {}

    async def act(self, key: Key) -> None:
        self.running.append(key)
        self.most = max(self.most, len(self.running))
        self.begun.put_nowait(key)
        try:
            if word := await self._words_for(key).get():
                raise word
        finally:
            self.running.remove(key)

    def end(self, key: Key, word: Exception | None = None) -> None:
        self._words_for(key).put_nowait(word)

    async def begins(self) -> Key:
        async with asyncio.timeout(5):
            return await self.begun.get()

    def _words_for(self, key: Key) -> asyncio.Queue[Exception | None]:
        return self._words.setdefault(key, asyncio.Queue())


@asynccontextmanager
async def working(queue: WorkQueue, work: Work, workers: int = 3) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run_workers(work.act, workers))
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def idle() -> None:
    """Let everything that can run without a word or a timer run."""
    for _ in range(20):
        await asyncio.sleep(0)


class Timers:
    """The loop's `call_later`, written down instead of waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later)
        monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)

    def _call_later(self, delay: float, act: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        handle = asyncio.TimerHandle(loop.time() + delay, act, arguments, loop)
        self.set.append((delay, lambda: None if handle.cancelled() else act(*arguments)))
        return handle

    def ring(self) -> float:
        """The latest timer goes off. Returns what it was set to."""
        delay, act = self.set.pop()
        act()
        return delay


async def begun_after(timers: Timers, queue: WorkQueue, work: Work) -> float:
    """The pause until A is tried again."""
    await idle()
    pause = timers.ring()
    await idle()
    assert work.begun.get_nowait() == A
    return pause


async def test_an_added_key_is_processed() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work):
        queue.add(A)
        assert await work.begins() == A


async def test_keys_are_processed_in_the_order_in_which_they_were_added() -> None:
    queue, work = WorkQueue(), Work()
    for key in (B, C, A):
        queue.add(key)
    async with working(queue, work, workers=1):
        for key in (B, C, A):
            assert await work.begins() == key
            work.end(key)


async def test_a_key_that_is_added_several_times_is_processed_once() -> None:
    queue, work = WorkQueue(), Work()
    for _ in range(10):
        queue.add(A)
    assert len(queue) == 1
    async with working(queue, work):
        await work.begins()
        work.end(A)
        await idle()
        assert work.begun.empty()


async def test_a_key_is_never_processed_by_two_workers_at_a_time() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work):
        queue.add(A)
        await work.begins()
        queue.add(A)
        await idle()
        assert work.running == [A]


async def test_a_key_that_is_added_while_in_progress_is_processed_again() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work):
        queue.add(A)
        await work.begins()
        queue.add(A)
        queue.add(A)
        work.end(A)
        assert await work.begins() == A
        work.end(A)
        await idle()
        assert work.begun.empty()
        assert len(queue) == 0


async def test_a_key_in_progress_does_not_block_other_keys() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work, workers=2):
        queue.add(A)
        await work.begins()
        queue.add(A)
        queue.add(B)
        assert await work.begins() == B


async def test_the_number_of_keys_in_progress_does_not_exceed_the_workers() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work, workers=2):
        for key in (A, B, C):
            queue.add(key)
        await idle()
        assert work.most == 2
        assert len(queue) == 3


async def test_retry_delays_double_up_to_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    pauses = []
    async with working(queue, work):
        queue.add(A)
        await idle()
        work.begun.get_nowait()
        for _ in range(14):
            work.end(A, OSError("no API server"))
            pauses.append(await begun_after(timers, queue, work))
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == pauses[-2] == timedelta(minutes=2).total_seconds()


async def test_a_success_resets_the_retry_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    async with working(queue, work):
        queue.add(A)
        await idle()
        work.begun.get_nowait()
        for _ in range(3):
            work.end(A, OSError())
            await begun_after(timers, queue, work)
        work.end(A)
        await idle()
        assert not queue._failures
        queue.add(A)
        await idle()
        work.begun.get_nowait()
        work.end(A, OSError())
        assert await begun_after(timers, queue, work) == 0.2


async def test_retry_delays_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 1.0

    monkeypatch.setattr(random, "uniform", uniform)
    async with working(queue, work):
        queue.add(A)
        work.end(A, OSError())
        await idle()
        timers.ring()
    assert asked == [(0.75, 1.25)]


async def test_a_key_that_is_added_during_a_retry_delay_is_processed_immediately_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    async with working(queue, work):
        queue.add(A)
        work.end(A, OSError())
        await idle()
        work.begun.get_nowait()
        queue.add(A)
        await idle()
        assert work.begun.get_nowait() == A
        work.end(A)
        await idle()
        timers.ring()
        await idle()
        assert work.begun.empty()


async def test_a_failed_key_that_was_added_again_is_retried_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    async with working(queue, work):
        queue.add(A)
        await idle()
        queue.add(A)
        work.end(A, OSError())
        await idle()
        assert work.running == [A]
        assert not timers.set


async def test_a_failing_key_does_not_occupy_a_worker() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work, workers=1):
        queue.add(A)
        queue.add(B)
        work.end(A, OSError())
        assert await work.begins() == A
        assert await work.begins() == B


async def test_a_key_in_a_retry_delay_does_not_count_as_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one broken object would make the operator look stuck."""
    queue, work, timers = WorkQueue(), Work(), Timers(monkeypatch)
    async with working(queue, work):
        queue.add(A)
        work.end(A, OSError())
        await idle()
        assert timers.set
        assert len(queue) == 0


async def test_cancellation_ends_every_worker_during_a_reconcile() -> None:
    queue, work = WorkQueue(), Work()
    async with working(queue, work):
        queue.add(A)
        queue.add(B)
        await work.begins()
        await work.begins()
    assert work.running == []
    assert len(queue) == 0


async def test_a_reconcile_can_request_another_one_after_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a failure: no warning, and no pause that grows."""
    queue, timers, seen = WorkQueue(), Timers(monkeypatch), []

    async def act(key: Key) -> timedelta | None:
        seen.append(key)
        return timedelta(seconds=30) if len(seen) < 3 else None

    task = asyncio.create_task(queue.run_workers(act, 1))
    queue.add(A)
    await idle()
    for _ in range(2):
        assert timers.ring() == 30
        await idle()
    assert seen == [A, A, A]
    assert not timers.set
    task.cancel()

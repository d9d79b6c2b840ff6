"""Threads of plain functions: a hung thread costs no message, and the liveness probe fails when all threads hang."""

import asyncio
import signal
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor import current_message, current_messages
from streamconsumer.processor.handler.loader import MAX_WAIT_SECONDS, THREADS_PER_SLOT, HandlerThreadPool
from streamconsumer.processor.message import reset_current, set_current
from streamconsumer.processor.runtime import DEFAULT_RUNTIME
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from tests.processor.eventually import eventually
from tests.processor.group import QUICK_BACKOFF, Group
from tests.processor.pod import NewPod
from tests.processor.recorder import Recorder


async def test_hung_thread_costs_no_attempt_of_other_messages(group: Group) -> None:
    """The timeout starts with the call of the function, and a slot whose thread hangs gets a new thread."""
    group.delivery = Delivery(timeout=timedelta(milliseconds=300), max_deliveries=1, backoff=QUICK_BACKOFF)
    release, handled = threading.Event(), []

    def handle(data: dict[str, str]) -> None:
        if data["n"] == "0":
            release.wait()
        handled.append(data["n"])

    await group.add(5)
    processor = await group.start(handle)
    await eventually(lambda: processor.metrics.acknowledged == 4)
    assert [each["n"] for each in await group.dead_letters()] == ["0"]
    assert handled == ["1", "2", "3", "4"]
    assert processor.health.liveness()[0]
    release.set()


async def test_liveness_fails_while_all_threads_hang(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=1, backoff=QUICK_BACKOFF)
    release, started = threading.Event(), []

    def hang(_data: dict[str, str]) -> None:
        started.append(current_message().message_id)
        release.wait()

    await group.add(THREADS_PER_SLOT + 2)
    processor = await group.start(hang)
    await eventually(lambda: not processor.health.liveness()[0])
    assert "all 3 threads are busy with handlers that were cancelled" in processor.health.liveness()[1]
    assert len(await group.dead_letters()) == len(started) == THREADS_PER_SLOT, "a waiting message loses no attempt"
    release.set()
    await eventually(lambda: processor.health.liveness()[0])
    await group.wait_settled()
    assert len(started) == THREADS_PER_SLOT + 2


@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
@pytest.mark.parametrize("max_deliveries", [1, 2], ids=["counted", "ordinary"])
async def test_message_that_waits_for_a_thread_does_not_start_during_a_drain(
    group: Group, max_deliveries: int, is_batch: bool
) -> None:
    """The drain releases the message immediately, and its attempt does not count."""
    long_backoff = Backoff(min_delay=timedelta(seconds=60), max_delay=timedelta(seconds=60))
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=max_deliveries, backoff=long_backoff)
    release, started = threading.Event(), list[str]()

    def hang(_data: Any) -> None:
        started.extend(message.message_id for message in current_messages())
        release.wait()

    *_, last = await group.add(THREADS_PER_SLOT + 1)
    processor = await group.start(hang, batch=1, settings={"batch": is_batch})
    await eventually(lambda: not processor.health.liveness()[0])
    await eventually(lambda: last in processor._pipeline.in_flight.tasks)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor._pipeline.in_flight.is_closed)
    release.set()
    await stopping
    assert last not in started
    assert len(started) == THREADS_PER_SLOT
    [released] = [entry for entry in await group.entries() if entry.message_id == last]
    assert released.consumer == POSTPONED_CONSUMER
    handled = Recorder()
    await group.start(handled, "pod-b")
    await handled.wait_until_finished(1)
    assert handled.ids == [last]
    assert handled.received[0].deliveries == 1


async def test_only_one_task_reserves_the_last_thread() -> None:
    """The attempt of a task without a reserved thread must not be counted, because its handler cannot start."""
    pool, release, ended = HandlerThreadPool(1), threading.Event(), list[int]()
    token = set_current([])
    hung = [asyncio.create_task(pool.call(lambda _: release.wait(), None)) for _ in range(THREADS_PER_SLOT - 1)]

    async def attempt(number: int) -> None:
        await pool.reserve_thread()
        assert not pool.is_exhausted, "the reserved thread is free for the task"
        await may_call.wait()
        await pool.call(ended.append, number)

    may_call = asyncio.Event()
    await asyncio.sleep(0)
    attempts = [asyncio.create_task(attempt(number)) for number in range(2)]
    await asyncio.sleep(0)
    assert pool.is_exhausted, "the last thread is reserved"
    assert len(pool._reserved) == 1
    may_call.set()
    await asyncio.gather(*attempts)
    assert ended == [0, 1]
    assert not pool._reserved
    release.set()
    await asyncio.gather(*hung)
    reset_current(token)


async def test_reservation_ends_with_its_task() -> None:
    pool = HandlerThreadPool(1)
    tasks = [asyncio.create_task(pool.reserve_thread()) for _ in range(THREADS_PER_SLOT + 1)]
    await asyncio.gather(*tasks)
    await eventually(lambda: not pool._reserved)


def test_liveness_fails_while_a_message_waits_too_long_for_its_own_handler() -> None:
    now, failures = 0.0, dict[str, str]()
    pool = HandlerThreadPool(1, replace(DEFAULT_RUNTIME, clock=lambda: now), failures)
    pool.busy_ids.add("1-0")
    pool.record_wait("1-0")
    now = MAX_WAIT_SECONDS
    assert not failures
    pool.record_wait("1-0")
    assert "message 1-0 has waited for 120 s until its previous handler ends" in failures["1-0"]
    pool.end("1-0")
    assert not failures
    pool.record_wait("1-0")
    now *= 2
    pool.record_wait("1-0")
    assert not failures, "the handler has ended"


async def test_blocked_ordering_lane_ends_the_pod(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), backoff=QUICK_BACKOFF)
    release = threading.Event()
    [first, _] = await group.add(2, {"n": "0", "key": "a"})
    settings = {"ordering_key": "key"}
    processor = await group.start(lambda _data: release.wait(), settings=settings)
    waiting = processor._thread_pool._waiting_since
    await eventually(lambda: first in waiting)
    assert processor.health.liveness()[0]
    waiting[first] -= MAX_WAIT_SECONDS
    await eventually(lambda: not processor.health.liveness()[0])
    release.set()
    await eventually(lambda: processor.health.liveness()[0])
    await group.wait_settled()


async def test_hung_threads_of_a_pod_cost_no_attempt_of_a_waiting_message(group: Group, new_pod: NewPod) -> None:
    """The liveness probe fails, so that the kubelet restarts the pod. On SIGTERM, the message that waits for a thread
    goes to another pod, although threads become free during the drain."""
    *_, last = await group.add(THREADS_PER_SLOT, {"seconds": "5"}) + await group.add(1, {"seconds": "0"})
    backoff = {"delivery_backoff_min_delay": "60s", "delivery_backoff_max_delay": "60s"}
    settings = {"concurrency": "1", "delivery_timeout": "100ms", "drain_timeout": "20s", **backoff}
    pod = new_pod("pod_handlers:slow_thread", **settings).start()
    port = await pod.http_port()

    def liveness() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as response:
                return response.status, ""
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def fails() -> bool:
        return (await asyncio.to_thread(liveness))[0] == 503

    await eventually(fails)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert len(pod.find_log("started")) == THREADS_PER_SLOT
    peer = Recorder()
    await group.start(peer, "pod-b")
    await peer.wait_until_finished(1)
    assert [(message.message_id, message.deliveries) for message in peer.received] == [(last, 1)]

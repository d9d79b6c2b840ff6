"""The promised interface: `RedisStreamProcessor`, `StreamManager` and a user's own manager."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor import Message, RedisStreamProcessor, Retry, StreamManager, current_message
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.cluster.redis_servers import RedisServer
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, QUICK_BACKOFF, STREAM, Group
from tests.processor.recorder import Recorder, fail_every_delivery, fail_first_delivery
from tests.processor.user_manager import UserManager


async def test_message_is_handled_and_acknowledged(any_group: Group) -> None:
    handler = Recorder()
    await any_group.start(handler)
    [message_id] = await any_group.add(fields={"id": "7", "total": "9.50"})
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.received == [Message(message_id, STREAM, GROUP, "pod-a", 1, {"id": "7", "total": "9.50"})]


async def test_start_creates_the_stream_and_the_group(any_group: Group) -> None:
    await any_group.start(Recorder())
    await eventually(any_group.group_exists)


async def test_group_from_0_handles_earlier_entries(group: Group) -> None:
    ids = await group.add(25)
    handler = Recorder()
    await group.start(handler)
    await handler.wait_until_finished(25)
    assert handler.ids == ids


async def test_group_from_dollar_handles_only_later_entries(group: Group) -> None:
    await group.add(5)
    handler = Recorder()
    await group.start(handler, start_from="$")
    await group.wait_until_reading()
    later = await group.add(5)
    await handler.wait_until_finished(5)
    await group.wait_settled()
    assert handler.ids == later


async def test_existing_group_continues_at_its_position(group: Group) -> None:
    await group.add(3)
    await group.create_group("$")
    later = await group.add(2)
    handler = Recorder()
    await group.start(handler)
    await handler.wait_until_finished(2)
    assert handler.ids == later


async def test_second_start_does_nothing_while_listening(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    handler = Recorder()
    processor = await group.start(handler)
    await processor.start_listening()
    await group.wait_until_reading()
    await group.add(20)
    await handler.wait_until_finished(20)
    await group.wait_settled()
    assert max(handler.attempt_counts.values()) == 1
    assert int((await group.client.info("clients"))["blocked_clients"]) == 1
    assert "already listening" in caplog.text


async def test_start_without_a_callback_is_rejected(group: Group) -> None:
    processor = RedisStreamProcessor(group.manager(), STREAM, GROUP, "pod-a")
    with pytest.raises(InvalidSettings, match="set_message_callback"):
        await processor.start_listening()
    assert not processor.is_running


async def test_stop_is_safe_before_start_twice_and_from_two_tasks(group: Group) -> None:
    processor = group.processor(Recorder())
    await processor.stop_listening()
    await processor.start_listening()
    await group.wait_until_reading()
    assert processor.is_running
    await asyncio.gather(processor.stop_listening(), processor.stop_listening())
    await processor.stop_listening()
    assert not processor.is_running


async def test_drain_continues_when_a_caller_of_stop_is_cancelled(group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await group.start(handler)
    await group.add()
    await handler.wait_until_received(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(processor.stop_listening(), 0.1)
    handler.gate.set()
    await processor.stop_listening()
    assert await group.pending() == 0
    assert not processor.is_running


async def test_processor_starts_again_after_a_stop(any_group: Group) -> None:
    handler = Recorder()
    processor = await any_group.start(handler)
    for rounds in (1, 2, 3):
        await any_group.add()
        await handler.wait_until_finished(rounds)
        await processor.stop_listening()
        assert await any_group.pending() == 0
        await processor.start_listening()
    assert len(handler.received) == 3


async def test_handler_can_stop_its_own_processor(group: Group) -> None:
    stops: list[asyncio.Task[None]] = []

    async def handle(data: dict[str, Any]) -> None:
        stops.append(asyncio.create_task(processor.stop_listening()))

    await group.add(5)
    processor = await group.start(handle)
    await eventually(lambda: stops and stops[0].done())
    assert not processor.is_running
    assert await group.pending() == 5 - len(stops)


# -- failures -----------------------------------------------------------------------------------------------------


@ON_ONE_SERVER
async def test_failed_message_is_logged_and_retried(any_group: Group, caplog: pytest.LogCaptureFixture) -> None:
    handler = Recorder(fail_first_delivery(Retry("no such customer", after=timedelta(seconds=2))))
    processor = await any_group.start(handler)
    [message_id] = await any_group.add()
    await handler.wait_until_received(1)
    await asyncio.sleep(0)
    assert [(entry.message_id, entry.deliveries) for entry in await any_group.entries()] == [(message_id, 1)]
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert [message.deliveries for message in handler.received] == [1, 2]
    assert processor.metrics.failed == 1
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.message_id == message_id  # type: ignore[attr-defined] # an extra of the record
    assert "Retry: no such customer" in caplog.text


async def test_failing_message_does_not_block_the_others(group: Group) -> None:
    first, *others = await group.add(30)
    handler = Recorder(lambda message: RuntimeError("bad") if message.message_id == first else None)
    await group.start(handler)
    await handler.wait_until_finished(29)
    assert handler.finished == others

    async def only_the_failed_message_is_pending() -> bool:  # the last acknowledgements arrive a moment later
        return [entry.message_id for entry in await group.entries()] == [first]

    await eventually(only_the_failed_message_is_pending)


class OwnCancellation:
    """Handler that awaits a task which was cancelled elsewhere."""

    async def __call__(self, data: dict[str, Any]) -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        inner.cancel()
        await inner


def library_exit(data: dict[str, Any]) -> None:
    raise SystemExit(3)


def leaked_stop_iteration(data: dict[str, Any]) -> None:
    next(iter([]))


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("even its text fails")


async def unprintable(data: dict[str, Any]) -> None:
    raise _Unprintable


@pytest.mark.parametrize("handler", [OwnCancellation(), library_exit, leaked_stop_iteration, unprintable])
async def test_any_error_of_a_handler_is_a_failure_of_its_message(
    group: Group, caplog: pytest.LogCaptureFixture, handler: Any
) -> None:
    processor = await group.start(handler)
    await group.add(2)
    await eventually(lambda: processor.metrics.failed >= 2)
    assert await group.pending() == 2
    assert caplog.text.count("message failed; will retry") >= 2
    assert processor.is_running


async def test_failed_message_is_retried_under_a_backlog(group: Group) -> None:
    """The buffer is rarely empty under load. Retries must not wait until it is."""
    bad, *_ = await group.add(3000)

    async def slow(data: dict[str, Any]) -> None:
        tried.append(current_message().message_id)
        await asyncio.sleep(0.005)
        if current_message().message_id == bad and tried.count(bad) == 1:
            raise RuntimeError("once")

    tried: list[str] = []
    await group.start(slow, min_idle=1, batch=100)
    await eventually(lambda: tried.count(bad) == 2)
    assert await group.client.xlen(STREAM) > len(tried)


# -- kinds of handlers --------------------------------------------------------------------------------------------


async def test_plain_functions_run_in_parallel_threads(group: Group) -> None:
    barrier = threading.Barrier(4, timeout=5)
    names: list[tuple[str, str]] = []

    def handle(data: dict[str, Any]) -> None:
        barrier.wait()  # passes only if four handlers run at the same time
        names.append((threading.current_thread().name, current_message().message_id))

    await group.start(handle, concurrency=4)
    ids = await group.add(8)
    await eventually(lambda: len(names) == 8)
    await group.wait_settled()
    assert {message_id for _, message_id in names} == set(ids)
    assert threading.main_thread().name not in {name for name, _ in names}


async def test_coroutine_returned_by_a_plain_function_is_awaited(group: Group) -> None:
    handler = Recorder()
    await group.start(lambda data: handler(dict(data)))
    await group.add()
    await handler.wait_until_finished(1)
    await group.wait_settled()


async def _fail_later(data: dict[str, Any] | list[dict[str, Any]]) -> None:
    await asyncio.sleep(0.01)
    raise RuntimeError("failed after the handler had returned")


async def return_coroutine(data: Any) -> Any:
    return _fail_later(data)  # without `await`


async def return_task(data: Any) -> Any:
    return asyncio.create_task(_fail_later(data))


def return_future_of_a_thread_pool(data: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _fail_later(data))


def return_generator(data: Any) -> Any:
    return (each for each in data)


async def return_async_generator(data: Any) -> Any:
    async def generate() -> AsyncIterator[None]:
        yield

    return generate()


UNFINISHED = [
    return_coroutine,
    return_task,
    return_future_of_a_thread_pool,
    return_generator,
    return_async_generator,
]


@pytest.mark.parametrize("handler", UNFINISHED)
@pytest.mark.parametrize("kind", ["one by one", "with a timeout", "batches"])
async def test_message_is_not_acknowledged_before_the_returned_work_is_done(
    group: Group, handler: Any, kind: str
) -> None:
    if kind == "with a timeout":
        group.delivery = Delivery(timeout=timedelta(minutes=1), backoff=QUICK_BACKOFF)
    await group.add(2)
    processor = await group.start(handler, settings={"batch": kind == "batches"})
    await eventually(lambda: processor.metrics.failed >= 2)
    assert await group.pending() == 2
    assert not processor.metrics.acknowledged


@pytest.mark.parametrize("handler", [return_coroutine, return_generator])
async def test_message_processed_directly_stays_pending_until_the_returned_work_is_done(
    group: Group, handler: Any
) -> None:
    processor = group.processor(handler)
    await group.create_group()
    await group.add()
    [message_id] = await group.read_as("pod-a")
    await processor._process_single_message(message_id, {"n": "0"})
    assert await group.pending() == 1


async def test_current_message_is_set_in_each_handler_task_only(group: Group) -> None:
    handler = Recorder(gate=False)
    await group.start(handler, concurrency=5)
    ids = await group.add(5)
    await handler.wait_until_received(5)
    handler.gate.set()
    await handler.wait_until_finished(5)
    assert sorted(handler.finished) == sorted(handler.ids) == sorted(ids)
    assert [message.data["n"] for message in handler.received] == ["0", "1", "2", "3", "4"]
    with pytest.raises(LookupError):
        current_message()


# -- the user's own manager ---------------------------------------------------------------------------------------


async def test_users_own_manager_with_three_coroutines_suffices(any_group: Group) -> None:
    manager = UserManager(any_group.url)
    handler = Recorder(lambda message: RuntimeError("bad") if message.data["n"] == "3" else None)
    ids = await any_group.add(25)
    processor = await any_group.start(handler, manager=manager, poll=0.05)
    await handler.wait_until_finished(24)
    await eventually(any_group.pending)
    assert handler.ids == ids
    assert [entry.message_id for entry in await any_group.entries()] == [ids[3]]
    await processor.stop_listening()
    await manager.client.aclose()


async def test_users_own_manager_is_polled_at_the_interval_after_an_empty_read(group: Group) -> None:
    manager = UserManager(group.url)
    await group.start(Recorder(), manager=manager, poll=60)
    await eventually(lambda: manager.reads == 1)
    await asyncio.sleep(0.05)
    assert manager.reads == 1
    await manager.client.aclose()


async def test_mocked_manager_is_called_as_documented() -> None:
    manager = AsyncMock()
    manager.read_events.side_effect = [[("1-0", {"id": "7"})], [], *[[]] * 1000]
    handler = Recorder()
    processor = RedisStreamProcessor(manager, "orders", "billing", "pod-a", batch_count=3, poll_interval=0.01)
    processor.set_message_callback(handler)
    await processor.start_listening()
    await eventually(lambda: manager.ack_event.await_count)
    await processor.stop_listening()
    manager.create_group.assert_awaited_once_with("orders", "billing")
    manager.read_events.assert_awaited_with("orders", "billing", "pod-a", 3)
    manager.ack_event.assert_awaited_once_with("orders", "billing", "1-0")
    assert handler.received[0].data == {"id": "7"}


async def test_users_own_manager_is_called_again_after_an_error() -> None:
    manager = AsyncMock()
    manager.create_group.side_effect = [ConnectionError("away"), None]
    manager.read_events.side_effect = [OSError("away"), [("1-0", {})], *[[]] * 1000]
    handler = Recorder()
    processor = RedisStreamProcessor(manager, "orders", "billing", "pod-a", poll_interval=0.01)
    processor.set_message_callback(handler)
    await processor.start_listening()
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    assert processor.metrics.redis_errors == 2


async def test_message_processed_directly_is_acknowledged_immediately(group: Group) -> None:
    await group.create_group()
    await group.add()
    [message_id] = await group.read_as("pod-a")
    handler = Recorder()
    await group.processor(handler)._process_single_message(message_id, {"n": "0"})
    assert handler.finished == [message_id]
    assert await group.pending() == 0


async def test_message_processed_directly_stays_pending_on_failure(group: Group) -> None:
    await group.create_group()
    await group.add()
    [message_id] = await group.read_as("pod-a")
    await group.processor(Recorder(fail_every_delivery(ValueError("no"))))._process_single_message(
        message_id, {"n": "0"}
    )
    assert await group.pending() == 1


# -- StreamManager by itself --------------------------------------------------------------------------------------


async def test_stream_manager_creates_reads_and_acknowledges(any_group: Group) -> None:
    manager = any_group.manager()
    await manager.create_group(STREAM, GROUP)
    await manager.create_group(STREAM, GROUP)
    assert await manager.read_events(STREAM, GROUP, "pod-a", 10) == []
    ids = await any_group.add(3)
    events = await manager.read_events(STREAM, GROUP, "pod-a", 2)
    assert events == [(ids[0], {"n": "0"}), (ids[1], {"n": "1"})]
    assert await manager.ack_event(STREAM, GROUP, ids[0]) is True
    assert await manager.ack_event(STREAM, GROUP, ids[0]) is False
    assert await any_group.pending() == 1


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"db": 3}])
async def test_stream_manager_accepts_any_redis_client(redis_server: RedisServer, options: dict[str, Any]) -> None:
    client: Redis = Redis(host=redis_server.host, port=redis_server.port, **options)
    manager = StreamManager(client)
    handler = Recorder()
    processor = RedisStreamProcessor(manager, STREAM, GROUP, "pod-a")
    processor.set_message_callback(handler)
    await processor.start_listening()
    await client.xadd(STREAM, {"n": "0"})
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    await manager.aclose()
    assert await client.ping(), "the manager does not close the user's client"
    await client.aclose()


async def test_overridden_process_single_message_is_called_for_each_message(group: Group) -> None:
    ids, handler, processed = await group.add(25), Recorder(), []
    processor = group.processor(handler)
    original = processor._process_single_message

    async def override(message_id: str, data: dict[Any, Any]) -> None:
        processed.append(message_id)
        await original(message_id, data)

    processor._process_single_message = override  # type: ignore[method-assign] # as a subclass would
    await processor.start_listening()
    await handler.wait_until_finished(25)
    await group.wait_settled()
    assert processed == ids

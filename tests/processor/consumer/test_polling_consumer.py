"""Consumer of a user's own manager, with the mistakes that such managers make."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor import RedisStreamProcessor
from streamconsumer.processor.consumer import PollingConsumer
from streamconsumer.processor.entry_state import RUNNING
from streamconsumer.processor.metrics import Metrics
from tests.processor.eventually import eventually
from tests.processor.recorder import Recorder


class Halt(BaseException):
    """BaseException that is no Exception, like gevent's Timeout."""


class Manager:
    """Manager whose reads return `batches` one after another. A batch that is an exception is raised."""

    def __init__(self, *batches: Any, create: Callable[[], Awaitable[None]] | None = None) -> None:
        self._batches = list(batches)
        self._create = create
        self.acked: list[Any] = []
        self.ack_error: BaseException | None = None

    async def create_group(self, _stream: str, _group: str) -> None:
        if self._create:
            await self._create()

    async def read_events(self, _stream: str, _group: str, _consumer: str, _count: int) -> Any:
        batch = self._batches.pop(0) if self._batches else []
        if isinstance(batch, BaseException):
            raise batch
        return await batch if asyncio.isfuture(batch) else batch

    async def ack_event(self, _stream: str, _group: str, message_id: Any) -> None:
        if error := self.ack_error:
            self.ack_error = None
            raise error
        self.acked.append(message_id)


async def start(manager: Manager, handler: Any) -> RedisStreamProcessor:
    processor = RedisStreamProcessor(manager, "orders", "billing", "pod-a", poll_interval=0.01)
    processor.set_message_callback(handler)
    await processor.start_listening()
    return processor


async def busy_group() -> None:
    raise ValueError("BUSYGROUP Consumer Group name already exists")


async def test_missing_group_is_created_again() -> None:
    created: list[str] = []

    async def create() -> None:
        created.append("group")

    error = ResponseError("NOGROUP No such key 'orders' or consumer group 'billing' in XREADGROUP")
    handler, manager = Recorder(), Manager(error, [("1-0", {"n": "0"})], create=create)
    processor = await start(manager, handler)
    await eventually(lambda: manager.acked == ["1-0"])
    assert created == ["group"] * 2
    await processor.stop_listening()


async def test_existing_group_is_no_error() -> None:
    handler, manager = Recorder(), Manager([("1-0", {"n": "0"})], create=busy_group)
    processor = await start(manager, handler)
    await eventually(lambda: manager.acked == ["1-0"])
    await processor.stop_listening()


@pytest.mark.parametrize(
    "odd", [("1-5", None), None, "text", ("1-5",), ("1-5", {}, 1), (None, {}), ("1-5", ["n", "0"]), (["1-5"], {})]
)
async def test_odd_item_does_not_lose_the_other_items(odd: Any) -> None:
    handler, manager = Recorder(), Manager([("1-0", {"n": "0"}), odd, ("2-0", {"n": "1"})])
    processor = await start(manager, handler)
    await eventually(lambda: manager.acked == ["1-0", "2-0"])
    await processor.stop_listening()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Halt(), OSError("down")])
async def test_read_that_raises_is_repeated(error: BaseException) -> None:
    handler, manager = Recorder(), Manager([("1-0", {"n": "0"})], error, [("2-0", {"n": "1"})])
    processor = await start(manager, handler)
    await eventually(lambda: manager.acked == ["1-0", "2-0"])
    assert processor.is_running
    await processor.stop_listening()
    assert not processor.is_running


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Halt(), OSError("down")])
async def test_message_whose_acknowledgement_failed_is_not_handled_again(error: BaseException) -> None:
    """The server may have acknowledged the entry."""
    handler, manager = Recorder(), Manager([("1-0", {"n": "0"})], [("2-0", {"n": "1"})])
    manager.ack_error = error
    processor = await start(manager, handler)
    await eventually(lambda: manager.acked == ["2-0"])
    await processor.stop_listening()
    assert handler.ids == ["1-0", "2-0"]


@pytest.mark.parametrize("is_stubborn", [False, True])
async def test_read_that_never_returns_does_not_delay_the_stop(is_stubborn: bool) -> None:
    async def block() -> Any:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not is_stubborn or release.is_set():
                    raise

    release, blocked = asyncio.Event(), asyncio.ensure_future(block())
    await asyncio.sleep(0)
    processor = await start(Manager(blocked), Recorder())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await processor.stop_listening()
    assert not processor.is_running
    release.set()
    blocked.cancel()


async def test_entries_of_an_own_manager_need_no_verification() -> None:
    consumer = PollingConsumer(Manager([(b"1-0", {})]), "orders", "billing", "pod-a", Metrics())
    [entry] = await consumer.read(1)
    assert entry.message_id == b"1-0"  # type: ignore[comparison-overlap] # a client that does not decode
    assert entry.state is not RUNNING
    assert consumer.leases_valid_until == float("inf")

"""Arguments of the library: clients, URLs, callbacks and numbers that cannot be used are refused with a reason."""

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest
import redis
import redis.asyncio
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from streamconsumer.errors import HandlerUnusable, InvalidSettings
from streamconsumer.processor import RedisStreamProcessor, StreamManager
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, Group
from tests.processor.recorder import Recorder

URL = "redis://localhost:6379/0"


class OwnManager:
    async def create_group(self, _stream: str, _group: str) -> None: ...

    async def read_events(self, _stream: str, _group: str, _consumer: str, _count: int) -> list[Any]:
        return []

    async def ack_event(self, _stream: str, _group: str, _message_id: str) -> None: ...


class ReadOnlyManager:
    create_group, read_events = OwnManager.create_group, OwnManager.read_events


class SynchronousManager:
    def create_group(self, _stream: str, _group: str) -> None: ...

    def read_events(self, _stream: str, _group: str, _consumer: str, _count: int) -> list[Any]:
        return []

    def ack_event(self, _stream: str, _group: str, _message_id: str) -> None: ...


def processor(**arguments: Any) -> RedisStreamProcessor:
    return RedisStreamProcessor(**{"stream_manager": OwnManager(), **NAMES, **arguments})


NAMES = {"stream_name": "orders", "consumer_group_name": "billing"}


# -- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "client",
    [
        redis.Redis(),
        redis.RedisCluster,
        Redis(connection_pool=redis.ConnectionPool()),  # type: ignore[arg-type] # the pool of synchronous clients
        redis.asyncio.ConnectionPool(),
        Sentinel([("localhost", 26379)]),  # type: ignore[no-untyped-call]
        Redis,
        MagicMock(spec=Redis),
        URL,
        None,
    ],
    ids=lambda client: f"{type(client).__module__}.{type(client).__name__}",
)
def test_unusable_client_is_refused(client: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"expected redis\.asyncio\.Redis"):
        StreamManager(client)


def test_manager_keeps_its_client() -> None:
    client = Redis()
    reference = weakref.ref(client)
    manager = StreamManager(client)
    del client
    gc.collect()
    assert reference() is not None
    assert manager.address_text == "localhost:6379"


@pytest.mark.parametrize(
    "options",
    [
        {"decode_responses": True},
        {"protocol": 3},
        {"encoding": "latin-1", "decode_responses": True},
        {"single_connection_client": True},
        {"socket_timeout": 0.05},
        {"health_check_interval": 1},
        {"max_connections": 1},
    ],
    ids=",".join,
)
async def test_client_with_any_options_works(group: Group, options: dict[str, Any]) -> None:
    client = Redis.from_url(group.url, **options)
    manager = StreamManager(client)
    handler = Recorder()
    instance = RedisStreamProcessor(manager, "größe €", GROUP, poll_interval=0.5)
    instance.set_message_callback(handler)
    await instance.start_listening()
    await group.client.xadd("größe €", {"name": "Zoë"})
    await handler.wait_until_finished(1)
    assert handler.received[0].data == {"name": "Zoë"}
    await eventually(lambda: instance.metrics.acknowledged)
    await instance.stop_listening()
    await manager.aclose()
    assert await client.ping()
    await client.aclose()


# -- URLs and options of a manager -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": None}, "url: found NoneType, expected text"),
        ({"url": URL.encode()}, "url: found bytes, expected text"),
        ({"url": ""}, "url: is not a URL"),
        ({"url": "localhost:6379"}, "url: is not a URL"),
        ({"url": "redis://localhost:0"}, "url: is not a URL"),
        ({"url": "redis://localhost?timeout=3"}, "is not allowed"),
        ({"url": URL, "username": 5}, "username: found int"),
        ({"url": URL, "password": b"pw"}, "password: found bytes"),
        ({"url": URL, "start_from": "first"}, "start_from is 'first'"),
        ({"url": URL, "start_from": 0}, "start_from is 0"),
        ({"url": URL, "encoding": "latin-1"}, "encoding is 'latin-1'"),
        ({"url": URL, "min_idle": 30}, "min_idle is 30"),
        ({"url": URL, "min_idle": timedelta()}, "min_idle"),
        ({"url": URL, "delivery": {"maxDeliveries": 3}}, "delivery"),
        ({"url": URL, "retention": True}, "retention"),
    ],
)
def test_invalid_option_of_a_manager_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        StreamManager.from_url(**arguments)


# -- arguments of a processor ----------------------------------------------------------------------------------------

ODD_NUMBERS = [0, -1, 2.5, True, "10", None, float("nan"), float("inf"), 10**9]


@pytest.mark.parametrize("name", ["batch_count", "concurrency"])
@pytest.mark.parametrize("value", ODD_NUMBERS)
def test_invalid_count_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name):
        processor(**{name: value})


@pytest.mark.parametrize("value", [0, -1, True, "1", None, float("nan"), float("inf"), 61, timedelta(seconds=1)])
def test_invalid_poll_interval_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSettings, match="poll_interval"):
        processor(poll_interval=value)


@pytest.mark.parametrize("value", [25, 2.5, True, "25s", None, timedelta(seconds=-1), timedelta(hours=2)])
def test_invalid_drain_timeout_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSettings, match="drain_timeout"):
        processor(drain_timeout=value)


def test_every_invalid_argument_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"batch_count is 0: .*; poll_interval is -1"):
        processor(batch_count=0, poll_interval=-1)


def test_valid_arguments_are_accepted() -> None:
    processor(batch_count=1000, poll_interval=1, drain_timeout=timedelta(0), concurrency=1000)


# -- callbacks -------------------------------------------------------------------------------------------------------


async def takes_nothing() -> None: ...


async def takes_two(_first: Any, _second: Any) -> None: ...


def generate(_data: Any) -> Iterator[int]:
    yield 1


async def generate_async(_data: Any) -> AsyncIterator[int]:
    yield 1


async def handle(_data: Any, _other: Any = None) -> None: ...


class Callable:
    async def __call__(self, _data: Any) -> None: ...


@pytest.mark.parametrize("callback", [None, "handle", 5, takes_nothing, takes_two, generate, generate_async, {}])
@pytest.mark.parametrize("batch", [False, True])
def test_invalid_callback_is_refused(callback: Any, batch: bool) -> None:
    with pytest.raises(HandlerUnusable, match="handler"):
        processor(batch=batch).set_message_callback(callback)


@pytest.mark.parametrize("callback", [handle, partial(handle, _other=1), Callable(), lambda _: None, print, len])
def test_valid_callback_is_accepted(callback: Any) -> None:
    processor().set_message_callback(callback)


# -- a user's own manager --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", [None, Redis(), URL, ReadOnlyManager(), StreamManager, OwnManager])
def test_object_that_is_no_manager_is_refused(manager: Any) -> None:
    with pytest.raises(InvalidSettings, match="stream_manager: found"):
        processor(stream_manager=manager)


async def test_synchronous_manager_is_refused_at_start() -> None:
    instance = processor(stream_manager=SynchronousManager())
    instance.set_message_callback(handle)
    with pytest.raises(InvalidSettings, match="create_group returned NoneType, expected a coroutine"):
        await instance.start_listening()

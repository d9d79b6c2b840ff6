"""Servers that reply to reads such as XPENDING, but refuse XREADGROUP: a demoted primary, a primary without replicas,
and a server that cannot save its data."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder, fail_every_delivery

REFUSED_SECONDS = 6.0


@dataclass(frozen=True)
class Refusal:
    """State in which a server refuses writes, and the error code of its replies."""

    code: str
    begin: Callable[[Group], Awaitable[object]]
    end: Callable[[Group], Awaitable[object]]


async def _fail_to_save(group: Group) -> None:
    (group.server.directory / "dump.rdb").mkdir()  # the server cannot replace a folder by its file
    await group.client.config_set("save", "3600 1")
    await group.client.bgsave()

    async def has_failed() -> bool:
        return bool((await group.client.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await eventually(has_failed)


REFUSALS = [
    Refusal(
        "READONLY",
        lambda group: group.client.replicaof("127.0.0.1", "1"),
        lambda group: group.client.replicaof("NO", "ONE"),
    ),
    Refusal(
        "NOREPLICAS",
        lambda group: group.client.config_set("min-replicas-to-write", 1),
        lambda group: group.client.config_set("min-replicas-to-write", 0),
    ),
    Refusal("MISCONF", _fail_to_save, lambda group: group.client.config_set("stop-writes-on-bgsave-error", "no")),
]


@pytest.fixture(params=REFUSALS, ids=lambda refusal: refusal.code)
def refusal(request: pytest.FixtureRequest) -> Refusal:
    found: Refusal = request.param
    return found


async def test_pause_grows_and_the_pod_stays_unready_while_the_server_refuses_new_entries(
    any_group: Group, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, poll=1.0, concurrency=4)
    await any_group.add(3)
    await handler.wait_until_received(3)
    await refusal.begin(any_group)
    await eventually(lambda: not processor.health.readiness()[0])
    handler.gate.set()  # acknowledgements are refused too
    backoff = processor._reconnect_backoff
    failures = backoff.consecutive_failures
    connections = await connection_count(any_group)
    caplog.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + REFUSED_SECONDS:
        assert not processor.health.readiness()[0]
        await asyncio.sleep(0.01)
    assert backoff.consecutive_failures - failures <= 8  # pauses of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 and 5 s, or half of it
    assert await connection_count(any_group) - connections <= 10 * REFUSED_SECONDS
    assert refusal.code in caplog.text or "replica" in caplog.text
    assert len(caplog.records) <= 5
    await refusal.end(any_group)
    await eventually(lambda: processor.health.readiness()[0])
    await any_group.add(2)
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    assert handler.attempt_counts.total() == 5


async def connection_count(group: Group) -> int:
    """Return the number of connections that the server has accepted."""
    return int((await group.client.info("stats"))["total_connections_received"])


async def test_a_pod_that_starts_while_the_server_refuses_writes_is_unready_until_it_can_read(
    group: Group, refusal: Refusal
) -> None:
    await group.create_group()
    await group.add(2)
    await refusal.begin(group)
    handler = Recorder()
    processor = await group.start(handler, poll=1.0)
    backoff = processor._reconnect_backoff
    began, connections = asyncio.get_running_loop().time(), await connection_count(group)
    while asyncio.get_running_loop().time() < began + REFUSED_SECONDS / 2:
        assert not processor.health.readiness()[0]
        await asyncio.sleep(0.01)
    assert 3 <= backoff.consecutive_failures <= 8
    assert await connection_count(group) - connections <= 10 * REFUSED_SECONDS
    await refusal.end(group)
    await handler.wait_until_finished(2)
    assert processor.health.readiness()[0]


async def test_a_pod_without_capacity_is_ready_again_when_the_server_accepts_reads_again(
    group: Group, refusal: Refusal
) -> None:
    """The circuit breaker is open and all messages wait for a retry, so that the pod reads no entries."""
    handler = Recorder(fail_every_delivery(ValueError("the bank hung up")), gate=False)
    processor = await group.start(handler, poll=1.0, concurrency=20)
    await group.add(20)
    await handler.wait_until_received(20)
    await refusal.begin(group)
    await eventually(lambda: not processor.health.readiness()[0])
    handler.gate.set()
    await eventually(lambda: not processor._pipeline.in_flight.has_capacity.is_set())
    await eventually(lambda: processor._reconnect_backoff.consecutive_failures >= 5)
    assert not processor.health.readiness()[0]
    await refusal.end(group)
    await eventually(lambda: processor.health.readiness()[0])

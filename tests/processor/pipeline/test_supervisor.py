"""A background task never ends unnoticed."""

import asyncio
from collections.abc import Callable

import pytest

from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline import supervisor
from streamconsumer.processor.pipeline.supervisor import MAX_FAILURES, Supervisor
from streamconsumer.processor.runtime import Runtime, ThreadMain, start_thread
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder


@pytest.fixture(autouse=True)
def fast_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAY_SECONDS", 0.001)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread"), ValueError("any other")])
async def test_failed_task_starts_again_and_is_counted(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    health, metrics, runs = Health(), Metrics(), 0

    async def task() -> None:
        nonlocal runs
        runs += 1
        if runs <= 2:
            raise error

    await Supervisor(health, metrics).run("the task", task)
    assert (runs, metrics.background_restarts) == (3, 2)
    assert health.liveness()[0]
    assert "background task failed; restarting it" in caplog.messages


async def test_task_that_keeps_failing_ends_the_liveness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STABLE_SECONDS", 0.2)
    health, metrics, is_failing = Health(), Metrics(), True

    async def task() -> None:
        if is_failing:
            raise MemoryError
        await asyncio.sleep(3600)

    running = asyncio.create_task(Supervisor(health, metrics).run("the task", task))
    await eventually(lambda: not health.liveness()[0])
    assert metrics.background_restarts >= MAX_FAILURES
    assert "'the task' fails again and again (MemoryError())" in health.liveness()[1]
    is_failing = False
    await eventually(lambda: health.liveness()[0])
    running.cancel()


async def test_cancelled_task_ends() -> None:
    running = asyncio.create_task(Supervisor(Health(), Metrics()).run("the task", lambda: asyncio.sleep(3600)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def failing_at_first(error: Exception, times: int) -> Callable[[str, ThreadMain], object]:
    left = times

    def start(name: str, main: ThreadMain) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        start_thread(name, main)

    return start


async def is_entry_renewed(group: Group) -> bool:
    """Return True if the lease of the only pending entry was renewed within the last second."""
    [entry] = await group.entries()
    return entry.idle_ms < 1000


async def test_heartbeat_thread_that_cannot_start_is_started_later(group: Group) -> None:
    handler = Recorder(gate=False)
    runtime = Runtime(start_thread=failing_at_first(RuntimeError("can't start new thread"), 3))
    await group.add()
    processor = await group.start(handler, settings={"runtime": runtime})
    await handler.wait_until_received(1)
    consumer = processor._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)

    async def is_renewed() -> bool:
        return await is_entry_renewed(group) and bool(consumer.registration.registered)

    await eventually(lambda: processor.metrics.background_restarts == 3)
    await asyncio.sleep(1.5)
    await eventually(is_renewed)
    await eventually(lambda: processor.health.readiness()[0])
    handler.gate.set()
    await group.wait_settled()


async def test_memory_error_in_the_heartbeat_thread_restarts_it(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Recorder(gate=False)
    await group.add()
    processor = await group.start(handler)
    await handler.wait_until_received(1)
    failures = 2

    def renew(*_: object) -> None:
        nonlocal failures
        failures -= 1
        if failures < 0:
            monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr("streamconsumer.processor.consumer.leases.Leases.renew", renew)
    await eventually(lambda: processor.metrics.background_restarts >= 2)
    await asyncio.sleep(1.5)
    await eventually(lambda: is_entry_renewed(group))
    handler.gate.set()
    await group.wait_settled()


async def test_renewals_that_fail_end_the_readiness(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    handler = Recorder(gate=False)
    await group.add()
    processor = await group.start(handler)
    await handler.wait_until_received(1)
    await group.client.execute_command("ACL", "SETUSER", "default", "-xclaim")  # type: ignore[no-untyped-call]
    try:
        await eventually(lambda: "failed to renew the leases" in processor.health.readiness()[1])
        assert processor.metrics.lease_renewals_failed > 1
        warnings = [record for record in caplog.records if "failed to renew the leases" in record.message]
        assert [record.levelname for record in warnings] == ["WARNING"]
    finally:
        await group.client.execute_command("ACL", "SETUSER", "default", "+xclaim")  # type: ignore[no-untyped-call]
    await eventually(lambda: "failed to renew the leases" not in processor.health.readiness()[1])
    handler.gate.set()
    await group.wait_settled()

import time
from datetime import timedelta

import aiohttp
import pytest

from streamconsumer.operator.health import STUCK_AFTER, Health, serve


class Clock:
    """time.monotonic, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def advance(self, by: timedelta) -> None:
        self.now += by.total_seconds()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_an_operator_with_nothing_to_do_is_alive_for_ever(clock: Clock) -> None:
    health = Health(waiting=lambda: 0)
    health.reconciled("success", 0.1)
    clock.advance(timedelta(days=30))
    assert health.alive


def test_an_operator_that_works_its_queue_off_is_alive(clock: Clock) -> None:
    health = Health(waiting=lambda: 5)
    for _ in range(10):
        clock.advance(STUCK_AFTER * 0.9)
        health.reconciled("error", 0.1)
        assert health.alive


def test_an_operator_whose_queue_stands_still_is_not_alive(clock: Clock) -> None:
    health = Health(waiting=lambda: 1)
    assert health.alive
    clock.advance(STUCK_AFTER)
    assert not health.alive


def test_work_that_comes_after_a_long_rest_is_not_late_already(clock: Clock) -> None:
    waiting = 0
    health = Health(waiting=lambda: waiting)
    clock.advance(timedelta(hours=5))
    assert health.alive  # the kubelet asks every few seconds
    waiting = 1
    assert health.alive
    clock.advance(STUCK_AFTER)
    assert not health.alive


async def test_probes_and_metrics_answer() -> None:
    health = Health(waiting=lambda: 3)
    health.reconciled("success", 0.1)
    runner = await serve(health, "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as client:
            assert (await client.get(f"{address}/livez")).status == 200
            waiting = await client.get(f"{address}/readyz")
            assert (waiting.status, await waiting.text()) == (503, "the first lists are not in yet\n")
            health.synced = True
            assert (await client.get(f"{address}/readyz")).status == 200
            metrics = await (await client.get(f"{address}/metrics")).text()
    finally:
        await runner.cleanup()
    assert 'streamconsumer_operator_reconciles_total{outcome="success"} 1.0' in metrics
    assert "streamconsumer_operator_queue_depth 3.0" in metrics

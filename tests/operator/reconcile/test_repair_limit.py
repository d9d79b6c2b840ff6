from datetime import timedelta

import pytest

from streamconsumer.operator.reconcile.repair_limit import IMMEDIATE_REPAIRS, RESET_SECONDS, RepairLimit

CHILD = "Deployment orders-consumer"


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def apply(limit: RepairLimit, applied_hash: str, child: str = CHILD) -> bool:
    """Apply the child if the limit allows it."""
    allowed = limit.may_apply(child, applied_hash)
    if allowed:
        limit.record(child, applied_hash)
    return allowed


@pytest.fixture
def limit(clock: Clock) -> RepairLimit:
    """A limit after the first apply and all immediate repairs."""
    limit = RepairLimit(("shop", "orders"), clock)
    assert all(apply(limit, "a") for _ in range(1 + IMMEDIATE_REPAIRS))
    assert limit.pop_delay() is None
    return limit


def test_further_repairs_are_delayed_and_the_delay_doubles(limit: RepairLimit, clock: Clock) -> None:
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        assert not apply(limit, "a")
        assert limit.pop_delay() == timedelta(seconds=seconds)
        assert limit.pop_delay() is None
        clock.seconds += seconds
        assert apply(limit, "a")


def test_changed_manifest_is_applied_immediately(limit: RepairLimit) -> None:
    assert not apply(limit, "a")
    assert apply(limit, "b")
    assert apply(limit, "b")


def test_other_child_has_its_own_limit(limit: RepairLimit) -> None:
    assert apply(limit, "a", "ConfigMap orders-consumer")


def test_repairs_are_immediate_again_after_a_quiet_time(limit: RepairLimit, clock: Clock) -> None:
    clock.seconds += RESET_SECONDS + 1
    assert apply(limit, "a")
    assert apply(limit, "a")


def test_failed_applies_are_no_repairs(clock: Clock) -> None:
    limit = RepairLimit(("shop", "orders"), clock)
    limit.record(CHILD, "a")
    assert all(limit.may_apply(CHILD, "a") for _ in range(20))

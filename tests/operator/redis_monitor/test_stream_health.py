"""Degraded condition, computed from consecutive probes."""

from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.operator.redis_monitor.probe import CONNECTED, ProbeResult, unreachable
from streamconsumer.operator.redis_monitor.stream_health import GROWING_FOR, STUCK_AFTER, StreamHealth

GROUP = ConditionState(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS)


def probe(*, dead_letters: int | None = 0, oldest: str | None = None, owned: int = 1) -> ProbeResult:
    stats = StreamStats(pending=1 if oldest else 0, dead_letters=dead_letters)
    return ProbeResult(CONNECTED, GROUP, stats, oldest, owned if oldest else 0)


def test_existing_dead_letters_do_not_degrade_a_stream() -> None:
    health = StreamHealth()
    assert [health.degraded_condition(probe(dead_letters=7), at).reason for at in (0, 15)] == [StreamReason.HEALTHY] * 2


def test_new_dead_letters_degrade_a_stream_for_some_minutes() -> None:
    health, limit = StreamHealth(), GROWING_FOR.total_seconds()
    health.degraded_condition(probe(dead_letters=7), 0)
    degraded = health.degraded_condition(probe(dead_letters=8), 15)
    assert (degraded.status, degraded.reason) == ("True", StreamReason.DEAD_LETTERS_GROWING)
    assert health.degraded_condition(probe(dead_letters=8), 14 + limit) == degraded
    assert health.degraded_condition(probe(dead_letters=8), 15 + limit).status == "False"


def test_dropped_dead_letters_do_not_degrade_a_stream() -> None:
    health = StreamHealth()
    statuses = [
        health.degraded_condition(probe(dead_letters=count), at).status for at, count in enumerate((8, 2, None, 8))
    ]
    assert statuses == ["False"] * 4


def test_entry_is_stuck_when_it_stays_the_oldest_pending_one() -> None:
    health, limit = StreamHealth(), STUCK_AFTER.total_seconds()
    assert health.degraded_condition(probe(oldest="1-1"), 0).status == "False"
    assert health.degraded_condition(probe(oldest="1-1"), limit - 1).status == "False"
    stuck = health.degraded_condition(probe(oldest="1-1"), limit)
    assert stuck.reason is StreamReason.PENDING_STUCK
    assert "1-1" in stuck.message
    assert health.degraded_condition(probe(oldest="2-1"), limit + 15).status == "False"


def test_postponed_entry_is_not_stuck() -> None:
    health, late = StreamHealth(), STUCK_AFTER.total_seconds() * 2
    assert [health.degraded_condition(probe(oldest="1-1", owned=0), at).status for at in (0, late)] == ["False"] * 2


def test_failed_probe_keeps_the_condition() -> None:
    health = StreamHealth()
    health.degraded_condition(probe(dead_letters=1), 0)
    degraded = health.degraded_condition(probe(dead_letters=2), 1)
    assert health.degraded_condition(unreachable(StreamReason.UNREACHABLE, "connection refused"), 2) == degraded


def test_condition_is_unknown_when_no_probe_has_succeeded() -> None:
    condition = StreamHealth().degraded_condition(unreachable(StreamReason.UNREACHABLE, "connection refused"), 0)
    assert (condition.status, condition.reason) == ("Unknown", StreamReason.UNREACHABLE)

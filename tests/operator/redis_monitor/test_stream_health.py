"""When a stream counts as degraded: what one look cannot tell."""

from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.operator.redis_monitor.probe import CONNECTED, ProbeResult, unreachable
from streamconsumer.operator.redis_monitor.stream_health import GROWING_FOR, STUCK_AFTER, StreamHealth

GROUP = ConditionState(type="GroupReady", status="True", reason=StreamReason.GROUP_EXISTS)


def seen(*, letters: int | None = 0, oldest: str | None = None, held: int = 1) -> ProbeResult:
    figures = StreamStats(pending=1 if oldest else 0, dead_letters=letters)
    return ProbeResult(CONNECTED, GROUP, figures, oldest, held if oldest else 0)


def test_dead_letters_that_were_there_before_are_nothing_new() -> None:
    judgement = StreamHealth()
    assert [judgement.degraded_condition(seen(letters=7), at).reason for at in (0, 15)] == [StreamReason.HEALTHY] * 2


def test_new_dead_letters_degrade_a_stream_for_some_minutes() -> None:
    judgement, bound = StreamHealth(), GROWING_FOR.total_seconds()
    judgement.degraded_condition(seen(letters=7), 0)
    grown = judgement.degraded_condition(seen(letters=8), 15)
    assert (grown.status, grown.reason) == ("True", StreamReason.DEAD_LETTERS_GROWING)
    assert judgement.degraded_condition(seen(letters=8), 14 + bound) == grown
    assert judgement.degraded_condition(seen(letters=8), 15 + bound).status == "False"


def test_letters_that_are_dropped_are_no_growth() -> None:
    judgement = StreamHealth()
    found = [judgement.degraded_condition(seen(letters=count), at).status for at, count in enumerate((8, 2, None, 8))]
    assert found == ["False"] * 4


def test_an_entry_that_stays_the_oldest_is_stuck() -> None:
    judgement, bound = StreamHealth(), STUCK_AFTER.total_seconds()
    assert judgement.degraded_condition(seen(oldest="1-1"), 0).status == "False"
    assert judgement.degraded_condition(seen(oldest="1-1"), bound - 1).status == "False"
    stuck = judgement.degraded_condition(seen(oldest="1-1"), bound)
    assert stuck.reason is StreamReason.PENDING_STUCK
    assert "1-1" in stuck.message
    assert judgement.degraded_condition(seen(oldest="2-1"), bound + 15).status == "False"


def test_what_only_waits_for_another_try_is_not_stuck() -> None:
    judgement, late = StreamHealth(), STUCK_AFTER.total_seconds() * 2
    assert [judgement.degraded_condition(seen(oldest="1-1", held=0), at).status for at in (0, late)] == ["False"] * 2


def test_a_look_that_saw_nothing_changes_nothing() -> None:
    judgement = StreamHealth()
    judgement.degraded_condition(seen(letters=1), 0)
    grown = judgement.degraded_condition(seen(letters=2), 1)
    assert judgement.degraded_condition(unreachable(StreamReason.UNREACHABLE, "nobody answers"), 2) == grown


def test_nothing_is_said_of_what_nobody_has_seen() -> None:
    found = StreamHealth().degraded_condition(unreachable(StreamReason.UNREACHABLE, "nobody answers"), 0)
    assert (found.status, found.reason) == ("Unknown", StreamReason.UNREACHABLE)

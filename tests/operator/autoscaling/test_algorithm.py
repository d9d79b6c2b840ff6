"""What the decision may never do, whatever comes; and what it says."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason
from streamconsumer.operator.autoscaling.algorithm import Backlog, Decision, ScalingHistory, decide

POLICIES = st.lists(
    st.builds(
        lambda kind, value, period: {"type": kind, "value": value, "period": f"{period}s"},
        st.sampled_from(["Pods", "Percent"]),
        st.integers(1, 200),
        st.integers(1, 120),
    ),
    max_size=2,
)


@st.composite
def rules(draw: st.DrawFn) -> Autoscaling:
    least = draw(st.integers(0, 5))
    found: dict[str, Any] = {
        "minReplicas": least,
        "maxReplicas": draw(st.integers(max(1, least), 30)),
        "target": {"backlogPerReplica": draw(st.integers(1, 1000))},
        "cooldown": f"{draw(st.integers(0, 300))}s",
        "scaleUp": {"stabilizationWindow": f"{draw(st.integers(0, 60))}s", "policies": draw(POLICIES)},
        "scaleDown": {"stabilizationWindow": f"{draw(st.integers(0, 300))}s", "policies": draw(POLICIES)},
    }
    if draw(st.booleans()):
        found["fallback"] = {"replicas": draw(st.integers(1, 40)), "after": f"{draw(st.integers(1, 60))}s"}
    return Autoscaling.model_validate(found)


LOOKS = st.one_of(
    st.none(),
    st.builds(Backlog, st.one_of(st.none(), st.integers(0, 50_000)), st.integers(0, 500), st.booleans()),
    st.just(Backlog(0, 0)),
)
HISTORY = st.lists(st.tuples(LOOKS, st.floats(0.1, 100)), min_size=1, max_size=30)


def run(found: Autoscaling, history: list[tuple[Backlog | None, float]], current: int) -> Any:
    """Each look with the number before it and the decision."""
    memory, now = ScalingHistory(), 0.0
    for seen, pause in history:
        now += pause
        decision, memory = decide(found, seen, current, memory, now)
        yield seen, current, decision
        current = decision.replicas


@given(rules(), HISTORY, st.integers(0, 40))
def test_it_is_never_zero_with_anything_to_do_or_unknown(found: Autoscaling, history: Any, current: int) -> None:
    for seen, before, decision in run(found, history, current):
        if seen is None:
            assert decision.replicas >= before
        elif seen.total > 0 or not seen.is_known:
            assert decision.replicas >= 1


@given(rules(), HISTORY, st.integers(0, 40))
def test_what_is_unknown_lowers_nothing(found: Autoscaling, history: Any, current: int) -> None:
    for seen, before, decision in run(found, history, current):
        if seen is None or not seen.is_known:
            assert decision.replicas >= min(before, found.max_replicas)


@given(rules(), HISTORY, st.integers(0, 40))
def test_it_stays_within_its_bounds_once_it_is_there(found: Autoscaling, history: Any, current: int) -> None:
    for seen, before, decision in run(found, history, current):
        assert decision.replicas <= max(found.max_replicas, before)
        if seen is not None and found.min_replicas:
            assert decision.replicas >= min(before, found.min_replicas)


@given(rules(), HISTORY, st.integers(0, 30), st.integers(0, 50_000), st.integers(0, 5000))
def test_more_to_do_never_means_fewer_pods(
    found: Autoscaling, history: Any, current: int, backlog: int, more: int
) -> None:
    memory, now = ScalingHistory(), 0.0
    for seen, pause in history:
        now += pause
        decision, memory = decide(found, seen, current, memory, now)
        current = decision.replicas
    less, _ = decide(found, Backlog(backlog, 0), current, memory, now + 1)
    most, _ = decide(found, Backlog(backlog + more, 0), current, memory, now + 1)
    assert less.replicas <= most.replicas


@given(rules(), st.integers(0, 50_000), st.integers(0, 500), st.integers(0, 40))
def test_under_constant_load_the_number_goes_one_way_and_stays(
    found: Autoscaling, unread: int, pending: int, current: int
) -> None:
    history: list[tuple[Backlog | None, float]] = [(Backlog(unread, pending), 15.0)] * 400
    numbers = [current] + [decision.replicas for _, _, decision in run(found, history, current)]
    steps = [after - before for before, after in pairwise(numbers)]
    assert not (any(step > 0 for step in steps) and any(step < 0 for step in steps))
    assert len(set(numbers[-10:])) == 1


def once(text: dict[str, Any], seen: Backlog | None, current: int, memory: ScalingHistory | None = None) -> Decision:
    return decide(Autoscaling.model_validate(text), seen, current, memory or ScalingHistory(), 1000.0)[0]


@pytest.mark.parametrize(
    ("text", "seen", "current", "expected"),
    [
        (
            {"target": {"backlogPerReplica": 1000}, "maxReplicas": 7},
            Backlog(6800, 12),
            3,
            "3 → 7: backlog 6,812 (unread 6,800, pending 12), target 1,000 per replica",
        ),
        (
            {"target": {"backlogPerReplica": 100}, "maxReplicas": 7},
            Backlog(6800, 12),
            3,
            "3 → 7: backlog 6,812 (unread 6,800, pending 12), target 100 per replica, max 7",
        ),
        ({}, Backlog(1, 0), 0, "0 → 1: backlog 1 (unread 1, pending 0), target 100 per replica"),
        ({}, None, 3, "stays 3: Redis does not reply, target 100 per replica, backlog unknown, not scaling down"),
        (
            {},
            Backlog(0, 0),
            2,
            "stays 2: backlog 0 (unread 0, pending 0), target 100 per replica, held by the stabilization window",
        ),
    ],
)
def test_it_says_what_it_saw_and_what_held_it(
    text: dict[str, Any], seen: Backlog | None, current: int, expected: str
) -> None:
    assert once(text, seen, current, ScalingHistory(last_busy_seconds=0.0, needed=((995.0, 2),))).message == expected


def test_one_message_wakes_at_the_defaults_and_an_activation_asks_for_more() -> None:
    assert once({}, Backlog(1, 0), 0).replicas == 1
    assert once({"activation": {"backlog": 5}}, Backlog(5, 0), 0).reason is ScalingReason.BELOW_ACTIVATION
    assert once({"activation": {"backlog": 5}}, Backlog(6, 0), 0).replicas == 1
    assert once({"activation": {"backlog": 5}}, Backlog(0, 1), 0).replicas == 1  # somebody has begun it


def test_the_last_pod_goes_after_the_cooldown() -> None:
    found = Autoscaling.model_validate({"cooldown": "60s", "scaleDown": {"stabilizationWindow": "0s"}})
    memory, numbers = ScalingHistory(), {}
    for second in range(0, 100, 5):
        seen = Backlog(0, 1) if second == 0 else Backlog(0, 0)
        decision, memory = decide(found, seen, 1, memory, float(second))
        numbers[second] = decision.replicas
    assert numbers[55] == 1
    assert numbers[60] == 0


def test_a_stream_that_trickles_keeps_its_pod_though_no_look_finds_an_entry() -> None:
    found = Autoscaling.model_validate({"cooldown": "60s", "scaleDown": {"stabilizationWindow": "0s"}})
    trickle: list[tuple[Backlog | None, float]] = [
        (Backlog(0, 0, last_delivered_id=f"{number}-0"), 15.0) for number in range(40)
    ]
    assert all(decision.replicas == 1 for *_, decision in run(found, trickle, 1))
    assert [decision.replicas for *_, decision in run(found, [*trickle, *[(trickle[-1][0], 15.0)] * 4], 1)][-1] == 0


def test_a_long_message_in_flight_keeps_its_pod() -> None:
    found = Autoscaling.model_validate({"cooldown": "0s", "scaleDown": {"stabilizationWindow": "0s"}})
    assert all(decision.replicas == 1 for *_, decision in run(found, [(Backlog(0, 1), 60.0)] * 100, 1))


def test_redis_away_wakes_nobody_who_slept_but_where_it_was_never_seen_there_is_a_pod() -> None:
    assert once({}, None, 0, ScalingHistory(last_busy_seconds=900.0)).replicas == 0
    assert once({}, None, 0).replicas == 1


def test_a_new_operator_waits_its_whole_windows_before_it_lowers_anything() -> None:
    found = Autoscaling.model_validate({"cooldown": "30s", "scaleDown": {"stabilizationWindow": "60s"}})
    numbers = [decision.replicas for *_, decision in run(found, [(Backlog(0, 0), 10.0)] * 9, 5)]
    assert numbers == [5, 5, 5, 5, 5, 5, 5, 0, 0]


def test_redis_away_for_long_brings_the_fallback() -> None:
    found = Autoscaling.model_validate({"fallback": {"replicas": 4, "after": "30s"}})
    numbers = [decision.replicas for *_, decision in run(found, [(None, 10.0)] * 5, 2)]
    assert numbers == [2, 2, 2, 4, 4]


def test_a_policy_limits_how_many_pods_come_within_its_period() -> None:
    policy = {"type": "Pods", "value": 2, "period": "60s"}
    found = Autoscaling.model_validate({"scaleUp": {"policies": [policy]}, "maxReplicas": 10})
    numbers = [decision.replicas for *_, decision in run(found, [(Backlog(10_000, 0), 30.0)] * 6, 1)]
    assert numbers == [3, 3, 3, 5, 5, 5]
    assert timedelta(seconds=60) == found.scale_up.policies[0].period

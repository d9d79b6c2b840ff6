"""Properties that hold for every scaling decision, and its message."""

from collections.abc import Iterator
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
def autoscaling(draw: st.DrawFn) -> Autoscaling:
    min_replicas = draw(st.integers(0, 5))
    spec: dict[str, Any] = {
        "minReplicas": min_replicas,
        "maxReplicas": draw(st.integers(max(1, min_replicas), 30)),
        "target": {"backlogPerReplica": draw(st.integers(1, 1000))},
        "cooldown": f"{draw(st.integers(0, 300))}s",
        "scaleUp": {"stabilizationWindow": f"{draw(st.integers(0, 60))}s", "policies": draw(POLICIES)},
        "scaleDown": {"stabilizationWindow": f"{draw(st.integers(0, 300))}s", "policies": draw(POLICIES)},
    }
    if draw(st.booleans()):
        spec["fallback"] = {"replicas": draw(st.integers(1, 40)), "after": f"{draw(st.integers(1, 60))}s"}
    return Autoscaling.model_validate(spec)


BACKLOGS = st.one_of(
    st.none(),
    st.builds(Backlog, st.one_of(st.none(), st.integers(0, 50_000)), st.integers(0, 500), st.booleans()),
    st.just(Backlog(0, 0)),
)
HISTORY = st.lists(st.tuples(BACKLOGS, st.floats(0.1, 100)), min_size=1, max_size=30)


def run(
    rules: Autoscaling, backlogs: list[tuple[Backlog | None, float]], current: int
) -> Iterator[tuple[Backlog | None, int, Decision]]:
    """Yield each backlog with the number of pods before it and the decision."""
    history, now = ScalingHistory(), 0.0
    for backlog, pause in backlogs:
        now += pause
        decision, history = decide(rules, backlog, current, history, now)
        yield backlog, current, decision
        current = decision.replicas


@given(autoscaling(), HISTORY, st.integers(0, 40))
def test_number_is_never_zero_with_work_or_an_unknown_backlog(rules: Autoscaling, backlogs: Any, current: int) -> None:
    for backlog, previous, decision in run(rules, backlogs, current):
        if backlog is None:
            assert decision.replicas >= previous
        elif backlog.total > 0 or not backlog.is_known:
            assert decision.replicas >= 1


@given(autoscaling(), HISTORY, st.integers(0, 40))
def test_unknown_backlog_never_scales_down(rules: Autoscaling, backlogs: Any, current: int) -> None:
    for backlog, previous, decision in run(rules, backlogs, current):
        if backlog is None or not backlog.is_known:
            assert decision.replicas >= min(previous, rules.max_replicas)


@given(autoscaling(), HISTORY, st.integers(0, 40))
def test_number_stays_within_its_bounds_once_reached(rules: Autoscaling, backlogs: Any, current: int) -> None:
    for backlog, previous, decision in run(rules, backlogs, current):
        assert decision.replicas <= max(rules.max_replicas, previous)
        if backlog is not None and rules.min_replicas:
            assert decision.replicas >= min(previous, rules.min_replicas)


@given(autoscaling(), HISTORY, st.integers(0, 30), st.integers(0, 50_000), st.integers(0, 5000))
def test_larger_backlog_never_means_fewer_pods(
    rules: Autoscaling, backlogs: Any, current: int, unread: int, more: int
) -> None:
    history, now = ScalingHistory(), 0.0
    for backlog, pause in backlogs:
        now += pause
        decision, history = decide(rules, backlog, current, history, now)
        current = decision.replicas
    smaller, _ = decide(rules, Backlog(unread, 0), current, history, now + 1)
    larger, _ = decide(rules, Backlog(unread + more, 0), current, history, now + 1)
    assert smaller.replicas <= larger.replicas


@given(autoscaling(), st.integers(0, 50_000), st.integers(0, 500), st.integers(0, 40))
def test_constant_load_changes_the_number_in_one_direction_only(
    rules: Autoscaling, unread: int, pending: int, current: int
) -> None:
    backlogs: list[tuple[Backlog | None, float]] = [(Backlog(unread, pending), 15.0)] * 400
    numbers = [current, *replicas(rules, backlogs, current)]
    steps = [following - number for number, following in pairwise(numbers)]
    assert not (any(step > 0 for step in steps) and any(step < 0 for step in steps))
    assert len(set(numbers[-10:])) == 1


def replicas(rules: Autoscaling, backlogs: list[tuple[Backlog | None, float]], current: int) -> list[int]:
    return [decision.replicas for _, _, decision in run(rules, backlogs, current)]


def once(
    spec: dict[str, Any], backlog: Backlog | None, current: int, history: ScalingHistory | None = None
) -> Decision:
    return decide(Autoscaling.model_validate(spec), backlog, current, history or ScalingHistory(), 1000.0)[0]


@pytest.mark.parametrize(
    ("spec", "backlog", "current", "expected"),
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
def test_message_shows_the_backlog_and_the_limiting_rule(
    spec: dict[str, Any], backlog: Backlog | None, current: int, expected: str
) -> None:
    assert once(spec, backlog, current, ScalingHistory(last_busy_seconds=0.0, needed=((995.0, 2),))).message == expected


def test_one_message_starts_a_pod_unless_an_activation_backlog_is_set() -> None:
    assert once({}, Backlog(1, 0), 0).replicas == 1
    assert once({"activation": {"backlog": 5}}, Backlog(5, 0), 0).reason is ScalingReason.BELOW_ACTIVATION
    assert once({"activation": {"backlog": 5}}, Backlog(6, 0), 0).replicas == 1
    assert once({"activation": {"backlog": 5}}, Backlog(0, 1), 0).replicas == 1  # a consumer has started it


def test_last_pod_is_removed_after_the_cooldown() -> None:
    rules = Autoscaling.model_validate({"cooldown": "60s", "scaleDown": {"stabilizationWindow": "0s"}})
    history, numbers = ScalingHistory(), {}
    for second in range(0, 100, 5):
        backlog = Backlog(0, 1) if second == 0 else Backlog(0, 0)
        decision, history = decide(rules, backlog, 1, history, float(second))
        numbers[second] = decision.replicas
    assert numbers[55] == 1
    assert numbers[60] == 0


def test_slow_stream_keeps_its_pod_when_no_poll_finds_an_entry() -> None:
    rules = Autoscaling.model_validate({"cooldown": "60s", "scaleDown": {"stabilizationWindow": "0s"}})
    trickle: list[tuple[Backlog | None, float]] = [
        (Backlog(0, 0, last_delivered_id=f"{number}-0"), 15.0) for number in range(40)
    ]
    assert set(replicas(rules, trickle, 1)) == {1}
    assert replicas(rules, [*trickle, *[(trickle[-1][0], 15.0)] * 4], 1)[-1] == 0


def test_long_message_in_flight_keeps_its_pod() -> None:
    rules = Autoscaling.model_validate({"cooldown": "0s", "scaleDown": {"stabilizationWindow": "0s"}})
    assert set(replicas(rules, [(Backlog(0, 1), 60.0)] * 100, 1)) == {1}


def test_unavailable_redis_starts_a_pod_only_before_the_first_probe() -> None:
    assert once({}, None, 0, ScalingHistory(last_busy_seconds=900.0)).replicas == 0
    assert once({}, None, 0).replicas == 1


def test_new_operator_waits_the_full_windows_before_scaling_down() -> None:
    rules = Autoscaling.model_validate({"cooldown": "30s", "scaleDown": {"stabilizationWindow": "60s"}})
    numbers = replicas(rules, [(Backlog(0, 0), 10.0)] * 9, 5)
    assert numbers == [5, 5, 5, 5, 5, 5, 5, 0, 0]


def test_fallback_applies_after_a_long_outage_of_redis() -> None:
    rules = Autoscaling.model_validate({"fallback": {"replicas": 4, "after": "30s"}})
    numbers = replicas(rules, [(None, 10.0)] * 5, 2)
    assert numbers == [2, 2, 2, 4, 4]


def test_policy_limits_the_pods_added_within_its_period() -> None:
    policy = {"type": "Pods", "value": 2, "period": "60s"}
    rules = Autoscaling.model_validate({"scaleUp": {"policies": [policy]}, "maxReplicas": 10})
    numbers = replicas(rules, [(Backlog(10_000, 0), 30.0)] * 6, 1)
    assert numbers == [3, 3, 3, 5, 5, 5]
    assert timedelta(seconds=60) == rules.scale_up.policies[0].period

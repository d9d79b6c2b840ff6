"""How many pods keep up, from what Redis counts: a stream and pods of a known pace, looked at."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason
from streamconsumer.operator.autoscaling.algorithm import Backlog, Decision, ScalingHistory, decide
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput

LOOK_SECONDS = 15.0


@dataclass
class Steady:
    """So many entries a second, and pods that each handle so many at most."""

    arriving: float
    per_pod: float
    unread: float = 0.0
    read: float = 0.0

    def later(self, pods: int, seconds: float = LOOK_SECONDS) -> Backlog:
        given = min(self.unread + self.arriving * seconds, pods * self.per_pod * seconds)
        self.unread += self.arriving * seconds - given
        self.read += given
        return Backlog(int(self.unread), 0, entries_read=int(self.read), last_delivered_id=str(self.read))


def numbers(rules: Autoscaling, world: Steady, looks: int, pods: int = 1) -> list[Decision]:
    memory, decisions = ScalingHistory(), []
    for each in range(looks):
        decision, memory = decide(rules, world.later(pods), pods, memory, each * LOOK_SECONDS)
        decisions.append(decision)
        pods = decision.replicas
    return decisions


def test_under_a_steady_load_the_pods_that_keep_up_stay_though_the_backlog_is_gone() -> None:
    decisions = numbers(Autoscaling(), Steady(arriving=50, per_pod=20), looks=400)
    settled = decisions[20:]
    assert {each.replicas for each in settled} == {3, 4}
    turns = sum(before.replicas != after.replicas for before, after in pairwise(settled))
    assert turns <= 4  # of a hundred minutes
    assert settled[0].reason is ScalingReason.ARRIVALS
    assert settled[0].message.startswith(
        "stays 4: backlog 0 (unread 0, pending 0), target 100 per replica, 50/s arrive, "
    )
    assert settled[0].message.endswith(", to keep up with arrivals")


@given(st.floats(0.5, 400), st.floats(0.5, 100))
def test_whatever_the_load_it_ends_with_enough_pods_and_few_too_many(arriving: float, per_pod: float) -> None:
    rules = Autoscaling.model_validate({"maxReplicas": 1000})
    world = Steady(arriving, per_pod)
    needed = arriving / per_pod
    last = numbers(rules, world, looks=80)[-20:]
    assert min(each.replicas for each in last) >= min(needed, 1000) - 1e-6 or world.unread > 0
    assert last[-1].replicas <= max(1, 1.3 * needed + 2, world.unread / 100 + 1)


@pytest.mark.parametrize("seconds", [10, 60, 600])
def test_a_backlog_is_done_in_the_time_that_was_asked_for(seconds: int) -> None:
    """Measured with one pod first, and looked at every 15 s: that much later at most."""
    rules = Autoscaling.model_validate({"maxReplicas": 1000, "target": {"drainTime": f"{seconds}s"}})
    world = Steady(arriving=40, per_pod=20, unread=30_000)
    decisions = numbers(rules, world, looks=3, pods=2)
    assert decisions[0].message.endswith("throughput per replica not measured yet")
    most = max(each.replicas for each in decisions)
    assert most == pytest.approx(2 + 30_000 / seconds / 20, rel=0.1, abs=2)


def test_without_a_pace_a_drain_time_lowers_and_raises_nothing_but_from_zero() -> None:
    rules = Autoscaling.model_validate({"target": {"drainTime": "30s"}})
    assert decide(rules, Backlog(5000, 0), 3, ScalingHistory(), 0.0)[0].replicas == 3
    assert decide(rules, Backlog(5000, 0), 0, ScalingHistory(), 0.0)[0].replicas == 1


def test_a_pace_is_not_measured_while_pods_start_nor_while_they_wait_for_entries() -> None:
    starting = (
        Throughput()
        .with_sample(Sample(0, 0, 900, 0, 1), -1e9)
        .with_sample(Sample(15, 20, 880, 0, 9), scaled_up_at_seconds=14)
    )
    assert starting.per_pod_rate is None
    waiting = Throughput().with_sample(Sample(0, 0, 0, 0, 9), -1e9).with_sample(Sample(15, 20, 0, 0, 9), -1e9)
    assert waiting.per_pod_rate is None


def test_a_pace_that_was_measured_is_doubted_until_it_is_measured_again() -> None:
    pace = Throughput().with_sample(Sample(0, 0, 900, 0, 1), -1e9).with_sample(Sample(15, 300, 600, 0, 1), -1e9)
    assert pace.per_pod_rate == 20
    for each in range(121):
        pace = pace.with_sample(Sample(45 + each * 15, 900, 0, 0, 1), -1e9)
    assert 22 < (pace.per_pod_rate or 0) < 23


def test_counters_that_go_back_begin_a_new_life_and_the_pace_is_kept() -> None:
    pace = Throughput().with_sample(Sample(0, 0, 900, 0, 1), -1e9).with_sample(Sample(15, 300, 600, 0, 1), -1e9)
    after = pace.with_sample(Sample(30, 0, 5, 0, 1), -1e9)
    assert (after.arrival_rate, after.per_pod_rate) == (None, 20)


def test_a_server_that_does_not_count_leaves_it_to_the_backlog() -> None:
    decision, memory = decide(Autoscaling(), Backlog(450, 0), 1, ScalingHistory(), 0.0)
    assert (decision.replicas, memory.throughput.samples) == (5, ())

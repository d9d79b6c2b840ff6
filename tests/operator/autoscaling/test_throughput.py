"""Measured throughput: a simulated stream and pods with a known rate, probed at intervals."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason
from streamconsumer.operator.autoscaling.algorithm import Backlog, Decision, ScalingHistory, decide
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput

POLL_SECONDS = 15.0


@dataclass
class SteadyStream:
    """Stream with a constant arrival rate, and pods with a maximum rate each."""

    arriving: float
    per_pod: float
    unread: float = 0.0
    read: float = 0.0

    def advance(self, pods: int, seconds: float = POLL_SECONDS) -> Backlog:
        delivered = min(self.unread + self.arriving * seconds, pods * self.per_pod * seconds)
        self.unread += self.arriving * seconds - delivered
        self.read += delivered
        return Backlog(int(self.unread), 0, entries_read=int(self.read), last_delivered_id=str(self.read))


def decisions_for(rules: Autoscaling, stream: SteadyStream, polls: int, pods: int = 1) -> list[Decision]:
    history, decisions = ScalingHistory(), []
    for number in range(polls):
        decision, history = decide(rules, stream.advance(pods), pods, history, number * POLL_SECONDS)
        decisions.append(decision)
        pods = decision.replicas
    return decisions


def test_pods_that_keep_up_stay_when_the_backlog_is_empty() -> None:
    decisions = decisions_for(Autoscaling(), SteadyStream(arriving=50, per_pod=20), polls=400)
    settled = decisions[20:]
    assert {decision.replicas for decision in settled} == {3, 4}
    changes = sum(previous.replicas != current.replicas for previous, current in pairwise(settled))
    assert changes <= 4  # within 95 minutes
    assert settled[0].reason is ScalingReason.ARRIVALS
    assert settled[0].message.startswith(
        "stays 4: backlog 0 (unread 0, pending 0), target 100 per replica, 50/s arrive, "
    )
    assert settled[0].message.endswith(", to keep up with arrivals")


@given(st.floats(0.5, 400), st.floats(0.5, 100))
def test_constant_load_ends_with_enough_pods_and_few_more(arriving: float, per_pod: float) -> None:
    rules = Autoscaling.model_validate({"maxReplicas": 1000})
    stream = SteadyStream(arriving, per_pod)
    required = arriving / per_pod
    last = decisions_for(rules, stream, polls=80)[-20:]
    assert min(decision.replicas for decision in last) >= min(required, 1000) - 1e-6 or stream.unread > 0
    assert last[-1].replicas <= max(1, 1.3 * required + 2, stream.unread / 100 + 1)


@pytest.mark.parametrize("seconds", [10, 60, 600])
def test_backlog_is_drained_within_the_drain_time(seconds: int) -> None:
    """The throughput is measured first, and a poll runs every 15 s, so the drain may end that much later."""
    rules = Autoscaling.model_validate({"maxReplicas": 1000, "target": {"drainTime": f"{seconds}s"}})
    stream = SteadyStream(arriving=40, per_pod=20, unread=30_000)
    decisions = decisions_for(rules, stream, polls=3, pods=2)
    assert decisions[0].message.endswith("throughput per replica not measured yet")
    highest = max(decision.replicas for decision in decisions)
    assert highest == pytest.approx(2 + 30_000 / seconds / 20, rel=0.1, abs=2)


def test_drain_time_keeps_the_number_until_throughput_is_measured_except_at_zero() -> None:
    rules = Autoscaling.model_validate({"target": {"drainTime": "30s"}})
    assert decide(rules, Backlog(5000, 0), 3, ScalingHistory(), 0.0)[0].replicas == 3
    assert decide(rules, Backlog(5000, 0), 0, ScalingHistory(), 0.0)[0].replicas == 1


def test_throughput_is_not_measured_while_pods_start_or_wait_for_entries() -> None:
    starting = (
        Throughput()
        .with_sample(Sample(0, 0, 900, 0, 1), -1e9)
        .with_sample(Sample(15, 20, 880, 0, 9), scaled_up_at_seconds=14)
    )
    assert starting.per_pod_rate is None
    waiting = Throughput().with_sample(Sample(0, 0, 0, 0, 9), -1e9).with_sample(Sample(15, 20, 0, 0, 9), -1e9)
    assert waiting.per_pod_rate is None


def test_confidence_in_a_measurement_decays_until_the_next_one() -> None:
    throughput = Throughput().with_sample(Sample(0, 0, 900, 0, 1), -1e9).with_sample(Sample(15, 300, 600, 0, 1), -1e9)
    assert throughput.per_pod_rate == 20
    for number in range(121):
        throughput = throughput.with_sample(Sample(45 + number * 15, 900, 0, 0, 1), -1e9)
    assert 22 < (throughput.per_pod_rate or 0) < 23


def test_decreasing_counters_reset_the_arrival_rate_and_keep_the_throughput() -> None:
    throughput = Throughput().with_sample(Sample(0, 0, 900, 0, 1), -1e9).with_sample(Sample(15, 300, 600, 0, 1), -1e9)
    reset = throughput.with_sample(Sample(30, 0, 5, 0, 1), -1e9)
    assert (reset.arrival_rate, reset.per_pod_rate) == (None, 20)


def test_only_the_backlog_counts_when_the_server_has_no_entries_read() -> None:
    decision, history = decide(Autoscaling(), Backlog(450, 0), 1, ScalingHistory(), 0.0)
    assert (decision.replicas, history.throughput.samples) == (5, ())

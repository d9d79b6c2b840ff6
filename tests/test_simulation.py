"""Simulation of `make bench`: entries are neither lost nor invented, and the scaling algorithm keeps its promises."""

import itertools

import pytest

from benchmarks.simulation.cluster_model import ClusterModel
from benchmarks.simulation.scalers import KedaScaler, OurScaler
from benchmarks.simulation.traffic import ALL_TRAFFIC, Traffic, bursty, poison, slow, steady


@pytest.mark.parametrize("traffic", [steady(), bursty(), poison(), slow()], ids=lambda traffic: traffic.name)
def test_algorithm_is_over_target_for_less_time_than_keda_and_interrupts_no_attempt(traffic: Traffic) -> None:
    own, keda = ClusterModel(traffic, OurScaler()).run(), ClusterModel(traffic, KedaScaler("KEDA")).run()
    assert own.over_target_seconds < keda.over_target_seconds
    assert (own.unfinished, own.interrupted) == (0, 0)


def test_each_entry_is_finished_or_counted_as_unfinished() -> None:
    model = ClusterModel(slow(), KedaScaler("KEDA"))
    outcome = model.run()
    assert outcome.interrupted > 0
    assert len(outcome.waits) + outcome.unfinished == model.added


def test_traffic_pattern_repeats_at_each_call() -> None:
    for make in ALL_TRAFFIC:
        first, second = (count_messages(make(), 3600) for _ in range(2))
        assert first == second > 0


def count_messages(traffic: Traffic, seconds: int) -> int:
    return sum(len(messages) for messages in itertools.islice(traffic.arrivals(), seconds))

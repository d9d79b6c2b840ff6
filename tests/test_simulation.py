"""The simulation of `make bench`: entries are neither lost nor invented, and our decision does what it should."""

import pytest

from benchmarks.simulation.rivals import KedaScaler, OurScaler
from benchmarks.simulation.traffic import ALL_TRAFFIC, Traffic, bursty, poison, slow, steady
from benchmarks.simulation.world import ClusterModel


@pytest.mark.parametrize("traffic", [steady(), bursty(), poison(), slow()], ids=lambda each: each.name)
def test_our_decision_is_over_target_for_less_time_and_leaves_nothing_and_cuts_nobody_off(traffic: Traffic) -> None:
    ours, theirs = ClusterModel(traffic, OurScaler()).run(), ClusterModel(traffic, KedaScaler("KEDA")).run()
    assert ours.over_target_seconds < theirs.over_target_seconds
    assert (ours.unfinished, ours.interrupted) == (0, 0)


def test_every_entry_ends_or_is_counted_as_not_done() -> None:
    world = ClusterModel(slow(), KedaScaler("KEDA"))
    outcome = world.run()
    assert outcome.interrupted > 0
    assert len(outcome.waits) + outcome.unfinished == world.added


def test_a_traffic_is_the_same_at_every_call() -> None:
    for make in ALL_TRAFFIC:
        first, second = (sum(len(each) for each, _ in zip(make().arrivals(), range(3600), strict=False)) for _ in "12")
        assert first == second > 0

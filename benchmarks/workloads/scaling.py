"""Workload: simulated autoscaling of StreamConsumer and KEDA on the same traffic. Independent of the machine."""

from benchmarks.figures import percentile
from benchmarks.results import Goal, Section
from benchmarks.simulation.cluster_model import EXTRA_SECONDS, ClusterModel, Outcome
from benchmarks.simulation.scalers import MAX_REPLICAS, TARGET, all_scalers
from benchmarks.simulation.traffic import ALL_TRAFFIC

ROUNDS = 1
STREAMCONSUMER, KEDA = "StreamConsumer", "KEDA, lagCount"
HEAD = [
    "traffic",
    "scaler",
    "time over target",
    "replica-hours",
    "flaps",
    "added → done p50 s",
    "p99 s",
    "attempts interrupted",
    "unfinished at the end",
]


def measure(number: int) -> Section:  # noqa: ARG001 - each round gives the same result
    """Run all traffic patterns with all scalers."""
    outcomes = {
        (traffic.name, scaler.name): (ClusterModel(traffic, scaler).run(), traffic.seconds)
        for traffic in (make() for make in ALL_TRAFFIC)
        for scaler in all_scalers()
    }
    shares = [
        outcomes[name, STREAMCONSUMER][0].over_target_seconds / max(1, outcomes[name, KEDA][0].over_target_seconds)
        for name in dict.fromkeys(name for name, _ in outcomes)
    ]
    own = [outcome for (_, scaler), (outcome, _) in outcomes.items() if scaler == STREAMCONSUMER]
    goals = [
        Goal("time over target relative to KEDA, worst case", "under", 1, max(shares)),
        Goal(
            "attempts interrupted by a stopping pod",
            "at most",
            0,
            sum(outcome.interrupted for outcome in own),
            0,
        ),
        Goal("unfinished at the end", "at most", 0, sum(outcome.unfinished for outcome in own), 0),
    ]
    rows = [[*names, *_cells(outcome, seconds)] for names, (outcome, seconds) in outcomes.items()]
    facts = (
        f"simulated, target {TARGET} entries per replica, at most {MAX_REPLICAS} pods; "
        "a pod reads 2 s after it is requested."
    )
    return Section("scaling", facts, HEAD, rows, goals)


def _cells(outcome: Outcome, seconds: int) -> list[str]:
    waits = outcome.waits or [0]
    return [
        f"{outcome.over_target_seconds / (seconds + EXTRA_SECONDS):.1%}",
        f"{outcome.replica_seconds / 3600:.1f}",
        str(outcome.flaps),
        f"{percentile(waits, 50):,.0f}",
        f"{percentile(waits, 99):,.0f}",
        str(outcome.interrupted),
        str(outcome.unfinished),
    ]

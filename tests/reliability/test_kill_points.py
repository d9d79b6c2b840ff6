"""kill -9 at every await point of reading, handling, acknowledging, retrying, dead-lettering, claiming and draining."""

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.reliability.kill_points import KILL, MOMENTS, RECORD, uncovered_awaits
from tests.reliability.scenario import Scenario

NewScenario = Callable[..., Scenario]
CONCURRENCY = 12
SAMPLE = 12

VARIANTS = {
    "batches": {"HANDLER_PYTHON": "tests.reliability.scripted_handler:handle_batch", "HANDLER_BATCH": "true"},
    "effects": {"HANDLER_PYTHON": "tests.reliability.scripted_handler:handle_with_effects"},
    "retention": {"RETENTION_ACKNOWLEDGED": "true", "RETENTION_MAX_LENGTH": "1000"},
}
"""Settings that use other code paths than the default of single messages."""

Kill = tuple[str, str, int]
"""Await point, moment and number of the hit."""


def record_kills(new_scenario: NewScenario, times: int = 1) -> list[Kill]:
    """Run scenarios without a fault. Returns every kill that is possible in them."""
    hits: set[tuple[str, int]] = set()
    for _ in range(times):
        scenario = new_scenario()
        record = scenario.folder / "points"
        scenario.add_backlog()
        scenario.run_until_drained(scenario.start_pod("pod-a", **{RECORD: str(record)}))
        scenario.start_pod("pod-b")
        scenario.wait_settled()
        hits |= {(point, hit) for point, hit in map(json.loads, record.read_text().splitlines())}
    return sorted((point, moment, hit) for point, hit in hits for moment in MOMENTS)


def run_with_kill(scenario: Scenario, kill: Kill) -> bool:
    """Kill a pod, and let another one finish everything. Returns whether the pod reached the kill point."""
    scenario.add_backlog()
    victim = scenario.start_pod("pod-a", **{KILL: json.dumps(kill)})
    scenario.run_until_drained(victim)
    is_killed = '"processor stopped"' not in victim.output
    victim.remove()
    scenario.start_pod("pod-b")
    account = scenario.wait_settled()
    if scenario.extra_settings == VARIANTS["effects"]:
        assert scenario.invoices() == sorted(account.acknowledged), (
            f"effects that were not applied exactly once\n{scenario.pod_logs()}"
        )
    return is_killed


def run_kills(new_scenario: NewScenario, kills: Iterable[Kill]) -> tuple[int, dict[Kill, str]]:
    """Run a scenario with each kill. Returns the number of killed pods, and the errors by kill."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        futures = {kill: pool.submit(run_with_kill, new_scenario(), kill) for kill in kills}
    errors = {kill: str(future.exception()) for kill, future in futures.items() if future.exception()}
    return sum(future.exception() is None and future.result() for future in futures.values()), errors


def test_peer_finishes_everything_after_a_kill_at_sampled_await_points(new_scenario: NewScenario) -> None:
    kills = record_kills(new_scenario)
    killed, errors = run_kills(new_scenario, random.Random().sample(kills, SAMPLE))
    assert not errors, "\n\n".join(f"after kill -9 at {kill}: {error}" for kill, error in errors.items())
    assert killed > SAMPLE // 2


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_peer_finishes_everything_after_a_kill_at_any_await_point(new_scenario: NewScenario) -> None:
    kills = record_kills(new_scenario, 3)
    _run_all(new_scenario, kills)
    print("awaits that no pod reached:", *uncovered_awaits({point for point, _, _ in kills}), sep="\n  ")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_peer_finishes_everything_after_a_kill_on_another_code_path(new_scenario: NewScenario, variant: str) -> None:
    """Only await points that are not on the default code path, at their first hit."""
    default_points = {point for point, _, _ in record_kills(new_scenario)}
    other = partial(new_scenario, **VARIANTS[variant])
    _run_all(other, [kill for kill in record_kills(other) if kill[0] not in default_points and kill[2] == 1])


def _run_all(new_scenario: NewScenario, kills: list[Kill]) -> None:
    killed, errors = run_kills(new_scenario, kills)
    points = {point for point, _, _ in kills}
    print(f"{len(points)} points, {len(kills)} kills, {killed} killed, {len(errors)} failed")
    assert not errors, "\n\n".join(f"after kill -9 at {kill}: {error}" for kill, error in errors.items())
    assert killed

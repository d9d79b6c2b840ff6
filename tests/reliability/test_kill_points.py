"""kill -9 at every await point of reading, handling, acknowledging, retrying, dead-lettering, taking over, draining."""

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.reliability.kill_points import KILL, MOMENTS, RECORD, uncovered_awaits
from tests.reliability.trial import Scenario

NewTrial = Callable[..., Scenario]
AT_ONCE = 12
SAMPLE = 12

WAYS = {
    "batches": {"HANDLER_PYTHON": "tests.reliability.deeds:handle_batch", "HANDLER_BATCH": "true"},
    "effects": {"HANDLER_PYTHON": "tests.reliability.deeds:handle_with_effects"},
    "retention": {"RETENTION_ACKNOWLEDGED": "true", "RETENTION_MAX_LENGTH": "1000"},
}
"""Other ways through the processor than that of one message after another."""

Death = tuple[str, str, int]
"""A point, a moment, and at which hit."""


def recorded(new_trial: NewTrial, times: int = 1) -> list[Death]:
    """Every way to die that a pod offers in a trial in which nothing goes wrong."""
    hits: set[tuple[str, int]] = set()
    for _ in range(times):
        trial = new_trial()
        record = trial.folder / "points"
        trial.add_backlog()
        trial.run_until_drained(trial.start_pod("pod-a", **{RECORD: str(record)}))
        trial.start_pod("pod-b")
        trial.wait_settled()
        hits |= {(point, hit) for point, hit in map(json.loads, record.read_text().splitlines())}
    return sorted((point, moment, hit) for point, hit in hits for moment in MOMENTS)


def die(trial: Scenario, death: Death) -> bool:
    """A pod dies so, another one finishes everything. Returns whether the pod came to that point at all."""
    trial.add_backlog()
    victim = trial.start_pod("pod-a", **{KILL: json.dumps(death)})
    trial.run_until_drained(victim)
    died = '"processor stopped"' not in victim.output
    victim.remove()
    trial.start_pod("pod-b")
    account = trial.wait_settled()
    if trial.extra_settings == WAYS["effects"]:
        assert trial.invoices() == sorted(account.acknowledged), f"effects that are not there once\n{trial.pod_logs()}"
    return died


def all_survived(new_trial: NewTrial, deaths: Iterable[Death]) -> tuple[int, dict[Death, str]]:
    """How many pods died as they should, and what went wrong after which death."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {death: pool.submit(die, new_trial(), death) for death in deaths}
    wrong = {death: str(future.exception()) for death, future in futures.items() if future.exception()}
    return sum(future.exception() is None and future.result() for future in futures.values()), wrong


def test_after_a_kill_at_a_sample_of_the_await_points_a_peer_finishes_everything(new_trial: NewTrial) -> None:
    deaths = recorded(new_trial)
    died, wrong = all_survived(new_trial, random.Random().sample(deaths, SAMPLE))
    assert not wrong, "\n\n".join(f"after kill -9 at {death}: {what}" for death, what in wrong.items())
    assert died > SAMPLE // 2


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_after_a_kill_at_any_await_point_a_peer_finishes_everything(new_trial: NewTrial) -> None:
    deaths = recorded(new_trial, 3)
    _try_all(new_trial, deaths)
    print("awaits at which no pod waited:", *uncovered_awaits({point for point, _, _ in deaths}), sep="\n  ")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", list(WAYS))
def test_after_a_kill_at_an_await_point_of_another_way_a_peer_finishes_everything(
    new_trial: NewTrial, way: str
) -> None:
    """Only where the plain way does not pass, and at the first hit."""
    plain = {point for point, _, _ in recorded(new_trial)}
    other = partial(new_trial, **WAYS[way])
    _try_all(other, [death for death in recorded(other) if death[0] not in plain and death[2] == 1])


def _try_all(new_trial: NewTrial, deaths: list[Death]) -> None:
    died, wrong = all_survived(new_trial, deaths)
    points = {point for point, _, _ in deaths}
    print(f"{len(points)} points, {len(deaths)} ways to die, {died} died, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(f"after kill -9 at {death}: {what}" for death, what in wrong.items())
    assert died

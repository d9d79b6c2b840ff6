"""The protocol keeps its promises in every state of the model, and the model finds the faults of earlier rules."""

import pytest

from tests.protocol_model.explore import Explorer, walk
from tests.protocol_model.scripts import (
    NO_CLAIMED_RECORD,
    NO_MEMORY_OF_COMMITS,
    NO_SECOND_ACK,
    ORPHANS_DROPPED,
    PAUSE_UNNOTICED,
    REMOVED_WHILE_RESTORING,
    RESTORED_TO_ANY,
    SILENCE_IS_DEATH,
    TAKE_BACK_FORGETS,
    UNREAD_STAYS_CLAIMED,
)
from tests.protocol_model.state import Bounds, State, canonical, describe
from tests.protocol_model.transitions import AGAIN, LOST, RECORDED_TWICE, TWICE

SMALL = (
    Bounds(consumers=2, entries=1, crashes=1, losses=1),
    Bounds(consumers=2, entries=1, pauses=1, cuts=1, delays=1),
    Bounds(consumers=2, entries=2, crashes=1, pauses=1),
    Bounds(consumers=2, entries=1, losses=1, deletions=1, trims=1),
)

FULL = (
    Bounds(consumers=2, entries=1, crashes=1, losses=1, cuts=1),
    Bounds(consumers=3, entries=1, losses=1, deletions=1, trims=1),
    Bounds(consumers=3, entries=1, crashes=2, pauses=1, losses=1),
    Bounds(consumers=2, spares=1, entries=1, crashes=2, pauses=1, losses=1),
    Bounds(consumers=3, entries=1, crashes=2, pauses=1, losses=1, cuts=1),
    Bounds(consumers=2, entries=1, crashes=1, pauses=1, losses=1, cuts=1, delays=1),
    Bounds(consumers=2, entries=1, crashes=1, losses=2),
    Bounds(consumers=3, entries=2, crashes=2, pauses=1),
    Bounds(consumers=2, entries=2, losses=1),
)


@pytest.mark.parametrize("bounds", SMALL, ids=describe)
def test_no_promise_is_broken(bounds: Bounds) -> None:
    result = Explorer(bounds).run()
    assert result.violation == "", "\n".join(result.story)
    assert result.settled > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bounds", FULL, ids=describe)
def test_no_promise_is_broken_with_more_faults(bounds: Bounds) -> None:
    result = Explorer(bounds).run()
    assert result.violation == "", "\n".join(result.story)
    assert result.settled > 0


@pytest.mark.parametrize(
    ("rule", "violation", "bounds"),
    [
        (TAKE_BACK_FORGETS, LOST, Bounds(entries=1, crashes=1, losses=2)),
        (ORPHANS_DROPPED, LOST, Bounds(entries=1, deletions=1)),
        (NO_CLAIMED_RECORD, AGAIN, Bounds(entries=1, pauses=1)),
        (PAUSE_UNNOTICED, TWICE, Bounds(entries=1, pauses=1)),
        (SILENCE_IS_DEATH, TWICE, Bounds(entries=1)),
        (NO_MEMORY_OF_COMMITS, RECORDED_TWICE, Bounds(entries=1, cuts=1)),
        (NO_SECOND_ACK, AGAIN, Bounds(entries=1, delays=1, cuts=1)),
        (RESTORED_TO_ANY, TWICE, Bounds(entries=1, losses=1, cuts=1)),
        (UNREAD_STAYS_CLAIMED, LOST, Bounds(entries=1, losses=1, deletions=1)),
        pytest.param(REMOVED_WHILE_RESTORING, LOST, Bounds(entries=1, crashes=1, losses=2), marks=pytest.mark.slow),
    ],
)
def test_model_finds_the_fault_of_an_earlier_rule(rule: str, violation: str, bounds: Bounds) -> None:
    result = Explorer(bounds, frozenset({rule})).run()
    print(rule, *result.story, sep="\n")
    assert result.violation == violation


def test_two_entries_reach_the_same_states_as_one() -> None:
    """An entry does not depend on other entries, so that one entry is enough to find a broken promise."""
    faults = Bounds(pauses=1)
    alone, pair = Explorer(faults._replace(entries=1)), Explorer(faults._replace(entries=2))
    alone.run()
    pair.run()
    projections = {
        canonical(State(state.group, state.modes, (entry,))) for state in pair.states for entry in state.entries
    }
    assert projections == set(alone.states)


@pytest.mark.parametrize("seed", range(10))
def test_random_walk_breaks_no_promise(seed: int) -> None:
    bounds = Bounds(consumers=4, entries=3, crashes=3, pauses=3, losses=3, cuts=3, delays=3, trims=1)
    result = walk(bounds, frozenset(), seed, steps=300)
    assert result.violation == "", "\n".join(result.story)

"""The protocol keeps its promises in every state of the model, and the model finds the faults of earlier rules."""

import pytest

from tests.protocol_model import transitions
from tests.protocol_model.explore import STUCK, Explorer, walk
from tests.protocol_model.machine import Machine
from tests.protocol_model.pairs import PairExplorer
from tests.protocol_model.scripts import (
    NO_CLAIMED_RECORD,
    NO_MEMORY_OF_COMMITS,
    NO_SECOND_ACK,
    ORPHANS_DROPPED,
    PAUSE_UNNOTICED,
    RECORDED_IS_TAKEN,
    REMOVED_WHILE_RESTORING,
    RESTORED_TO_ANY,
    SILENCE_IS_DEATH,
    TAKE_BACK_FORGETS,
    UNREAD_STAYS_CLAIMED,
)
from tests.protocol_model.state import Bounds, describe
from tests.protocol_model.transitions import AGAIN, LOST, RECORDED_TWICE, TWICE

SLOW = (pytest.mark.slow, pytest.mark.timeout(900))

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
)

PAIRS = (
    Bounds(consumers=3, entries=2, crashes=2, pauses=1, losses=1),
    Bounds(consumers=2, entries=2, crashes=1, pauses=1, losses=1, cuts=1),
)
"""Bounds that are explored with sets of states."""


@pytest.mark.parametrize("bounds", SMALL, ids=describe)
def test_no_promise_is_broken(bounds: Bounds) -> None:
    result = Explorer(Machine(bounds)).run()
    assert result.violation == "", "\n".join(result.story)
    assert result.settled > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bounds", FULL, ids=describe)
def test_no_promise_is_broken_with_more_faults(bounds: Bounds) -> None:
    result = Explorer(Machine(bounds)).run()
    assert result.violation == "", "\n".join(result.story)
    assert result.settled > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bounds", PAIRS, ids=describe)
def test_no_promise_is_broken_for_two_entries(bounds: Bounds) -> None:
    result = PairExplorer(Machine(bounds)).run()
    assert result.violation == "", "\n".join(result.story)
    assert result.states > 0


@pytest.mark.parametrize(
    ("rule", "violation", "bounds"),
    [
        (TAKE_BACK_FORGETS, LOST, Bounds(entries=1, crashes=1, losses=2)),
        (ORPHANS_DROPPED, LOST, Bounds(entries=1, deletions=1)),
        (NO_CLAIMED_RECORD, AGAIN, Bounds(entries=1, pauses=1)),
        (PAUSE_UNNOTICED, TWICE, Bounds(entries=1, pauses=1)),
        (SILENCE_IS_DEATH, TWICE, Bounds(entries=1)),
        (NO_MEMORY_OF_COMMITS, RECORDED_TWICE, Bounds(entries=1, cuts=1)),
        (RECORDED_IS_TAKEN, AGAIN, Bounds(entries=1, crashes=1, cuts=1)),
        (NO_SECOND_ACK, AGAIN, Bounds(entries=1, delays=1, cuts=1)),
        (RESTORED_TO_ANY, TWICE, Bounds(entries=1, losses=1, cuts=1)),
        (UNREAD_STAYS_CLAIMED, LOST, Bounds(entries=1, losses=1, deletions=1)),
        pytest.param(REMOVED_WHILE_RESTORING, LOST, Bounds(entries=1, crashes=1, losses=2), marks=SLOW),
    ],
)
def test_model_finds_the_fault_of_an_earlier_rule(rule: str, violation: str, bounds: Bounds) -> None:
    machine = Machine(bounds, frozenset({rule}))
    alone, pair = Explorer(machine).run(), PairExplorer(machine).run()
    print(rule, *alone.story, sep="\n")
    assert alone.violation == violation
    assert pair.story == alone.story


def test_two_entries_reach_the_same_states_as_one() -> None:
    """An entry does not depend on other entries, so that one entry is enough to find a broken promise."""
    machine = Machine(Bounds(crashes=1, losses=1))
    alone, pair = Explorer(machine.with_one_entry()), PairExplorer(machine)
    alone.run()
    pair.run()
    reached = {
        machine.encode(place, (entry,), is_last=False) for place, entries in pair.entries().items() for entry in entries
    }
    assert reached == set(alone.codes)


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(crashes=1, pauses=1),
        Bounds(consumers=3, crashes=2, pauses=1),
        Bounds(spares=1, crashes=1, cuts=1),
        Bounds(cuts=1, delays=1),
        Bounds(cuts=1, trims=1),
        Bounds(deletions=1, trims=1),
        pytest.param(Bounds(pauses=1, cuts=1, trims=1), marks=SLOW),
        pytest.param(Bounds(losses=1), marks=SLOW),
        pytest.param(Bounds(crashes=1, losses=1), marks=SLOW),
    ],
    ids=describe,
)
def test_sets_of_states_contain_the_states_of_two_entries(bounds: Bounds) -> None:
    machine = Machine(bounds)
    single, sets = Explorer(machine), PairExplorer(machine)
    expected, result = single.run(), sets.run()
    assert (result.violation, result.states) == ("", expected.states)
    assert {machine.encode(place, pair, is_last=False) for place, pair in sets.pairs()} == set(single.codes)


def test_a_state_that_cannot_settle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "_is_due", lambda _modes, _entry: False)
    for machine in (Machine(Bounds(entries=1)), Machine(Bounds(entries=2))):
        assert Explorer(machine).run().violation == STUCK
    assert PairExplorer(Machine(Bounds())).run().violation == STUCK
    assert any(walk(Machine(Bounds()), seed, steps=300).violation == STUCK for seed in range(10))


@pytest.mark.parametrize("seed", range(10))
def test_random_walk_breaks_no_promise(seed: int) -> None:
    bounds = Bounds(consumers=4, entries=3, crashes=3, pauses=3, losses=3, cuts=3, delays=3, trims=1)
    result = walk(Machine(bounds), seed, steps=300)
    assert result.violation == "", "\n".join(result.story)

"""State of an entry: the transitions that are allowed, and that a lost entry stays lost."""

import pytest

from streamconsumer.processor.entry_state import DONE, LOST, TRANSITIONS, EntryState, Transition
from streamconsumer.processor.message import Entry


def entry_in(state: EntryState) -> Entry:
    entry = Entry("1-0", ())
    entry.state = state
    return entry


@pytest.mark.parametrize("state", list(EntryState))
@pytest.mark.parametrize("transition", list(TRANSITIONS))
def test_only_named_transitions_change_the_state(state: EntryState, transition: Transition) -> None:
    entry, (sources, target) = entry_in(state), TRANSITIONS[transition]
    if state in sources:
        entry.apply(transition)
        assert entry.state is target
    elif state is LOST and transition != "start":
        entry.apply(transition)
        assert entry.state is LOST
    else:
        with pytest.raises(AssertionError, match=f"1-0: {transition} while {state.value}"):
            entry.apply(transition)
        assert entry.state is state


def test_a_settled_entry_never_starts_again() -> None:
    assert [name for name, (sources, _) in TRANSITIONS.items() if DONE in sources] == []


def test_each_state_except_the_last_two_can_be_lost() -> None:
    assert set(EntryState) - set(TRANSITIONS["lose"][0]) == {DONE, LOST}

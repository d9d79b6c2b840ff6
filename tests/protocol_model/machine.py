"""The model as a state machine of small integers, which computes each transition of an entry only once.

An entry never reads the state of another entry: entries share only the group and the modes of the processes, here the
*place*. `Machine` therefore numbers places and entries, and caches the transitions of each entry in each place. A state
is one integer, which contains the numbers of its place and of its entries. Consumers and entries are interchangeable,
so that `encode` maps states that differ only in the names of consumers and entries to one integer.
"""

from collections.abc import Iterator
from copy import copy
from functools import cache
from itertools import permutations, product
from typing import NamedTuple

from tests.protocol_model.scripts import Rules
from tests.protocol_model.state import DEAD, LIVE, PRESENT, Bounds, Cell, Entry, without_history
from tests.protocol_model.transitions import Step, common_steps, entry_steps, has_ended, outcomes

BITS = 24
"""Number of bits of the number of an entry in the integer of a state."""

Numbers = tuple[int, ...]


class Move(NamedTuple):
    """Transition of a state. The consumers and the entries keep their names."""

    place: int
    entries: Numbers
    step: Step
    """Transition of one of the entries. If all entries change, the transition of the first entry that breaks a promise,
    or else of any entry."""
    changed: int | None
    """Index of the entry that changes. None if all entries change."""
    is_progress: bool


class Machine:
    """Numbered places and entries, with their transitions."""

    def __init__(self, bounds: Bounds, rules: Rules = frozenset()) -> None:
        self.bounds, self._rules = bounds, rules
        self._possible = {"", *(kind for kind, limit in bounds.faults.items() if limit)}
        self._names = bounds.consumers + bounds.spares
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._entries: dict[Entry, int] = {}
        self.place_list: list[tuple[str, tuple[str, ...]]] = []
        self.entry_list: list[Entry] = []
        modes = (LIVE,) * bounds.consumers + (DEAD,) * bounds.spares
        first = self._entry(Entry((Cell(),) * self._names))
        self.initial = self._place(PRESENT, modes), (first,) * bounds.entries
        """All consumers have connected, saved the first snapshot, and read nothing."""
        # Each cache is an attribute, so that it ends together with the machine.
        self.entry_moves = cache(self._find_entry_moves)
        self.common_moves = cache(self._find_common_moves)
        self.sorted = cache(self._sort)
        self.renamed = cache(self._rename)
        self.without_history = cache(self._forget)
        self.can_settle = cache(self._find_end)
        self.has_ended = cache(lambda place, entry: has_ended(self.place_list[place][1], self.entry_list[entry]))

    def with_one_entry(self) -> "Machine":
        """Return a machine that has one entry, and shares numbers and transitions with this one."""
        machine = copy(self)
        machine.bounds = self.bounds._replace(entries=1)
        machine.initial = self.initial[0], self.initial[1][:1]
        return machine

    def moves(self, place: int, entries: Numbers) -> Iterator[Move]:
        """Yield everything that can happen in a state."""
        for index, entry in enumerate(entries):
            before, after = entries[:index], entries[index + 1 :]
            for target, step in self.entry_moves(place, entry):
                yield Move(place, (*before, target, *after), step, index, not step.fault)
        for options in zip(*(self.common_moves(place, entry) for entry in entries), strict=True):
            for choice in product(*options):
                place_after, is_progress, _, step = next((each for each in choice if each[3].violation), choice[0])
                yield Move(place_after, tuple(each[2] for each in choice), step, None, is_progress)

    def encode(self, place: int, entries: Numbers, *, is_last: bool) -> int:
        """Return the integer of all states that differ only in names.

        If the group cannot be lost again (`is_last`), states that differ only in their history have one integer too.
        """
        code, orders = self.sorted(place)
        if is_last:
            entries = tuple(self.without_history(place, entry) for entry in entries)
        renamed = self.renamed
        for entry in min([sorted([renamed(order, entry) for entry in entries]) for order in orders]):
            code = code << BITS | entry
        return code

    def decode(self, code: int) -> tuple[int, Numbers]:
        """Return the place and the entries of a state."""
        mask = (1 << BITS) - 1
        entries = tuple(code >> BITS * index & mask for index in reversed(range(self.bounds.entries)))
        return code >> BITS * self.bounds.entries, entries

    def is_settled(self, code: int) -> bool:
        """Return True if the group is present and each entry has ended."""
        place, entries = self.decode(code)
        return self.place_list[place][0] == PRESENT and all(self.has_ended(place, entry) for entry in entries)

    def _place(self, group: str, modes: tuple[str, ...]) -> int:
        number = self._places.setdefault((group, modes), len(self._places))
        if number == len(self.place_list):
            self.place_list.append((group, modes))
        return number

    def _entry(self, entry: Entry) -> int:
        number = self._entries.setdefault(entry, len(self._entries))
        if number == len(self.entry_list):
            self.entry_list.append(entry)
        return number

    def _numbered(self, step: Step) -> tuple[int, Step]:
        """Return the number of the entry after the step, and the step without a copy of the entry."""
        number = self._entry(step.entry)
        return number, step._replace(entry=self.entry_list[number])

    def _find_entry_moves(self, place: int, entry: int) -> tuple[tuple[int, Step], ...]:
        steps = entry_steps(self._rules, *self.place_list[place], self.entry_list[entry])
        return tuple(self._numbered(step) for step in steps if step.fault in self._possible)

    def _find_common_moves(self, place: int, entry: int) -> tuple[tuple[tuple[int, bool, int, Step], ...], ...]:
        steps = common_steps(self._rules, *self.place_list[place])
        return tuple(
            tuple(
                (self._place(common.group, common.modes), common.is_progress, *self._numbered(step))
                for step in outcomes(self._rules, common, self.entry_list[entry])
            )
            for common in steps
            if common.fault in self._possible
        )

    def _sort(self, place: int) -> tuple[int, tuple[Numbers, ...]]:
        """Return the place with sorted modes, and all orders of the consumers that sort them."""
        group, modes = self.place_list[place]
        after = tuple(sorted(modes))
        orders = permutations(range(self._names))
        sorting = (order for order in orders if tuple(modes[index] for index in order) == after)
        return self._place(group, after), tuple(sorting)

    def _rename(self, order: Numbers, number: int) -> int:
        entry = self.entry_list[number]
        return self._entry(entry._replace(cells=tuple(entry.cells[index] for index in order)))

    def _forget(self, place: int, number: int) -> int:
        is_present = self.place_list[place][0] == PRESENT
        return self._entry(without_history(self.entry_list[number])) if is_present else number

    def _find_end(self, place: int, entry: int) -> bool:
        """Return True if the entry can end without further faults, after common transitions that depend on the place.

        If all entries of a state can end, they reach a settled state: they take the same common transitions, and then
        each one ends alone. If the group is present and a consumer lives, no common transition is needed.
        """
        group, modes = self.place_list[place]
        if group != PRESENT or LIVE not in modes:
            common = self.common_moves(place, entry)
            options = next(options for options in common if options[0][1])
            return all(self.can_settle(place_after, target) for place_after, _, target, _ in options)
        found, queue = {entry}, [entry]
        for each in queue:
            if self.has_ended(place, each):
                return True
            moves = self.entry_moves(place, each)
            targets = {target for target, step in moves if not step.fault} - found
            found |= targets
            queue += targets
        return False

"""Exhaustive exploration of two entries, with sets of states instead of single states.

Two entries share only the group and the modes of the processes. A step of one entry neither needs nor prevents a step
of the other entry. If one entry can reach the states A without a fault or a common transition, and the other entry the
states B, the pair can therefore reach each combination of A and B: a *box*. `PairExplorer` follows faults and common
transitions from box to box. It reaches the same states as `Explorer`, and a test compares both.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

from tests.protocol_model.explore import STUCK, Explorer, Result
from tests.protocol_model.machine import Machine, Numbers
from tests.protocol_model.state import Budget, Usage

Entries = frozenset[int]


class Box(NamedTuple):
    """Pairs of entries: each entry of `first` with each entry of `second`, or the other way round."""

    first: Entries
    second: Entries

    def is_part(self, of: "Box") -> bool:
        """Return True if the other box contains all pairs of this box."""
        (a, b), (c, d) = self, of
        return (a <= c and b <= d) or (a <= d and b <= c)


class Images(NamedTuple):
    """States that follow the states of a set."""

    faults: dict[str, Entries]
    """After a fault of one entry, by kind."""
    common: list[tuple[int, str, Entries]]
    """After each common transition: the place, the fault, and the entries."""
    broken: set[str]
    """Faults that break a promise, as `step.fault`: the empty string if a promise is broken without a fault."""


class PairExplorer:
    """Search over boxes. States with fewer faults come first."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self._budget = machine, Budget(machine.bounds)
        self.boxes: dict[int, dict[Usage, list[Box]]] = defaultdict(lambda: defaultdict(list))
        """Boxes by place and faults. No box is a part of another one, unless it was reached with other faults."""
        self._queues: dict[Usage, list[tuple[int, Box]]] = {usage: [] for usage in self._budget.usages}
        self._order: dict[Entries, int] = {}
        self._images, self._closed = cache(self._find_images), cache(self._close)

    def run(self) -> Result:
        """Explore all boxes. If an entry breaks a promise, explore one entry alone to get the shortest story."""
        place, entries = self.machine.initial
        start = frozenset(entries)
        self._add(place, self._budget.usages[0], start, start)
        for usage, queue in self._queues.items():
            for place, box in queue:
                if box in self.boxes[place][usage] and self._expand(place, usage, box):
                    return Explorer(self.machine.with_one_entry()).run()
        return self._check_progress()

    def _expand(self, place: int, usage: Usage, box: Box) -> bool:
        """Add the boxes that follow a box. Returns True if a promise is broken."""
        first, second = (self._images(place, entries) for entries in box)
        if any(self._budget.after(usage, fault) for fault in first.broken | second.broken):
            return True
        steps = [(place, kind, entries, box.second) for kind, entries in first.faults.items()]
        steps += [(place, kind, box.first, entries) for kind, entries in second.faults.items()]
        steps += [(*one, other) for one, (_, _, other) in zip(first.common, second.common, strict=True)]
        for place_after, fault, *sets in steps:
            if after := self._budget.after(usage, fault):
                self._add(place_after, after, *sets)
        return False

    def _add(self, place: int, usage: Usage, first: Entries, second: Entries) -> None:
        """Queue a box, unless its states were reached with the same faults or with a part of them."""
        is_last = self._budget.is_last(usage)
        sets = [self._closed(place, is_last, entries) for entries in (first, second)]
        box = Box(*sorted(sets, key=lambda entries: self._order.setdefault(entries, len(self._order))))
        place, _ = self.machine.sorted(place)
        boxes = self.boxes[place]
        if any(box.is_part(each) for part in self._budget.covers(usage) for each in boxes[part]):
            return
        for more in self._budget.usages:
            if usage in self._budget.covers(more):
                boxes[more] = [each for each in boxes[more] if not each.is_part(box)]
        boxes[usage].append(box)
        self._queues[usage].append((place, box))

    def _close(self, place: int, is_last: bool, entries: Entries) -> Entries:
        """Rename the consumers so that their modes are sorted, and add all states that an entry reaches alone."""
        machine = self.machine
        place, (order, *_) = machine.sorted(place)
        found = set[int]()
        queue = [machine.renamed(order, entry) for entry in entries]
        while queue:
            entry = queue.pop()
            if is_last:
                entry = machine.without_history(place, entry)
            if entry not in found:
                found.add(entry)
                queue += [target for target, step in machine.entry_moves(place, entry) if not step.fault]
        return frozenset(found)

    def _find_images(self, place: int, entries: Entries) -> Images:
        faults, broken = defaultdict[str, set[int]](set), set[str]()
        common = dict[tuple[int, int, str], set[int]]()
        for entry in entries:
            for target, step in self.machine.entry_moves(place, entry):
                if step.violation:
                    broken.add(step.fault)
                if step.fault:
                    faults[step.fault].add(target)
            for index, options in enumerate(self.machine.common_moves(place, entry)):
                for place_after, _, target, step in options:
                    common.setdefault((index, place_after, step.fault), set()).add(target)
                    if step.violation:
                        broken.add(step.fault)
        return Images(
            {kind: frozenset(each) for kind, each in faults.items()},
            [(place_after, fault, frozenset(each)) for (_, place_after, fault), each in common.items()],
            broken,
        )

    def _check_progress(self) -> Result:
        """Verify that all states of all boxes can settle."""
        for place, entries in self.entries().items():
            for entry in entries:
                if not self.machine.can_settle(place, entry):
                    text = f"{self.machine.place_list[place]} {self.machine.entry_list[entry]}"
                    return Result(violation=STUCK, story=[text])
        return Result(states=self.count())

    def entries(self) -> dict[int, set[int]]:
        """Return the reached states of an entry by place."""
        return {
            place: {entry for boxes in by_usage.values() for box in boxes for entry in box.first | box.second}
            for place, by_usage in self.boxes.items()
        }

    def pairs(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield all reached states, with repetitions."""
        for place, by_usage in self.boxes.items():
            for boxes in by_usage.values():
                for box in boxes:
                    yield from ((place, pair) for pair in product(*box))

    def count(self) -> int:
        """Return the number of reached states that do not differ only in the names of consumers and entries.

        Burnside's lemma: the number of classes is the average number of states that a renaming does not change.
        """
        return sum(map(self._count_in, self.boxes))

    def _count_in(self, place: int) -> int:
        _, orders = self.machine.sorted(place)
        partners = self._partners(place, orders)
        unchanged = 0
        for order in orders:
            renamed = {entry: self.machine.renamed(order, entry) for entry in partners}
            fixed = sum(1 << entry for entry, after in renamed.items() if entry == after)
            unchanged += sum((each & fixed).bit_count() for entry, each in partners.items() if fixed >> entry & 1)
            unchanged += sum(
                partners[entry] >> after & 1 for entry, after in renamed.items() if renamed[after] == entry
            )
        return unchanged // (2 * len(orders))

    def _partners(self, place: int, orders: Iterable[Numbers]) -> dict[int, int]:
        """Return the entries with which each entry forms a reached pair, as bits."""

        @cache
        def bits(entries: Entries, order: Numbers) -> int:
            return sum(1 << self.machine.renamed(order, entry) for entry in entries)

        linked, partners = defaultdict[tuple[Entries, Numbers], int](int), defaultdict[int, int](int)
        boxes = {box for boxes in self.boxes[place].values() for box in boxes}
        for (first, second), order in product(boxes, orders):
            linked[first, order] |= bits(second, order)
            linked[second, order] |= bits(first, order)
        for (entries, order), others in linked.items():
            for entry in entries:
                partners[self.machine.renamed(order, entry)] |= others
        return partners

"""Exhaustive exploration of the model, and random walks for larger bounds.

States with fewer faults come first. A state that was reached with a part of the faults covers the same state with more
faults, because everything that follows the second also follows the first. `Explorer` therefore expands each state once
per minimal set of faults.
"""

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field

from tests.protocol_model.machine import Machine, Move, Numbers
from tests.protocol_model.state import FAULTS, Budget, Usage

STUCK = "no settled state can be reached without further faults"


@dataclass
class Result:
    """Result of an exploration."""

    states: int = 0
    transitions: int = 0
    settled: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    """Number of transitions that start a permitted duplicate, by reason."""
    violation: str = ""
    story: list[str] = field(default_factory=list)
    """Shortest path to the violation."""


class Explorer:
    """Breadth-first search from the initial state."""

    def __init__(self, machine: Machine) -> None:
        self.result, self.machine, self._budget = Result(), machine, Budget(machine.bounds)
        usages = self._budget.usages
        self._queues = {usage: array("I") for usage in usages}
        self._bits = {usage: 1 << index for index, usage in enumerate(usages)}
        self._covers = {usage: sum(self._bits[each] for each in self._budget.covers(usage)) for usage in usages}
        self._after = {(usage, kind): self._budget.after(usage, kind) for usage in usages for kind in ("", *FAULTS)}
        self.codes: list[int] = []
        self._numbers: dict[int, int] = {}
        self._reached = array("Q")
        """Bits of the usages with which each state was reached. Bounds have at most 64 usages."""
        self._parents = array("l")
        self._sources, self._targets = array("I"), array("I")
        """Transitions that are progress, as numbers of states."""

    def run(self) -> Result:
        """Explore all states, up to the first violation."""
        self._visit(*self.machine.initial, -1, self._budget.usages[0])
        for usage in self._budget.usages:
            lower = self._covers[usage] ^ self._bits[usage]
            for number in self._queues[usage]:
                if not self._reached[number] & lower and self._expand(number, usage):
                    return self.result
            del self._queues[usage]
        return self._check_progress()

    def _expand(self, number: int, usage: Usage) -> bool:
        """Visit the states that follow a state. Returns True if a promise is broken."""
        result, is_first = self.result, self._reached[number] & -self._reached[number] == self._bits[usage]
        for move in self.machine.moves(*self.machine.decode(self.codes[number])):
            after = self._after[usage, move.step.fault]
            if after is None:
                continue
            result.transitions += 1
            if move.step.counted:
                result.counted[move.step.counted] += 1
            if move.step.violation:
                self._violated(move.step.violation, number, move)
                return True
            target = self._visit(move.place, move.entries, number, after)
            if move.is_progress and is_first and target != number:
                self._sources.append(number)
                self._targets.append(target)
        return False

    def _visit(self, place: int, entries: Numbers, parent: int, usage: Usage) -> int:
        """Queue a state, unless it was reached with the same faults or with a part of them. Returns its number."""
        code = self.machine.encode(place, entries, is_last=self._budget.is_last(usage))
        number = self._numbers.setdefault(code, len(self.codes))
        if number == len(self.codes):
            self.codes.append(code)
            self._parents.append(parent)
            self._reached.append(0)
        if not self._reached[number] & self._covers[usage]:
            self._reached[number] |= self._bits[usage]
            self._queues[usage].append(number)
        return number

    def _check_progress(self) -> Result:
        """Search backwards from the settled states. Every state must be found."""
        count = self.result.states = len(self.codes)
        offsets = array("I", [0]) * (count + 1)
        for target in self._targets:
            offsets[target + 1] += 1
        for index in range(count):
            offsets[index + 1] += offsets[index]
        free, sources = array("I", offsets), array("I", self._sources)
        for source, target in zip(self._sources, self._targets, strict=True):
            sources[free[target]] = source
            free[target] += 1
        found = bytearray(map(self.machine.is_settled, self.codes))
        queue = [number for number, is_settled in enumerate(found) if is_settled]
        self.result.settled = len(queue)
        while queue:
            number = queue.pop()
            for source in sources[offsets[number] : offsets[number + 1]]:
                if not found[source]:
                    found[source] = 1
                    queue.append(source)
        if (stuck := found.find(0)) >= 0:
            self._violated(STUCK, stuck)
        return self.result

    def _violated(self, violation: str, number: int, last: Move | None = None) -> None:
        path = [number]
        while self._parents[path[-1]] >= 0:
            path.append(self._parents[path[-1]])
        self.result.violation, self.result.states = violation, len(self.codes)
        self.result.story = tell(self.machine, [self.codes[each] for each in reversed(path)], last)


def tell(machine: Machine, path: list[int], last: Move | None) -> list[str]:
    """Return a path of states as sentences, in which each consumer and entry keeps its name."""
    place, entries = machine.initial
    story = []
    for goal in path[1:]:
        move = next(each for each in machine.moves(place, entries) if goal in _codes(machine, each))
        story.append(sentence(move))
        place, entries = move.place, move.entries
    if last is not None:
        end = (last.step.fault, last.step.violation)
        moves = machine.moves(place, entries)
        story.append(sentence(next(each for each in moves if (each.step.fault, each.step.violation) == end)))
    return story


def _codes(machine: Machine, move: Move) -> tuple[int, int]:
    with_history = machine.encode(move.place, move.entries, is_last=False)
    return with_history, machine.encode(move.place, move.entries, is_last=True)


def sentence(move: Move) -> str:
    """Return the transition as a sentence."""
    if move.changed is None:
        return move.step.text
    if move.step.consumer is None:
        return f"entry {move.changed} {move.step.text}"
    return f"consumer {move.step.consumer}, entry {move.changed}: {move.step.text}"


def walk(machine: Machine, seed: int, steps: int) -> Result:
    """Take random steps from the initial state, up to the first violation. Each step changes the state."""
    generator, remaining, result = random.Random(seed), Counter(machine.bounds.faults), Result()
    place, entries = machine.initial
    for _ in range(steps):
        choices = [
            each
            for each in machine.moves(place, entries)
            if (each.place, each.entries) != (place, entries) and (not each.step.fault or remaining[each.step.fault])
        ]
        if not choices:
            break
        move = generator.choice(choices)
        result.transitions += 1
        result.counted[move.step.counted] += bool(move.step.counted)
        result.story.append(sentence(move))
        remaining[move.step.fault] -= 1
        place, entries = move.place, move.entries
        result.violation = move.step.violation
        if not all(machine.can_settle(place, entry) for entry in entries):
            result.violation = result.violation or STUCK
        if result.violation:
            return result
    result.story.clear()
    return result

"""Exhaustive exploration of the model, and random walks for larger bounds.

States with fewer faults come first. A state that was reached with a part of the faults covers the same state with more
faults, because everything that follows the second also follows the first. `explore` therefore stores each canonical
state once per minimal set of faults.
"""

import random
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field

from tests.protocol_model.scripts import Rules
from tests.protocol_model.state import FAULTS, PRESENT, Bounds, State, canonical, initial_state, without_history
from tests.protocol_model.transitions import Transition, is_settled, transitions

Usage = tuple[int, ...]
LOSSES = FAULTS.index("losses")
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

    def __init__(self, bounds: Bounds, rules: Rules = frozenset()) -> None:
        self._bounds, self._rules, self.result = bounds, rules, Result()
        self._limits = tuple(bounds.faults.values())
        self.states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._usages: list[list[Usage]] = []
        self._parents = array("q")
        self._sources, self._targets = array("q"), array("q")
        """Transitions that are progress, as numbers of states."""

    def run(self) -> Result:
        """Explore all states, up to the first violation."""
        result = self.result
        no_faults = (0,) * len(FAULTS)
        first = canonical(self._relevant(initial_state(self._bounds), no_faults))
        layers: list[deque[tuple[int, Usage]]] = [deque() for _ in range(sum(self._limits) + 1)]
        self._add(first, -1, no_faults)
        layers[0].append((0, no_faults))
        for layer in layers:
            while layer:
                number, usage = layer.popleft()
                if usage not in self._usages[number]:
                    continue  # reached with fewer faults since
                is_first = self._usages[number][0] == usage
                for step in transitions(self._rules, self.states[number]):
                    after_usage = self._use(usage, step.fault)
                    if after_usage is None:
                        continue
                    result.transitions += 1
                    result.counted[step.counted] += bool(step.counted)
                    if step.violation:
                        return self._violated(step.violation, number, step)
                    after = canonical(self._relevant(step.state, after_usage))
                    target = self._numbers.get(after)
                    if target is None:
                        target = self._add(after, number, after_usage)
                    elif self._is_covered(target, after_usage):
                        after_usage = None
                    else:
                        self._usages[target].append(after_usage)
                    if after_usage is not None:
                        layers[sum(after_usage)].append((target, after_usage))
                    if step.is_progress and is_first and target != number:
                        self._sources.append(number)
                        self._targets.append(target)
        result.states = len(self.states)
        return self._check_progress()

    def _relevant(self, state: State, usage: Usage) -> State:
        """Return the state without the snapshot if the group cannot be lost again."""
        is_last = state.group == PRESENT and usage[LOSSES] == self._limits[LOSSES]
        return without_history(state) if is_last else state

    def _use(self, usage: Usage, fault: str) -> Usage | None:
        """Return the usage after a fault. None if no further fault of this kind is permitted."""
        if not fault:
            return usage
        index = FAULTS.index(fault)
        if usage[index] == self._limits[index]:
            return None
        return (*usage[:index], usage[index] + 1, *usage[index + 1 :])

    def _is_covered(self, number: int, usage: Usage) -> bool:
        return any(all(a <= b for a, b in zip(known, usage, strict=True)) for known in self._usages[number])

    def _add(self, state: State, parent: int, usage: Usage) -> int:
        number = self._numbers[state] = len(self.states)
        self.states.append(state)
        self._parents.append(parent)
        self._usages.append([usage])
        return number

    def _check_progress(self) -> Result:
        """Search backwards from the settled states. Every state must be found."""
        offsets = array("q", [0]) * (len(self.states) + 1)
        for target in self._targets:
            offsets[target + 1] += 1
        for index in range(len(self.states)):
            offsets[index + 1] += offsets[index]
        free, sources = array("q", offsets), array("q", self._sources)
        for source, target in zip(self._sources, self._targets, strict=True):
            sources[free[target]] = source
            free[target] += 1
        found = bytearray(len(self.states))
        queue = [number for number, state in enumerate(self.states) if is_settled(state)]
        self.result.settled = len(queue)
        for number in queue:
            found[number] = 1
        while queue:
            number = queue.pop()
            for source in sources[offsets[number] : offsets[number + 1]]:
                if not found[source]:
                    found[source] = 1
                    queue.append(source)
        stuck = found.find(0)
        return self._violated(STUCK, stuck) if stuck >= 0 else self.result

    def _violated(self, violation: str, number: int, last: Transition | None = None) -> Result:
        path = [number]
        while self._parents[path[-1]] >= 0:
            path.append(self._parents[path[-1]])
        self.result.violation = violation
        self.result.story = tell(self._rules, self._bounds, [self.states[each] for each in reversed(path)], last)
        self.result.states = len(self.states)
        return self.result


def tell(rules: Rules, bounds: Bounds, path: list[State], last: Transition | None) -> list[str]:
    """Return a path of canonical states as sentences, in which each consumer and entry keeps its name."""
    state, story = initial_state(bounds), []
    for goal in path[1:]:
        step = next(each for each in transitions(rules, state) if goal in _representatives(each.state))
        story.append(sentence(step))
        state = step.state
    if last is not None:
        end = (last.fault, last.violation)
        story.append(sentence(next(each for each in transitions(rules, state) if (each.fault, each.violation) == end)))
    return story


def _representatives(state: State) -> tuple[State, State]:
    return canonical(state), canonical(without_history(state))


def sentence(step: Transition) -> str:
    """Return the transition as a sentence."""
    consumer, _, rest = step.text.rpartition("||") if "||" in step.text else ("", "", step.text)
    if consumer:
        return f"consumer {consumer} {rest}"
    if "|" not in rest:
        return rest
    consumer, number, text = rest.split("|")
    return f"consumer {consumer}, entry {number}: {text}" if consumer else f"entry {number}: {text}"


def walk(bounds: Bounds, rules: Rules, seed: int, steps: int) -> Result:
    """Take random steps from the initial state, up to the first violation."""
    generator, limits = random.Random(seed), dict(bounds.faults)
    state, result = initial_state(bounds), Result()
    for _ in range(steps):
        choices = [each for each in transitions(rules, state) if not each.fault or limits[each.fault]]
        if not choices:
            break
        step = generator.choice(choices)
        result.transitions += 1
        result.counted[step.counted] += bool(step.counted)
        result.story.append(sentence(step))
        if step.fault:
            limits[step.fault] -= 1
        if step.violation:
            result.violation = step.violation
            return result
        state = step.state
    result.story.clear()
    return result

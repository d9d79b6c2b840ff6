"""Coverage: which fault hit which await point of the engine, and which operation met an entry in which state."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.await_points import AwaitPoint, all_points, points_of
from tests.simulation.fault_effects import has_effect
from tests.simulation.faults import POD_FAULTS
from tests.simulation.loop import Process
from tests.simulation.plan import FaultPlan
from tests.simulation.server import Arguments
from tests.simulation.simulation import Simulation
from tests.simulation.trace import operation_name
from tests.simulation.unreached import Reason, false_reasons, reason_of

STATES = ("unread", "owned", "postponed", "settled", "orphaned", "gone")

POD_FAULT_NAMES = frozenset(each.__name__ for each in POD_FAULTS)

Pair = tuple[AwaitPoint, str]


@dataclass
class Coverage:
    """Pairs and states that simulations have reached."""

    pairs: Counter[Pair] = field(default_factory=Counter)
    """How many times a fault with an effect started while a task was suspended at an await point."""
    points: Counter[AwaitPoint] = field(default_factory=Counter)
    """How many times a task was suspended at an await point."""
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many times an operation named an entry, by the state of the entry and the operation."""
    violations: dict[str, str] = field(default_factory=dict)
    """Seed with the fewest faults by violated invariant."""
    violating: Counter[str] = field(default_factory=Counter)
    """Number of simulations by violated invariant."""
    runs: int = 0

    def add(self, other: "Coverage") -> None:
        """Add what another simulation has reached."""
        self.runs += other.runs
        self.pairs += other.pairs
        self.points += other.points
        self.operations += other.operations
        self.violating += other.violating
        for invariant, seed in other.violations.items():
            known = self.violations.setdefault(invariant, seed)
            self.violations[invariant] = min(known, seed, key=lambda each: (each.count("+"), len(each), each))

    def missing(self, kinds: Iterable[str]) -> list[Pair]:
        """Return the pairs that no simulation has reached, without those for which a reason is known."""
        return [
            (point, kind)
            for kind in kinds
            for point in all_points()
            if not self.pairs[point, kind] and not reason_of(point, kind)
        ]

    # -- recording of one simulation -----------------------------------------------------------------------------------

    def observe(self, simulation: Simulation) -> None:
        """Record a simulation that is about to run."""

        def on_fault(fault: FaultPlan) -> None:
            if has_effect(simulation, fault):
                self.pairs.update((point, fault.kind) for point in points_hit(simulation, fault))

        def on_command(arguments: Arguments, reply: Any) -> None:
            named = {*arguments, *_all_bytes(reply)}
            name = operation_name(arguments)
            for record in simulation.ledger.records.values():
                if record.entry_id.encode() in named:
                    self.operations[record.state, name] += 1

        simulation.on_fault, simulation.on_command = on_fault, on_command

    # -- report --------------------------------------------------------------------------------------------------------

    def to_json(self, kinds: tuple[str, ...]) -> str:
        """Return the tables as JSON."""
        return json.dumps(
            {
                "runs": self.runs,
                "pairs": sorted([point.name, kind, count] for (point, kind), count in self.pairs.items()),
                "missing": sorted([point.name, kind] for point, kind in self.missing(kinds)),
                "operations": sorted([*pair, count] for pair, count in self.operations.items()),
                "violations": {name: [self.violating[name], seed] for name, seed in sorted(self.violations.items())},
            },
            indent=1,
        )

    def lines(self, kinds: tuple[str, ...]) -> Iterator[str]:
        """Yield both tables."""
        pairs = [(point, kind) for kind in kinds for point in all_points()]
        reached = sum(bool(self.pairs[pair]) for pair in pairs)
        yield f"{self.runs} simulations: {reached} of {len(pairs)} pairs of await point and fault were reached"
        excused: defaultdict[Reason, list[Pair]] = defaultdict(list)
        for pair in pairs:
            if not self.pairs[pair] and (reason := reason_of(*pair)):
                excused[reason].append(pair)
        yield f"{sum(map(len, excused.values()))} pairs cannot be reached:"
        for reason, excused_pairs in excused.items():
            yield f"  {reason.text}: {len(excused_pairs)} pairs"
            yield from _pair_lines(excused_pairs, kinds)
        missing = self.missing(kinds)
        yield f"{len(missing)} other pairs were not reached{':' * bool(missing)}"
        yield from _pair_lines(missing, kinds)
        for point, kind in false_reasons(self.pairs):
            yield f"was reached, although a reason says that it cannot be: {kind} at {point}"
        yield ""
        yield f"{'operation':28}{''.join(f'{state:>11}' for state in STATES)}"
        for name in sorted({name for _, name in self.operations}):
            yield f"{name:28}{''.join(f'{self.operations[state, name]:11}' for state in STATES)}"


def points_hit(simulation: Simulation, fault: FaultPlan) -> set[AwaitPoint]:
    """Return the points that a fault hits now: of the pod, or of all pods for a fault of the server."""
    if fault.kind in POD_FAULT_NAMES:
        return suspended_at(simulation, simulation.pod(fault.pod).process)
    return {point for pod in simulation.all_pods for point in suspended_at(simulation, pod.process)}


def suspended_at(simulation: Simulation, process: Process) -> set[AwaitPoint]:
    """Return the points at which the tasks of a process are suspended. Empty if the process has ended."""
    tasks = () if process.is_dead else simulation.loop.tasks_of(process)
    return {point for task in tasks for point in points_of(task.get_coro())}


def _pair_lines(pairs: Iterable[Pair], kinds: tuple[str, ...]) -> Iterator[str]:
    by_point: defaultdict[AwaitPoint, list[str]] = defaultdict(list)
    for point, kind in pairs:
        by_point[point].append(kind)
    for point, absent in sorted(by_point.items()):
        yield f"    {point}: {'all faults' if len(absent) == len(kinds) else ', '.join(absent)}"


def _all_bytes(reply: Any) -> Iterator[bytes]:
    if isinstance(reply, bytes):
        yield reply
    elif isinstance(reply, list):
        for each in reply:
            yield from _all_bytes(each)

"""Regression cases: stored plans, each of which has shown one fault of the engine.

A file in `regressions/` contains a case as JSON. While `is_fixed` is false, the simulation must still violate the
promise, so that a repaired fault does not stay in the list. When it is true, the simulation must be clean.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.simulation.plan import Plan

FOLDER = Path(__file__).with_name("regressions")


@dataclass(frozen=True)
class Regression:
    """Stored plan of a fault."""

    name: str
    finding: str
    """Name of the fault in the list of known faults."""
    title: str
    """Sentence about the fault."""
    invariant: str
    """Promise that the fault violates."""
    is_fixed: bool
    server: str
    """Server program on which the fault was found."""
    plan: Plan

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a case from its file."""
        values: dict[str, Any] = json.loads(path.read_text())
        plan = Plan.from_dict(values.pop("plan"))
        return cls(name=path.stem, plan=plan, **values)


def regression_json(plan: Plan, invariant: str, server: str) -> str:
    """Return the content of a file for a new case. Its author adds the finding and the title."""
    values = {"finding": "", "title": "", "invariant": invariant, "is_fixed": False, "server": server}
    return json.dumps({**values, "plan": plan.to_dict()}, indent=1)


def load_all() -> list[Regression]:
    """Return all cases, sorted by name."""
    return [Regression.load(path) for path in sorted(FOLDER.glob("*.json"))]

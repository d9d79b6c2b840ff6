"""Regression cases: stored plans, each of which has shown one fault of the engine.

A file in `regressions/` contains a case as JSON. While `is_fixed` is false, the simulation must still violate the
promise, so that a repaired fault does not stay in the list. When it is true, the simulation must be clean.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.simulation.plan import SECOND, Plan
from tests.simulation.records import Violation

FOLDER = Path(__file__).with_name("regressions")


@dataclass(frozen=True)
class Signature:
    """Facts by which a violation in any plan shows a certain fault. An empty field fits all plans."""

    text: str = ""
    """Regular expression that the text of the violation contains."""
    faults: tuple[str, ...] = ()
    """Kinds of faults, one of which must have started before the violation."""
    handlers: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    min_pods: int = 0
    min_messages: int = 0

    def fits(self, plan: Plan, violation: Violation) -> bool:
        """Return True if the violation has the signature."""
        kinds = {fault.kind for fault in plan.faults if fault.at / SECOND < violation.at + 0.001}
        handlers, managers = ({getattr(pod, name) for pod in plan.pods} for name in ("handler", "manager"))
        pairs = ((self.faults, kinds), (self.handlers, handlers), (self.managers, managers))
        return (
            bool(re.search(self.text, violation.text))
            and all(not wanted or actual & set(wanted) for wanted, actual in pairs)
            and len(plan.pods) >= self.min_pods
            and sum(message.count for message in plan.messages) >= self.min_messages
        )


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
    signature: Signature
    """Facts by which a violation of `invariant` in another plan shows the same fault."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a case from its file."""
        values: dict[str, Any] = json.loads(path.read_text())
        plan = Plan.from_dict(values.pop("plan"))
        signature = Signature(**values.pop("signature"))
        return cls(name=path.stem, plan=plan, signature=signature, **values)

    def is_shown_by(self, plan: Plan, violations: Iterable[Violation]) -> bool:
        """Return True if the violations of a plan show this fault."""
        return any(each.invariant == self.invariant and self.signature.fits(plan, each) for each in violations)


def regression_json(plan: Plan, invariant: str, server: str) -> str:
    """Return the content of a file for a new case. Its author adds the finding, the title and the signature."""
    values = {"finding": "", "title": "", "invariant": invariant, "is_fixed": False, "server": server, "signature": {}}
    return json.dumps({**values, "plan": plan.to_dict()}, indent=1)


def load_all() -> list[Regression]:
    """Return all cases, sorted by name."""
    return [Regression.load(path) for path in sorted(FOLDER.glob("*.json"))]

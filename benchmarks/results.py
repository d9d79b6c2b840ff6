"""Writer of RESULTS.md. Replaces the tables between the markers of each workload and keeps the text around them."""

import operator
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
COMPARE = {"at least": operator.ge, "at most": operator.le, "under": operator.lt}


@dataclass(frozen=True)
class Goal:
    """Bound of a figure, with the measured value."""

    name: str
    bound: str
    """`at least`, `at most` or `under`."""
    limit: float
    measured: float
    digits: int = 2
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """True if the value, rounded to the printed digits, is within the bound."""
        return bool(COMPARE[self.bound](round(self.measured, self.digits), self.limit))

    def row(self) -> list[str]:
        limit, measured = f"{self.limit:,.10g}", f"{self.measured:,.{self.digits}f}"
        unit = f" {self.unit}" if self.unit else ""
        return [self.name, f"{self.bound} {limit}{unit}", f"{measured}{unit}", "yes" if self.is_met else "**no**"]


@dataclass(frozen=True)
class Section:
    """Result of one workload."""

    name: str
    facts: str
    """Conditions of the measurement, in one sentence."""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    goals: Sequence[Goal] = field(default_factory=list)
    notes: Sequence[str] = ()
    closing: Sequence[str] = ()

    def text(self) -> str:
        parts = [f"{_machine()}; {self.facts}", *self.notes]
        if self.rows:
            parts.append(table(self.head, self.rows))
        if self.goals:
            parts.append(table(["goal", "bound", "measured", "met"], [goal.row() for goal in self.goals]))
        return "\n\n".join([*parts, *self.closing])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def write_section(section: Section, path: Path = RESULTS) -> None:
    """Write the section between its markers. A section without markers is appended at the end."""
    begin, end = f"<!-- begin {section.name} -->", f"<!-- end {section.name} -->"
    text = path.read_text()
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    path.write_text(f"{head}{begin}\n{section.text()}\n{end}{tail}")


def _machine() -> str:
    return f"CPython {platform.python_version()}, {os.cpu_count()} cores"

"""Mutant: one mechanical change of a function or a Lua script."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

Change = Literal["delete", "negate", "drop"]
"""A statement is deleted, a condition is negated, or one operand of `and` or `or` is dropped."""

MAX_DIFF_LINES = 8


@dataclass(frozen=True)
class Edit:
    """Change of a text: the characters from `start` to `end` are replaced by `new`."""

    change: Change
    start: int
    end: int
    new: str
    subject: str
    """Text of the deleted statement, of the negated condition or of the dropped operand."""
    statement: int
    """Start of the innermost statement that contains the change."""

    def apply(self, text: str) -> str:
        """Return the changed text."""
        return text[: self.start] + self.new + text[self.end :]


@dataclass(frozen=True)
class Mutant:
    """An edit of a function or a script, and its place."""

    path: str
    """Path of the module in the package."""
    place: str
    """Qualified name of the function, or name of the constant that contains the script."""
    line: int
    edit: Edit
    text: str
    """Text that the edit changes: the whole module, or the script."""
    reached_by: frozenset[str]
    """Marks of the code that a seed or test must execute to notice the mutant. One of them is enough."""
    is_script: bool = False
    """True if the text is a Lua script."""
    occurrence: int = 1
    """Number of this mutant among the mutants of the place with the same description, from 1."""

    @property
    def location(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def description(self) -> str:
        """Description that does not change when code above the mutant changes."""
        words = " ".join(self.edit.subject.split())
        return f"{self.edit.change} `{words}`" + (f" #{self.occurrence}" if self.occurrence > 1 else "")

    @property
    def mutated(self) -> str:
        """The changed text."""
        return self.edit.apply(self.text)

    def diff(self) -> str:
        """Return the changed lines."""
        begin = self.text.rfind("\n", 0, self.edit.start) + 1
        end = self.text.find("\n", self.edit.end)
        end = len(self.text) if end < 0 else end
        old = self.text[begin:end]
        new = self.text[begin : self.edit.start] + self.edit.new + self.text[self.edit.end : end]
        return "\n".join([*_marked("-", old), *_marked("+", new)])


def _marked(mark: str, text: str) -> list[str]:
    lines = [f"{mark} {line}" for line in text.split("\n") if line.strip()]
    return lines if len(lines) <= MAX_DIFF_LINES else [*lines[: MAX_DIFF_LINES - 1], f"{mark} …"]


def with_occurrences(mutants: list[Mutant]) -> list[Mutant]:
    """Number the mutants that have the same place and description."""
    counts: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for mutant in mutants:
        key = (mutant.path, mutant.place, mutant.description)
        counts[key] += 1
        numbered.append(replace(mutant, occurrence=counts[key]))
    return numbered

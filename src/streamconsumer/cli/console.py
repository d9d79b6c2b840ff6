"""Output of the commands. Commands print only through this module, which escapes unprintable characters and adds
colors.

Almost every line contains untrusted text: names, server errors, handler exceptions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

from streamconsumer.text import printable, printable_lines, to_json


@dataclass(frozen=True)
class StyledLine:
    """A line whose start is bold and may have a color. click omits styles if the output is not a terminal."""

    start: str
    rest: str = ""
    color: str | None = None

    def __str__(self) -> str:
        """Return the line with the escape sequences of its style."""
        return click.style(printable(self.start), fg=self.color, bold=True) + printable(self.rest)


Line = str | StyledLine


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text. All unprintable characters except line feeds are escaped."""
    click.echo(printable_lines(text), err=err, nl=nl)


def echo_lines(lines: Iterable[Line]) -> None:
    """Print lines. If the text of a line contains a line feed, the line feed is escaped."""
    click.echo("\n".join(str(line) if isinstance(line, StyledLine) else printable(line) for line in lines))


def echo_json(document: Any) -> None:
    """Print a JSON document. Unprintable characters are escaped as JSON specifies, so that a JSON parser returns the
    original texts."""
    click.echo(to_json(document))


def confirm(question: str) -> bool:
    """Ask a question on standard error."""
    return click.confirm(printable(question), err=True)

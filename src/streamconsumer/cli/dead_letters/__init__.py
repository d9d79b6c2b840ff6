"""`streamconsumer dead-letters …`: what could not be handled, looked at, replayed, dropped.

Here are the words of the command line; work (the commands), output (pure).
"""

import re
import sys
from datetime import timedelta
from typing import Any

import click

from streamconsumer.cli.status import TARGET_OPTIONS, ConsumerNameParam, with_options
from streamconsumer.model.fields import parse_duration

_ENTRY_ID = re.compile("[0-9]+-[0-9]+")


class _EntryIdParam(click.ParamType[str]):
    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _ENTRY_ID.fullmatch(value):
            self.fail(f"{value!r} is not the id of an entry, such as 1795492081416-0", param, ctx)
        return value


class _DurationParam(click.ParamType[timedelta]):
    """`30s`, `1m30s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


_TARGET_OPTIONS = (
    click.option("--name", type=ConsumerNameParam(), help="The StreamConsumer, in the cluster."),
    *TARGET_OPTIONS,
    click.option("--dead-letter-stream", help="The key of the dead letters, if it is not the usual one."),
)
_FILTER_OPTIONS = (
    click.option("--reason", "reasons", multiple=True, help="Those of this reason; may be given several times."),
    click.option("--older-than", type=_DurationParam(), help="Dead letters for longer than this, such as 1h30m."),
)
_SELECTION_OPTIONS = (
    click.argument("ids", nargs=-1, type=_EntryIdParam()),
    *_FILTER_OPTIONS,
    click.option("--all", "everything", is_flag=True, help="All of this group."),
    click.option("--dry-run", is_flag=True, help="Only list them."),
)


def _run(command: str, options: dict[str, Any]) -> None:
    from streamconsumer.cli.dead_letters import run

    sys.exit(run.run(command, options))


@click.group()
def dead_letters() -> None:
    """List, show, replay or drop the messages that could not be handled.

    Say where to look with --name NAME (a StreamConsumer in the cluster), or with --redis-url, --stream and --group; in
    a processor's pod nothing is needed.
    Exit code 0: done; 1: something was refused; 2: wrong use; 3: the server failed.
    """


@dead_letters.command("list")
@with_options(*_TARGET_OPTIONS, *_FILTER_OPTIONS)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(**options: Any) -> None:
    """Print one line a dead letter, oldest first, or all that is known of them as one JSON document."""
    _run("list", options)


@dead_letters.command()
@click.argument("dead_letter_id", metavar="ID", type=_EntryIdParam())
@with_options(*_TARGET_OPTIONS)
def show(**options: Any) -> None:
    """Print one dead letter: its fields, and what it failed of."""
    _run("show", options)


@dead_letters.command()
@with_options(*_TARGET_OPTIONS, *_SELECTION_OPTIONS)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=100, show_default=True, help="So many a second."
)
def replay(**options: Any) -> None:
    """Add messages to their stream again, and delete their dead letters, each in one step.

    The other groups of the stream are given the new entries too, and processors in them pass them over. It does no harm
    to run this twice, even at the same time, or to interrupt it: what is replayed already is not replayed again.
    """
    _run("replay", options)


@dead_letters.command()
@with_options(*_TARGET_OPTIONS, *_SELECTION_OPTIONS)
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(**options: Any) -> None:
    """Delete dead letters for good."""
    _run("drop", options)

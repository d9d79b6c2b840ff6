"""The commands `dead-letters list`, `show`, `replay` and `drop`.

This module declares the commands. `run` executes the commands, and `output` formats dead letters without side effects.
"""

import re
import sys
from datetime import timedelta
from typing import Any

import click

from streamconsumer.cli.status import OUTPUT_OPTION, TARGET_OPTIONS, ConsumerNameParam, with_options
from streamconsumer.model.fields import parse_duration

_ENTRY_ID = re.compile("[0-9]+-[0-9]+")


class _EntryIdParam(click.ParamType[str]):
    """The id of a stream entry, such as `1795492081416-0`."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _ENTRY_ID.fullmatch(value):
            self.fail(f"{value!r} is not a valid entry id; expected an id such as 1795492081416-0", param, ctx)
        return value


class _DurationParam(click.ParamType[timedelta]):
    """A duration such as `30s` or `1m30s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


_TARGET_OPTIONS = (
    click.option("--name", type=ConsumerNameParam(), help="Name of the StreamConsumer in the cluster."),
    *TARGET_OPTIONS,
    click.option(
        "--dead-letter-stream",
        metavar="KEY",
        show_default="{STREAM}:GROUP:dead-letters",
        help="Redis key of the dead-letter stream.",
    ),
)
_FILTER_OPTIONS = (
    click.option(
        "--reason",
        "reasons",
        metavar="REASON",
        multiple=True,
        help="Select dead letters with this reason. Can be repeated.",
    ),
    click.option(
        "--older-than",
        type=_DurationParam(),
        help="Select dead letters that are older than this duration, such as 1h30m.",
    ),
)
_SELECTION_OPTIONS = (
    click.argument("ids", nargs=-1, type=_EntryIdParam()),
    *_FILTER_OPTIONS,
    click.option("--all", "everything", is_flag=True, help="Select all dead letters of the group."),
    click.option("--dry-run", is_flag=True, help="List the selected dead letters and change nothing."),
)


def _run(command: str, options: dict[str, Any]) -> None:
    from streamconsumer.cli.dead_letters import run

    sys.exit(run.run(command, options))


@click.group()
def dead_letters() -> None:
    """List, show, replay or drop dead letters.

    Select the consumer group with --name, which names a StreamConsumer in the cluster, or with --redis-url, --stream
    and --group. In a pod of a StreamConsumer, the environment variables select the group.

    \b
    Exit codes:
      0  done
      1  an ID is not a dead letter of the group, "show" found nothing,
         or you declined at the prompt
      2  wrong use, or no such StreamConsumer
      3  Redis or the Kubernetes API did not answer or rejected a request
    """


@dead_letters.command("list")
@with_options(*_TARGET_OPTIONS, *_FILTER_OPTIONS)
@OUTPUT_OPTION
def list_(**options: Any) -> None:
    """List dead letters, oldest first.

    "-o json" prints one document with all fields of the messages and all details of the failures.
    """
    _run("list", options)


@dead_letters.command()
@click.argument("dead_letter_id", metavar="ID", type=_EntryIdParam())
@with_options(*_TARGET_OPTIONS)
def show(**options: Any) -> None:
    """Print the fields of one dead letter and the details of its failure."""
    _run("show", options)


@dead_letters.command()
@with_options(*_TARGET_OPTIONS, *_SELECTION_OPTIONS)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=100,
    show_default=True,
    help="Maximum number of replays per second.",
)
def replay(**options: Any) -> None:
    """Add the messages of dead letters to the stream again, and delete the dead letters.

    Each replay is atomic. If you interrupt the command, repeat the command, or run the command twice at the same time,
    no dead letter is replayed twice.

    All groups of the stream receive the new entries. Processors skip the entries that were replayed for another group.

    Select dead letters by IDS, by --reason and --older-than, or by --all.
    """
    _run("replay", options)


@dead_letters.command()
@with_options(*_TARGET_OPTIONS, *_SELECTION_OPTIONS)
@click.option("--yes", is_flag=True, help="Drop without a prompt.")
def drop(**options: Any) -> None:
    """Delete dead letters permanently.

    Select dead letters by IDS, by --reason and --older-than, or by --all.
    """
    _run("drop", options)

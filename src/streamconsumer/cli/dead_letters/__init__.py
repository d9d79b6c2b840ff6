"""`streamconsumer dead-letters …`: what could not be handled, looked at, replayed, dropped.

Here are the words of the command line; work (the commands), output (pure).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.cluster import WHERE, Name, with_options
from streamconsumer.cli.duration import Duration
from streamconsumer.errors import ServerUnavailable

Command = Callable[..., Any]


class _EntryId(click.ParamType[str]):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        milliseconds, dash, sequence = str(value).partition("-")
        if not (
            dash and milliseconds.isascii() and milliseconds.isdigit() and sequence.isascii() and sequence.isdigit()
        ):
            self.fail(f"{value!r} is not the id of an entry, such as 1795492081416-0", param, ctx)
        return f"{int(milliseconds)}-{int(sequence)}"


_TARGET = (
    click.option("-f", "--file", type=click.Path(path_type=Path, allow_dash=True), help="A StreamConsumer's manifest."),
    click.option("--name", type=Name(), help="The StreamConsumer, in the cluster; or which of those in the file."),
    *WHERE,
    click.option("--redis-url", help="The server; wins over that of manifest or StreamConsumer."),
    click.option("--username", help="The ACL user."),
    click.option("--password-file", type=click.Path(path_type=Path), help="Else STREAMCONSUMER_REDIS_PASSWORD."),
    click.option("--stream", help="The stream whose messages failed."),
    click.option("--group", help="The consumer group."),
    click.option("--dead-letter-stream", help="The key of the dead letters, if it is not the usual one."),
)
_FILTER = (
    click.option("--reason", "reasons", multiple=True, help="Those of this reason; may be given several times."),
    click.option("--older-than", type=Duration(), help="Dead letters for longer than this, such as 1h30m."),
    click.option("--newer-than", type=Duration(), help="Dead letters for less long than this."),
    click.option("--origin-id", type=_EntryId(), help="Those of the message first added under this id."),
)
_WHICH = (
    click.argument("ids", nargs=-1, type=_EntryId()),
    *_FILTER,
    click.option("--all", "everything", is_flag=True, help="All of this group."),
    click.option("--dry-run", is_flag=True, help="Only list them."),
)
_OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


def _run(command: str, options: dict[str, Any]) -> None:
    """In its own event loop. A server that fails is no wrong use: exit code 1."""
    from streamconsumer.cli.dead_letters import work

    try:
        sys.exit(work.run(command, options))
    except ServerUnavailable as error:
        click.echo(f"streamconsumer: {type(error).__name__}: {error}", err=True)
        sys.exit(1)


@click.group()
def dead_letters() -> None:
    """List, show, replay or drop the messages that could not be handled.

    Say where to look with --name NAME (a StreamConsumer in the cluster), with -f FILE, or with --redis-url, --stream
    and --group; in a processor's pod nothing is needed.
    Exit code 0: done; 1: something was refused, or the server failed; 2: wrong use.
    """


@dead_letters.command("list")
@with_options(*_TARGET, *_FILTER, _OUTPUT)
def list_(**options: Any) -> None:
    """Print one line a dead letter, oldest first, or all that is known of them as one JSON document."""
    _run("list", options)


@dead_letters.command()
@click.argument("dead_letter_id", metavar="ID", type=_EntryId())
@with_options(*_TARGET, _OUTPUT)
def show(**options: Any) -> None:
    """Print one dead letter: its fields, and what it failed of."""
    _run("show", options)


@dead_letters.command()
@with_options(*_TARGET, *_WHICH)
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
@with_options(*_TARGET, *_WHICH)
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(**options: Any) -> None:
    """Delete dead letters for good."""
    _run("drop", options)

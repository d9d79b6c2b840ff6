"""`streamconsumer group …`: consumer groups of streams.

This module declares the command line. work runs the command, deletion holds the Lua script.
"""

import sys
from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.cluster import COULD_NOT_CHECK, WHERE, Name, with_options
from streamconsumer.errors import GroupKept, ServerUnavailable


@click.group()
def group() -> None:
    """Delete consumer groups."""


@group.command()
@click.argument("name", type=Name(), required=False)
@with_options(*WHERE)
@click.option("--redis-url", help="The server. It replaces the server of the StreamConsumer.")
@click.option("--username", help="The ACL user.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Else STREAMCONSUMER_REDIS_PASSWORD.")
@click.option("--stream", help="The stream, if no StreamConsumer is named.")
@click.option("--group", help="The consumer group, if no StreamConsumer is named.")
@click.option("--dead-letter-stream", help="The key of the dead letters, if it is not the default key.")
@click.option("--yes", is_flag=True, help="Delete without a prompt.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def delete(**options: Any) -> None:
    """Delete the consumer group of the StreamConsumer NAME, its pending entries and its companion keys.

    If the StreamConsumer no longer exists, give --redis-url, --stream and --group instead of NAME. The stream and the
    dead letters stay. Suspend or delete the StreamConsumer first: the command refuses while a consumer is alive.
    Exit code 0: done; 1: refused, or the server failed; 2: wrong use, or no such group; 3: no answer.
    """
    from streamconsumer.cli.group import work

    try:
        sys.exit(work.run(options))
    except GroupKept as error:
        click.echo(f"streamconsumer: {error}", err=True)
        sys.exit(1)
    except ServerUnavailable as error:
        click.echo(f"streamconsumer: {error}", err=True)
        sys.exit(COULD_NOT_CHECK)

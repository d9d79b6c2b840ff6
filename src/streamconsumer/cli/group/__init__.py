"""The command `group delete`.

This module declares the command. `run` executes the command, and `deletion` contains the Lua script.
"""

import sys
from typing import Any

import click

from streamconsumer.cli.status import TARGET_OPTIONS, ConsumerNameParam, with_options


@click.group()
def group() -> None:
    """Delete consumer groups."""


@group.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*TARGET_OPTIONS)
@click.option("--yes", is_flag=True, help="Delete without a prompt.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Output format.",
)
def delete(**options: Any) -> None:
    """Delete a consumer group and its pending entries.

    The command deletes the consumer group of the StreamConsumer NAME, its pending entries and its companion keys.
    Companion keys are the Redis keys in which StreamConsumer stores the state of the group. The stream and the dead
    letters are kept.

    If the StreamConsumer no longer exists, give --redis-url, --stream and --group instead of NAME.

    Suspend or delete the StreamConsumer first, because the command refuses to delete a group with a live consumer.

    \b
    Exit codes:
      0  done
      1  the command refused, or you declined at the prompt
      2  wrong use, no such StreamConsumer, or no such group
      3  Redis or the Kubernetes API did not answer or rejected a request
    """
    from streamconsumer.cli.group import run

    sys.exit(run.run(options))

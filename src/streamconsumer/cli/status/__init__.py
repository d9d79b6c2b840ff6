"""The commands `status`, `suspend` and `resume` for a StreamConsumer in a cluster, and options that other commands also
use.

This module declares the commands, and `run` executes the commands. `collect` reads the Kubernetes API and Redis.
`facts` contains models of the state, `findings` derives the problems from the state, and `screen` formats the state and
the problems. `facts`, `findings` and `screen` have no side effects.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from streamconsumer.errors import StreamConsumerError

Command = Callable[..., Any]

EXIT_UNAVAILABLE = 3
"""Exit code if a server did not answer or rejected a request, so that the state is unknown."""


class ConsumerNameParam(click.ParamType[str]):
    """The name of a StreamConsumer. Shell completion offers the names in the cluster."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reject names that no StreamConsumer can have."""
        from streamconsumer.model.name_fields import OBJECT_NAME

        if not OBJECT_NAME.matches(value):
            self.fail(f"{value!r} is not a valid StreamConsumer name; expected a name such as orders", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        from streamconsumer.cli.status.completion import complete_names

        try:
            matches = complete_names(incomplete, ctx.params.get("namespace"), ctx.params.get("context"))
        except StreamConsumerError:
            return []
        return [CompletionItem(each) for each in matches]


CLUSTER_OPTIONS = (
    click.option(
        "-n",
        "--namespace",
        metavar="NAMESPACE",
        show_default="namespace of the kubeconfig context",
        help="Namespace of the StreamConsumer.",
    ),
    click.option("--context", metavar="NAME", show_default="current context", help="Context of the kubeconfig."),
)
TARGET_OPTIONS = (
    *CLUSTER_OPTIONS,
    click.option(
        "--redis-url", metavar="URL", help="URL of the Redis server. Overrides the server of the StreamConsumer."
    ),
    click.option("--username", metavar="USER", help="Redis ACL user."),
    click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        show_default="STREAMCONSUMER_REDIS_PASSWORD",
        help="File with the Redis password.",
    ),
    click.option("--stream", metavar="KEY", help="Redis key of the stream, if you do not name a StreamConsumer."),
    click.option("--group", metavar="NAME", help="Consumer group, if you do not name a StreamConsumer."),
)
"""Options for the server, the stream and the group. Each command adds a parameter `name` for the name of the
StreamConsumer."""


def with_options(*options: Command) -> Callable[[Command], Command]:
    """Return a decorator that adds the options to a command, in the order of the arguments."""

    def add_options(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add_options


OUTPUT_OPTION = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)


def _run(command: str, options: dict[str, Any]) -> None:
    from streamconsumer.cli.status import run

    sys.exit(run.run(command, options))


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option("-A", "--all-namespaces", is_flag=True, help="Show the StreamConsumers of all namespaces.")
@OUTPUT_OPTION
def status(**options: Any) -> None:
    """Show the state and the problems of StreamConsumers.

    If you give NAME, the command prints the state of this StreamConsumer, the problems and the remedies. If you give no
    NAME, the command prints one line for each StreamConsumer.

    The command reads the lag and the pending entries from Redis. If the command cannot reach Redis, the output contains
    the reason and the last values that the operator read.

    \b
    Exit codes:
      0  no problems, or only warnings
      1  a problem of severity error
      2  wrong use, or no such StreamConsumer
      3  the Kubernetes API did not answer or rejected a request
    """
    _run("status", options)


@click.command()
@click.argument("name", type=ConsumerNameParam())
@with_options(*CLUSTER_OPTIONS)
def suspend(**options: Any) -> None:
    """Drain and stop the pods of a StreamConsumer.

    The position of the consumer group is kept. "resume" starts the pods again.

    \b
    Exit codes:
      0  done
      2  wrong use, or no such StreamConsumer
      3  the Kubernetes API did not answer or rejected a request
    """
    _run("suspend", options)


@click.command()
@click.argument("name", type=ConsumerNameParam())
@with_options(*CLUSTER_OPTIONS)
def resume(**options: Any) -> None:
    """Resume a suspended StreamConsumer.

    The operator starts the same number of pods as before. The pods continue at the position of the consumer group.

    \b
    Exit codes:
      0  done
      2  wrong use, or no such StreamConsumer
      3  the Kubernetes API did not answer or rejected a request
    """
    _run("resume", options)


COMMANDS = (status, suspend, resume)

"""`kubectl streamconsumer status|suspend|resume`: a StreamConsumer in its cluster, looked at and managed.

Here are the words of the command line. Facts (what is known) → findings (what is wrong; pure) → screen (pure);
connection is the only one that asks, work runs the commands.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from streamconsumer.errors import StreamConsumerError

Command = Callable[..., Any]

NAME_PATTERN = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")

EXIT_UNAVAILABLE = 3
"""Nobody answered: nothing is known, neither good nor bad."""


class ConsumerNameParam(click.ParamType[str]):
    """Of a StreamConsumer; the shell completes it from the cluster."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Anything else would be another path at the API server, such as all of them, or a subresource."""
        if not NAME_PATTERN.fullmatch(value):
            self.fail(f"{value!r} is no name of a StreamConsumer, such as orders", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        from streamconsumer.cli.status.completion import complete_names

        try:
            found = complete_names(incomplete, ctx.params.get("namespace"), ctx.params.get("context"))
        except StreamConsumerError:
            return []
        return [CompletionItem(each) for each in found]


CLUSTER_OPTIONS = (
    click.option("-n", "--namespace", help="Its namespace; else that of the kubeconfig's context."),
    click.option("--context", help="The kubeconfig's context; else the current one."),
)
TARGET_OPTIONS = (
    *CLUSTER_OPTIONS,
    click.option("--redis-url", help="The server; wins over that of the StreamConsumer."),
    click.option("--username", help="The ACL user."),
    click.option("--password-file", type=click.Path(path_type=Path), help="Else STREAMCONSUMER_REDIS_PASSWORD."),
    click.option("--stream", help="The stream, if no StreamConsumer is named."),
    click.option("--group", help="The consumer group, if no StreamConsumer is named."),
)
"""The server, the stream and the group; with the name of a StreamConsumer, which is `name`."""


def with_options(*options: Command) -> Callable[[Command], Command]:
    def decorated(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def _run(command: str, options: dict[str, Any]) -> None:
    from streamconsumer.cli.status import run

    sys.exit(run.run(command, options))


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(**options: Any) -> None:
    """Show one StreamConsumer on one screen, what is wrong with it and what to do; without NAME, a line for each.

    Figures are asked of Redis where it can be reached from here, and else are those of the operator; it says which.
    Exit code 0: nothing is wrong, or only warnings; 1: something is wrong; 2: wrong use; 3: nobody answered.
    """
    _run("status", options)


@click.command()
@click.argument("name", type=ConsumerNameParam())
@with_options(*CLUSTER_OPTIONS)
def suspend(**options: Any) -> None:
    """Let the pods of NAME drain and go; the group keeps its place.

    Exit code 0: done; 2: wrong use; 3: nobody answered.
    """
    _run("suspend", options)


@click.command()
@click.argument("name", type=ConsumerNameParam())
@with_options(*CLUSTER_OPTIONS)
def resume(**options: Any) -> None:
    """Go on where `suspend` left off, with as many pods as before.

    Exit code 0: done; 2: wrong use; 3: nobody answered.
    """
    _run("resume", options)


COMMANDS = (status, suspend, resume)

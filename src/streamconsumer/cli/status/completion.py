"""Shell completion: names of StreamConsumers, and the completion protocol of kubectl plugins."""

import asyncio
import sys

import click

from streamconsumer.cli.status.collect import kube_client, list_consumers, namespace_of
from streamconsumer.model.name_fields import OBJECT_NAME
from streamconsumer.text import printable

NO_FILE_COMPLETION = 4
"""Directive of the Cobra library that prevents kubectl from also completing file names."""


def complete_names(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    """Return the names that start with `incomplete`.

    Raises BackendUnavailable and InvalidSettings. The caller must not print an error during completion, because the
    user is still typing the command.
    """
    return asyncio.run(_list_names(incomplete, namespace, context))


async def _list_names(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    async with kube_client(context) as client:
        namespace = namespace_of({"namespace": namespace, "context": context})
        names = [each["metadata"]["name"] for each in await list_consumers(client, namespace, None)]
    return sorted(name for name in names if name.startswith(incomplete) and OBJECT_NAME.matches(name))


def print_for_kubectl(main: click.Command, arguments: list[str]) -> None:
    """Print the completions in the format of kubectl.

    Each line contains a completion, a tab and the help text. The last line contains the directive.
    """
    from click.shell_completion import ShellComplete

    *words, incomplete = arguments or [""]
    for item in ShellComplete(main, {}, "kubectl streamconsumer", "_COMPLETE").get_completions(words, incomplete):
        if item.type == "plain":
            columns = (item.value, item.help) if item.help else (item.value,)
            sys.stdout.write("\t".join(map(printable, columns)) + "\n")
    sys.stdout.write(f":{NO_FILE_COMPLETION}\n")

"""Names of StreamConsumers for the shell, and kubectl's own way to ask a plugin for completions."""

import asyncio
import sys

import click

from streamconsumer.cli.status.collect import kube_client, list_consumers, namespace_of

NO_FILE_COMPLETION = 4
"""A directive of Cobra's, which kubectl speaks: complete nothing by itself."""


def complete_names(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    """Raises BackendUnavailable: a shell that completes must not print it."""
    return asyncio.run(_list_names(incomplete, namespace, context))


async def _list_names(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    async with kube_client(context) as found:
        where = namespace_of({"namespace": namespace, "context": context})
        every = [each["metadata"]["name"] for each in await list_consumers(found, where, None)]
    return sorted(each for each in every if each.startswith(incomplete))


def print_for_kubectl(main: click.Command, arguments: list[str]) -> None:
    """A line each, with its help behind a tab, then the directive: what kubectl asks `kubectl_complete-…` for."""
    from click.shell_completion import ShellComplete

    *before, incomplete = arguments or [""]
    for each in ShellComplete(main, {}, "kubectl streamconsumer", "_COMPLETE").get_completions(before, incomplete):
        if each.type == "plain":
            sys.stdout.write(f"{each.value}\t{each.help}\n" if each.help else f"{each.value}\n")
    sys.stdout.write(f":{NO_FILE_COMPLETION}\n")

"""Names of StreamConsumers for the shell, and kubectl's own way to ask a plugin for completions."""

import asyncio
import sys

import click

from streamconsumer.cli.status.collect import cluster, namespace_of, resources

NO_FILES = 4
"""A directive of Cobra's, which kubectl speaks: complete nothing by itself."""


def names_that_begin(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    """Raises ServerUnavailable: a shell that completes must not print it."""
    return asyncio.run(_names(incomplete, namespace, context))


async def _names(incomplete: str, namespace: str | None, context: str | None) -> list[str]:
    async with cluster(context) as found:
        where = namespace_of({"namespace": namespace, "context": context})
        every = [each["metadata"]["name"] for each in await resources(found, where, None)]
    return sorted(each for each in every if each.startswith(incomplete))


def print_for_kubectl(main: click.Command, arguments: list[str]) -> None:
    """A line each, with its help behind a tab, then the directive: what kubectl asks `kubectl_complete-…` for."""
    from click.shell_completion import ShellComplete

    *before, incomplete = arguments or [""]
    for each in ShellComplete(main, {}, "kubectl streamconsumer", "_COMPLETE").get_completions(before, incomplete):
        if each.type == "plain":
            sys.stdout.write(f"{each.value}\t{each.help}\n" if each.help else f"{each.value}\n")
    sys.stdout.write(f":{NO_FILES}\n")

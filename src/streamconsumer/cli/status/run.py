"""`status`, `suspend` and `resume`: what was asked for goes to standard output, all else to standard error."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from streamconsumer.cli.status import screen
from streamconsumer.cli.status.collect import cluster, facts, namespace_of, resources
from streamconsumer.cli.status.facts import Facts, Finding
from streamconsumer.cli.status.findings import findings
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.operator.kube.api import MISSING

MOST_AT_ONCE = 10
"""StreamConsumers that are looked at side by side: a big cluster has many."""

WIDTH_IN_A_PIPE = 120

Options = Mapping[str, Any]
Told = Sequence[tuple[Facts, Sequence[Finding]]]


def run(command: str, options: Options) -> int:
    """The exit code. Raises ServerUnavailable where nobody answers."""
    if command == "status":
        return asyncio.run(_status(options))
    return asyncio.run(_set(options, suspended=command == "suspend"))


# -- status ------------------------------------------------------------------------------------------------------------


async def _status(options: Options) -> int:
    told = await _look(options)
    click.echo(_text(told, options))
    return 1 if any(each.severity == "error" for _, found in told for each in found) else 0


async def _look(options: Options) -> Told:
    at_once = asyncio.Semaphore(MOST_AT_ONCE)
    async with cluster(options["context"]) as found:

        async def look(manifest: dict[str, Any]) -> Facts:
            async with at_once:
                return await facts(found, manifest)

        manifests = await resources(found, namespace_of(options), options["name"])
        told = await asyncio.gather(*map(look, manifests))
    return [(each, findings(each)) for each in told]


def _text(told: Told, options: Options) -> str:
    if options["output"] == "json":
        return _document(told)
    if not told:
        return f"there are no {names.KIND}s here"
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((WIDTH_IN_A_PIPE, 24)).columns
    if options["name"] or len(told) == 1:
        return "\n".join(screen.lines(*told[0], datetime.now(UTC), width))
    rows = [screen.TITLES, *(screen.short(each, found) for each, found in told)]
    return "\n".join(screen.table(rows, width if terminal else None))


def _document(told: Told) -> str:
    items = [item(each, found) for each, found in told]
    return json.dumps({"streamConsumers": items}, ensure_ascii=False, indent=2)


def item(resource: Facts, found: Sequence[Finding]) -> dict[str, Any]:
    """Return one item of `status -o json`."""
    return {
        **resource.model_dump(by_alias=True, mode="json"),
        "findings": [finding.model_dump(by_alias=True, mode="json") for finding in found],
    }


# -- suspend, resume ---------------------------------------------------------------------------------------------------


async def _set(options: Options, *, suspended: bool) -> int:
    namespace, name = namespace_of(options), options["name"]
    assert namespace is not None
    async with cluster(options["context"]) as found:
        try:
            await found.suspend(namespace, name, suspended=suspended)
        except MISSING:
            raise InvalidSettings(f"there is no {names.KIND} {name} in namespace {namespace}") from None
        click.echo(f"{namespace}/{name} {'suspended' if suspended else 'resumed'}")
    return 0

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
from streamconsumer.cli.status.collect import collect_facts, kube_client, list_consumers, namespace_of
from streamconsumer.cli.status.facts import Facts, Finding
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.errors import InvalidSettings
from streamconsumer.model import names
from streamconsumer.operator.kube.api import NotFound

MAX_CONCURRENT = 10
"""StreamConsumers that are looked at side by side: a big cluster has many."""

PIPE_WIDTH = 120

Options = Mapping[str, Any]
Results = Sequence[tuple[Facts, Sequence[Finding]]]


def run(command: str, options: Options) -> int:
    """The exit code. Raises BackendUnavailable where nobody answers."""
    if command == "status":
        return asyncio.run(_status(options))
    return asyncio.run(_set_suspended(options, suspended=command == "suspend"))


# -- status ------------------------------------------------------------------------------------------------------------


async def _status(options: Options) -> int:
    told = await _collect_results(options)
    click.echo(_render(told, options))
    return 1 if any(each.severity == "error" for _, found in told for each in found) else 0


async def _collect_results(options: Options) -> Results:
    at_once = asyncio.Semaphore(MAX_CONCURRENT)
    async with kube_client(options["context"]) as found:

        async def look(manifest: dict[str, Any]) -> Facts:
            async with at_once:
                return await collect_facts(found, manifest)

        manifests = await list_consumers(found, namespace_of(options), options["name"])
        told = await asyncio.gather(*map(look, manifests))
    return [(each, derive_findings(each)) for each in told]


def _render(results: Results, options: Options) -> str:
    if options["output"] == "json":
        return _render_json(results)
    if not results:
        return f"there are no {names.KIND}s here"
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    if options["name"] or len(results) == 1:
        return "\n".join(screen.lines(*results[0], datetime.now(UTC), width))
    rows = [screen.TABLE_HEADER, *(screen.summary_row(each, found) for each, found in results)]
    return "\n".join(screen.table(rows, width if terminal else None))


def _render_json(results: Results) -> str:
    items = [status_item(each, found) for each, found in results]
    return json.dumps({"streamConsumers": items}, ensure_ascii=False, indent=2)


def status_item(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return one item of `status -o json`."""
    return {
        **facts.model_dump(by_alias=True, mode="json"),
        "findings": [finding.model_dump(by_alias=True, mode="json") for finding in findings],
    }


# -- suspend, resume ---------------------------------------------------------------------------------------------------


async def _set_suspended(options: Options, *, suspended: bool) -> int:
    namespace, name = namespace_of(options), options["name"]
    assert namespace is not None
    async with kube_client(options["context"]) as found:
        try:
            await found.set_suspended(namespace, name, suspended=suspended)
        except NotFound:
            raise InvalidSettings(f"there is no {names.KIND} {name} in namespace {namespace}") from None
        click.echo(f"{namespace}/{name} {'suspended' if suspended else 'resumed'}")
    return 0

"""Runs `status`, `suspend` and `resume`. Results are written to standard output, and all other text to standard
error."""

import asyncio
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from streamconsumer.cli.console import Line, echo, echo_json, echo_lines
from streamconsumer.cli.status import screen
from streamconsumer.cli.status.collect import (
    collect_facts,
    collect_facts_of_one,
    consumer_not_found,
    kube_client,
    list_consumers,
    map_concurrently,
    namespace_of,
)
from streamconsumer.cli.status.facts import Facts, Finding
from streamconsumer.cli.status.findings import derive_findings
from streamconsumer.model import names
from streamconsumer.operator.kube.api import NotFound

PIPE_WIDTH = 120
"""Maximum length of a line if the output is not a terminal."""

Options = Mapping[str, Any]
Results = Sequence[tuple[Facts, Sequence[Finding]]]


def run(command: str, options: Options) -> int:
    """Run the command and return its exit code.

    Raises InvalidSettings if the kubeconfig is unusable or the StreamConsumer does not exist. Raises BackendUnavailable
    if the Kubernetes API does not answer or rejects a request.
    """
    if command == "status":
        return asyncio.run(_status(options))
    return asyncio.run(_set_suspended(options, suspended=command == "suspend"))


# -- status ------------------------------------------------------------------------------------------------------------


async def _status(options: Options) -> int:
    results = await _collect_results(options)
    if options["output"] == "json":
        echo_json({"streamConsumers": [status_item(facts, findings) for facts, findings in results]})
    else:
        echo_lines(_lines(results, options))
    return 1 if any(finding.severity == "error" for _, findings in results for finding in findings) else 0


async def _collect_results(options: Options) -> Results:
    collect_one = collect_facts if options["name"] else collect_facts_of_one
    async with kube_client(options["context"]) as client:
        manifests = await list_consumers(client, namespace_of(options), options["name"])
        all_facts = await map_concurrently(partial(collect_one, client), manifests)
    return [(facts, derive_findings(facts)) for facts in all_facts]


def _lines(results: Results, options: Options) -> Iterable[Line]:
    if not results:
        return [f"No {names.KIND}s found."]
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    if options["name"] or len(results) == 1:
        return screen.lines(*results[0], datetime.now(UTC), width)
    rows = [screen.TABLE_HEADER, *(screen.summary_row(facts, findings) for facts, findings in results)]
    return screen.table(rows, width if is_terminal else None)


def status_item(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the item of one StreamConsumer in the JSON of `status -o json`."""
    return {
        **facts.model_dump(by_alias=True, mode="json"),
        "findings": [finding.model_dump(by_alias=True, mode="json") for finding in findings],
    }


# -- suspend, resume ---------------------------------------------------------------------------------------------------


async def _set_suspended(options: Options, *, suspended: bool) -> int:
    namespace, name = namespace_of(options), options["name"]
    assert namespace is not None
    async with kube_client(options["context"]) as client:
        try:
            await client.set_suspended(namespace, name, suspended=suspended)
        except NotFound:
            raise await consumer_not_found(client, namespace, name) from None
        echo(f"{namespace}/{name} {'suspended' if suspended else 'resumed'}")
    return 0

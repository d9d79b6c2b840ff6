"""`doctor`: the document goes to standard output, all else to standard error."""

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import click

from streamconsumer.cli.doctor import findings
from streamconsumer.cli.doctor.facts import Diagnosis, Verdict
from streamconsumer.cli.status import COULD_NOT_CHECK
from streamconsumer.cli.status.screen import fits, of_finding, wrapped

WIDTH_IN_A_PIPE = 120

Options = Mapping[str, Any]


def run(options: Options) -> int:
    """The exit code. Raises InvalidSettings, and ServerUnavailable where no cluster answers."""
    if not options["from_environment"]:
        from streamconsumer.cli.doctor.cluster_checks import diagnose

        return _show(asyncio.run(diagnose(options)), options)
    from streamconsumer.cli.doctor.pod_checks import look

    facts = asyncio.run(look(os.environ))
    code = _show(Diagnosis(pod=findings.of_pod(facts)), options)
    if any(each is not threading.main_thread() and not each.daemon for each in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)  # Python would wait for the threads that the handler's module has begun
    return code


def _show(diagnosis: Diagnosis, options: Options) -> int:
    document = diagnosis.model_dump(by_alias=True, mode="json")
    if options["output"] == "json":
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        width = fits(shutil.get_terminal_size((WIDTH_IN_A_PIPE, 24)).columns)
        click.echo("\n".join(lines(diagnosis, width)))
    if any(each.severity == "error" for verdict in diagnosis.verdicts for each in verdict.findings):
        return 1
    return 0 if diagnosis.pod else COULD_NOT_CHECK


def lines(diagnosis: Diagnosis, width: int) -> Iterator[str]:
    """As a person reads it: what is right in a line each, then what is wrong."""
    if diagnosis.cluster:
        yield from _verdict("in the cluster", diagnosis.cluster, width)
    if diagnosis.pod:
        yield from _verdict(f"in pod {diagnosis.pod.name}", diagnosis.pod, width)
    if not any(verdict.findings for verdict in diagnosis.verdicts):
        yield "Nothing is wrong."


def _verdict(where: str, verdict: Verdict, width: int) -> Iterator[str]:
    yield click.style(where, bold=True)
    for each in verdict.checked:
        yield from wrapped("ok       ", f"{each.object}: {each.found}", width)
    for finding in verdict.findings:
        yield from of_finding(finding, width)
    yield ""

"""Runs `doctor`. The results are written to standard output, and all other text to standard error."""

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from streamconsumer.cli.console import Line, StyledLine, echo_json, echo_lines
from streamconsumer.cli.doctor import findings
from streamconsumer.cli.doctor.facts import CheckResult, Diagnosis
from streamconsumer.cli.status import EXIT_UNAVAILABLE
from streamconsumer.cli.status.screen import clamp_width, finding_lines, wrap

PIPE_WIDTH = 120
"""Maximum length of a line if the output is not a terminal."""

Options = Mapping[str, Any]


def run(options: Options) -> int:
    """Run the checks, print the results and return the exit code.

    Raises InvalidSettings if the StreamConsumer does not exist, or if the kubeconfig or the environment variables of
    the pod are unusable. Raises BackendUnavailable if the Kubernetes API does not answer or rejects a request.
    """
    if not options["from_environment"]:
        from streamconsumer.cli.doctor.cluster_checks import diagnose

        return _print_diagnosis(asyncio.run(diagnose(options)), options)
    from streamconsumer.cli.doctor.pod_checks import check_pod

    facts = asyncio.run(check_pod(os.environ))
    code = _print_diagnosis(Diagnosis(pod=findings.evaluate_pod(facts)), options)
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)  # Python would wait for the threads that the handler's module started
    return code


def _print_diagnosis(diagnosis: Diagnosis, options: Options) -> int:
    document = diagnosis.model_dump(by_alias=True, mode="json")
    if options["output"] == "json":
        echo_json(document)
    else:
        width = clamp_width(shutil.get_terminal_size((PIPE_WIDTH, 24)).columns)
        echo_lines(lines(diagnosis, width))
    if any(finding.severity == "error" for result in diagnosis.results for finding in result.findings):
        return 1
    return 0 if diagnosis.pod else EXIT_UNAVAILABLE


def lines(diagnosis: Diagnosis, width: int) -> Iterator[Line]:
    """Format the results. The output has one line for each passed check, and then the problems."""
    if diagnosis.cluster:
        yield from _result_lines("in the cluster", diagnosis.cluster, width)
    if diagnosis.pod:
        yield from _result_lines(f"in pod {diagnosis.pod.name}", diagnosis.pod, width)
    if not any(result.findings for result in diagnosis.results):
        yield "No problems found."


def _result_lines(title: str, result: CheckResult, width: int) -> Iterator[Line]:
    yield StyledLine(title)
    for check in result.passed:
        yield from wrap("ok       ", f"{check.object}: {check.found}", width)
    for finding in result.findings:
        yield from finding_lines(finding, width)
    yield ""

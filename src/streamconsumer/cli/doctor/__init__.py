"""The command `doctor`: checks every prerequisite of a StreamConsumer.

This module declares the command, and `run` executes the command. `cluster_checks` checks the cluster and runs
`pod_checks` in a pod. `pod_checks` reads the environment variables of the pod. `facts` contains models of the
observations, and `findings` evaluates the observations without side effects.
"""

import sys
from typing import Any

import click

from streamconsumer.cli.status import CLUSTER_OPTIONS, OUTPUT_OPTION, ConsumerNameParam, with_options


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option(
    "--from-environment",
    is_flag=True,
    help="Run the pod checks in this process. Its environment must contain the STREAMCONSUMER_ variables of a pod.",
)
@OUTPUT_OPTION
def doctor(**options: Any) -> None:
    """Check every prerequisite of a StreamConsumer.

    In the cluster, the command checks the operator, the CRD, your permissions and the resource. In one of the pods of
    NAME, the command checks Redis (version, permissions, settings), the consumer group, the handler and the collector.
    The checks in the pod run through "kubectl exec". The command makes no changes.

    \b
    Exit codes:
      0  no problems, or only warnings
      1  a problem of severity error
      2  wrong use, no such StreamConsumer, or the environment variables
         of a pod are missing
      3  the Kubernetes API did not answer or rejected a request, or no
         pod could run the checks
    """
    if options["from_environment"] == bool(options["name"]):
        raise click.UsageError("give either NAME or --from-environment")
    from streamconsumer.cli.doctor import run

    sys.exit(run.run(options))

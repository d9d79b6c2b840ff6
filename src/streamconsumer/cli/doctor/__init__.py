"""`streamconsumer doctor`: whether everything is there that a StreamConsumer needs.

Facts (what is known) → findings (pure) → the screen of `cli.cluster`. pod looks from within a pod, by its own
environment; in_cluster looks at the cluster and has one of the pods look.
"""

import sys
from typing import Any

import click

from streamconsumer.cli.status import CLUSTER_OPTIONS, ConsumerNameParam, with_options


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option("--from-environment", is_flag=True, help="Look from here, with a pod's STREAMCONSUMER_ variables.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(**options: Any) -> None:
    """Look whether everything is there that the StreamConsumer NAME needs, in the cluster and from within a pod.

    The operator, its CRD, your own rights, what the resource says; and in a pod, through `kubectl exec`: Redis, its
    version, rights and settings, the group, the handler, the collector. Nothing is changed.
    Exit code 0: nothing is wrong, or only warnings; 1: something is wrong; 2: wrong use; 3: not all could be looked at.
    """
    if options["from_environment"] == bool(options["name"]):
        raise click.UsageError("give either the NAME of a StreamConsumer or --from-environment")
    from streamconsumer.cli.doctor import run

    sys.exit(run.run(options))

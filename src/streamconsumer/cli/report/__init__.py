"""`kubectl streamconsumer report`: a bundle of facts about a problem, for a person without access to the cluster.

collect asks the API server and the pods, documents is the allow-list, redact removes
the values of Secrets from texts, bundle holds the files and writes the archive.
"""

from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.status import CLUSTER_OPTIONS, ConsumerNameParam, with_options


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option("--logs", is_flag=True, help="Add the last 2,000 lines of each log, without the named Secrets' values.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("streamconsumer-report.tar.gz"),
    show_default=True,
    help="The archive to write.",
)
def report(**options: Any) -> None:
    """Write an archive that helps to diagnose NAME, or all StreamConsumers of the namespace.

    The archive contains StreamConsumers, the output of status and doctor, metrics, Events, Deployments and versions,
    without the values of variables and without source code. contents.json lists the files, what was removed from
    them and what was left out. Read the files before you share the archive.

    Exit code 0: written; 2: wrong use; 3: the API server did not answer.
    """
    import asyncio

    from streamconsumer.cli.report.bundle import CONTENTS
    from streamconsumer.cli.report.run import collect

    bundle, path = asyncio.run(collect(options)), options["output"]
    bundle.write(path)
    click.echo(f"{path}: {len(bundle.files)} files, listed in {CONTENTS}; read them before you share the archive")

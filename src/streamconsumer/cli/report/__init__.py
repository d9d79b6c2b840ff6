"""The command `report`: a bundle of facts about a problem, for support staff without access to the cluster.

`run` reads from the API server and the pods. `allow_list` selects the fields of objects, and `redact` removes the
values of Secrets from texts. `bundle` contains the files and writes the archive.
"""

from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.console import echo
from streamconsumer.cli.status import CLUSTER_OPTIONS, ConsumerNameParam, with_options


@click.command()
@click.argument("name", type=ConsumerNameParam(), required=False)
@with_options(*CLUSTER_OPTIONS)
@click.option(
    "--logs",
    is_flag=True,
    help="Add the last 2,000 lines of each container log. The values of referenced Secrets are removed.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=Path("streamconsumer-report.tar.gz"),
    show_default=True,
    help="Archive to write. An existing file is replaced.",
)
def report(**options: Any) -> None:
    """Write an archive that helps to diagnose a problem.

    The archive describes the StreamConsumer NAME, or all StreamConsumers of the namespace. The archive contains
    StreamConsumers, the output of status and doctor, metrics, Events, Deployments and versions. The archive contains no
    values of environment variables and no source code. contents.json lists the files, the removed values and the
    omitted files. Read the files before you share the archive.

    \b
    Exit codes:
      0  the archive was written
      2  wrong use, or no such StreamConsumer
      3  the Kubernetes API did not answer or rejected a request
    """
    import asyncio

    from streamconsumer.cli.report.bundle import CONTENTS
    from streamconsumer.cli.report.run import collect

    bundle, path = asyncio.run(collect(options)), options["output"]
    bundle.write(path)
    echo(f"{path}: {len(bundle.files)} files, listed in {CONTENTS}; read them before you share the archive")

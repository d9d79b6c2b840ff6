"""`kubectl streamconsumer report`: a bundle for whoever helps, without secrets.

collect asks for everything, scrub takes out what must not leave the cluster, work writes the archive.
"""

import sys
from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.cluster import COULD_NOT_CHECK, WHERE, Name, with_options
from streamconsumer.errors import ServerUnavailable


@click.command()
@click.argument("name", type=Name(), required=False)
@with_options(*WHERE)
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("streamconsumer-report.tar.gz"),
    show_default=True,
    help="The archive to write.",
)
def report(**options: Any) -> None:
    """Write an archive with what helps to find out what is wrong: of NAME, or without it of every StreamConsumer.

    Resources, status, children, events, logs, figures of Redis, versions. Secrets are taken out, docs/cli.md says how;
    look into the archive all the same before you hand it on.
    Exit code 0: written; 2: wrong use; 3: nobody answered.
    """
    from streamconsumer.cli.report import work

    try:
        sys.exit(work.run(options))
    except ServerUnavailable as error:
        click.echo(f"streamconsumer: {error}", err=True)
        sys.exit(COULD_NOT_CHECK)

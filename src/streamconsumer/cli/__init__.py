"""`streamconsumer …`, also installed as kubectl-streamconsumer. A room is imported only inside the command that
needs it: a pod never loads kopf, the operator never loads redis."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from streamconsumer import __version__
from streamconsumer.cli.dead_letters import dead_letters
from streamconsumer.cli.doctor import doctor
from streamconsumer.cli.group import group
from streamconsumer.cli.report import report
from streamconsumer.cli.status import COMMANDS, EXIT_UNAVAILABLE
from streamconsumer.errors import BackendUnavailable, StreamConsumerError


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Modules are no garbage: looking for some among them takes a quarter of a pod's start, and later a part of each
    look."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class _ErrorReportingGroup(click.Group):
    """Turns our own errors into one line and exit code 2, or 3 if a server is unavailable; a bug still shows its
    traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except StreamConsumerError as error:
            click.echo(f"streamconsumer: {type(error).__name__}: {error}", err=True)
            sys.exit(EXIT_UNAVAILABLE if isinstance(error, BackendUnavailable) else 2)


@click.group(cls=_ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamconsumer")
def main() -> None:
    """Run Python functions as Redis Streams consumers on Kubernetes."""


@main.command()
def processor() -> None:
    """Read the stream that the STREAMCONSUMER_ variables name, until SIGTERM (what a pod runs)."""
    with _gc_paused():
        from streamconsumer.processor.main import run

    sys.exit(run())


@main.command()
def operator() -> None:
    """Reconcile StreamConsumers until SIGTERM (what the operator's pod runs)."""
    with _gc_paused():
        from streamconsumer.operator.main import run

    run()


@main.command()
def crd() -> None:
    """Print the CustomResourceDefinition."""
    from streamconsumer.cli.manifest_files import to_yaml
    from streamconsumer.model.crd import custom_resource_definition

    click.echo(to_yaml([custom_resource_definition()]), nl=False)


_FILES_ARGUMENT = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))


@main.command()
@_FILES_ARGUMENT
def render(files: tuple[Path, ...]) -> None:
    """Print what the operator would apply for the StreamConsumers in FILES (- reads standard input).

    All but the owner references, which only a stored StreamConsumer can have, and with the STREAMCONSUMER_OPERATOR_
    variables of this shell for what an installation sets. What the rules of the resource refuse is refused here,
    with the reason, and the exit code is 2; the others are printed.
    """
    from streamconsumer.cli.render import render_files

    sys.exit(render_files(files))


@main.command()
@_FILES_ARGUMENT
def dev(files: tuple[Path, ...]) -> None:
    """Run the StreamConsumers in FILES on this machine, without Docker or a cluster. Ctrl-C drains.

    Starts an embedded Valkey in place of the resource's own Redis, runs the Deployment that the operator would apply
    as local processes with the same environment, and shows their logs and traces.
    """
    from streamconsumer.cli.dev import run_files

    run_files(files)


main.add_command(dead_letters)
main.add_command(doctor)
main.add_command(group)
main.add_command(report)
for each in COMMANDS:
    main.add_command(each)


def complete() -> None:
    """`kubectl_complete-streamconsumer`: what kubectl calls for the words after `kubectl streamconsumer`."""
    from streamconsumer.cli.status.completion import print_for_kubectl

    print_for_kubectl(main, sys.argv[1:])

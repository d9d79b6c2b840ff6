"""The command line `streamconsumer`, also installed as the kubectl plugin kubectl-streamconsumer.

Each command imports its packages only when the command runs. A pod therefore never loads kopf, and the command `crd`
loads no Kubernetes client.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import click

from streamconsumer import __version__
from streamconsumer.cli.console import echo
from streamconsumer.cli.dead_letters import dead_letters
from streamconsumer.cli.doctor import doctor
from streamconsumer.cli.group import group
from streamconsumer.cli.report import report
from streamconsumer.cli.status import COMMANDS, EXIT_UNAVAILABLE
from streamconsumer.errors import BackendUnavailable, StreamConsumerError
from streamconsumer.log_formatter import print_uncaught_exceptions


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable garbage collection during imports and exclude the imported modules from later collections.

    Imported modules never become garbage. Scanning the imported modules would take a quarter of a pod's start time and
    would slow down each later collection.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class _ErrorReportingGroup(click.Group):
    """Prints error messages and escapes unprintable characters in the messages.

    A StreamConsumerError is printed as one line. After a StreamConsumerError, the exit code is 3 if a server is
    unavailable, and 2 in all other cases.

    An exception of any other class is a bug and is printed with its traceback.
    """

    def invoke(self, ctx: click.Context) -> object:
        print_uncaught_exceptions()
        try:
            return super().invoke(ctx)
        except StreamConsumerError as error:
            echo(f"streamconsumer: {type(error).__name__}: {error}", err=True)
            sys.exit(EXIT_UNAVAILABLE if isinstance(error, BackendUnavailable) else 2)
        except click.ClickException as error:
            message = StringIO()
            error.show(message)
            echo(message.getvalue(), err=True, nl=False)
            sys.exit(error.exit_code)


@click.group(cls=_ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamconsumer")
def main() -> None:
    """Run Python functions as Redis Streams consumers on Kubernetes.

    "streamconsumer COMMAND --help" shows the options and the exit codes of a command.
    """


@main.command()
def processor() -> None:
    """Run one consumer in this process until SIGTERM.

    Pods run this command. The STREAMCONSUMER_ environment variables contain the settings of the consumer.

    \b
    Exit codes:
      0   stopped after a signal
      78  invalid settings, or the handler cannot be loaded
    """
    with _gc_paused():
        from streamconsumer.processor.main import run

    sys.exit(run())


@main.command()
def operator() -> None:
    """Run the operator in this process until SIGTERM.

    The operator's pod runs this command. The STREAMCONSUMER_OPERATOR_ environment variables contain the settings of the
    operator.
    """
    with _gc_paused():
        from streamconsumer.operator.main import run

    run()


@main.command()
def crd() -> None:
    """Print the CustomResourceDefinition as YAML."""
    from streamconsumer.cli.manifest_files import to_yaml
    from streamconsumer.model.crd import custom_resource_definition

    echo(to_yaml([custom_resource_definition()]), nl=False)


_FILES_ARGUMENT = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))


@main.command()
@_FILES_ARGUMENT
def render(files: tuple[Path, ...]) -> None:
    """Print the manifests that the operator would apply.

    FILES contain StreamConsumers. If you give a folder, the command reads its YAML files. If you give "-", the command
    reads standard input.

    The manifests have no owner references, because an owner reference needs the uid of a stored StreamConsumer. The
    settings of the operator come from the STREAMCONSUMER_OPERATOR_ environment variables.

    \b
    Exit codes:
      0  all StreamConsumers were rendered
      2  some StreamConsumers are invalid and were not rendered,
         or FILES contain no StreamConsumer
    """
    from streamconsumer.cli.render import render_files

    sys.exit(render_files(files))


@main.command()
@_FILES_ARGUMENT
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Lowest level of the pods' log lines, in place of spec.logLevel.",
)
def dev(files: tuple[Path, ...], log_level: str | None) -> None:
    """Run StreamConsumers on this machine, without a cluster.

    The command starts an embedded Valkey in place of spec.redis. The pods run as local processes, with the environment
    variables that the operator would set. The terminal shows the logs and traces of the pods. FILES contain the
    StreamConsumers, and the Secrets and ConfigMaps that the StreamConsumers reference.

    Ctrl-C drains the pods, and a second Ctrl-C kills the pods.

    \b
    Exit codes:
      0  stopped after a signal
      2  invalid FILES, or a missing package
      3  the embedded Valkey did not start
    """
    from streamconsumer.cli.dev import run_files

    run_files(files, log_level)


main.add_command(dead_letters)
main.add_command(doctor)
main.add_command(group)
main.add_command(report)
for _command in COMMANDS:
    main.add_command(_command)


def complete() -> None:
    """Entry point of `kubectl_complete-streamconsumer`, which kubectl runs to complete `kubectl streamconsumer …`."""
    from streamconsumer.cli.status.completion import print_for_kubectl

    print_for_kubectl(main, sys.argv[1:])

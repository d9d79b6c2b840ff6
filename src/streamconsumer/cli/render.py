"""The command `render`: prints the manifests that the operator would apply, without a cluster."""

from collections.abc import Iterable
from pathlib import Path

from streamconsumer.cli.console import echo
from streamconsumer.cli.manifest_files import Document, read, to_yaml
from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.manifest import resembles_consumer
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.settings import OperatorSettings


def render_files(files: Iterable[Path]) -> int:
    """Print the manifests for every StreamConsumer in the files and return the exit code.

    The errors of invalid StreamConsumers are printed to standard error.
    """
    import os

    settings = OperatorSettings.from_env(os.environ)
    consumers, problems = parse_consumers(filter(resembles_consumer, read(files)))
    manifests = [manifest for consumer in consumers for manifest in desired(consumer, settings)]
    if manifests:
        echo(to_yaml(manifests), nl=False)
    for problem in problems:
        echo(f"rejected: {problem}", err=True)
    if not consumers and not problems:
        echo(f"no {names.API_VERSION} {names.KIND} in {', '.join(map(str, files))}", err=True)
    return 2 if problems or not consumers else 0


def parse_consumers(documents: Iterable[Document]) -> tuple[list[StreamConsumer], list[str]]:
    """Return the valid StreamConsumers, and the errors of invalid StreamConsumers."""
    consumers: list[StreamConsumer] = []
    problems: list[str] = []
    for document in documents:
        try:
            consumers.append(StreamConsumer.parse_document(document))
        except InvalidResource as error:
            problems.append(str(error))
    return consumers, problems

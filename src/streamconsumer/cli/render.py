"""`streamconsumer render`: what the operator would apply, offline."""

from collections.abc import Iterable
from pathlib import Path

import click

from streamconsumer.cli.manifest_files import Document, read, to_yaml
from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.settings import OperatorSettings


def render_files(files: Iterable[Path]) -> int:
    """Print the children of every StreamConsumer in the files; refusals go to standard error. The exit code."""
    import os

    settings = OperatorSettings.from_env(os.environ)
    consumers, refusals = parse_consumers([each for each in read(files) if each.get("kind") == names.KIND])
    manifests = [manifest for consumer in consumers for manifest in desired(consumer, settings)]
    if manifests:
        click.echo(to_yaml(manifests), nl=False)
    for refusal in refusals:
        click.echo(f"refused: {refusal}", err=True)
    if not consumers and not refusals:
        click.echo(f"no {names.API_VERSION} {names.KIND} in {', '.join(map(str, files))}", err=True)
    return 2 if refusals or not consumers else 0


def parse_consumers(documents: Iterable[Document]) -> tuple[list[StreamConsumer], list[str]]:
    """The StreamConsumers that can be acted on, and why the others cannot."""
    consumers: list[StreamConsumer] = []
    refusals: list[str] = []
    for document in documents:
        try:
            consumers.append(StreamConsumer.parse(document))
        except InvalidResource as error:
            refusals.append(str(error))
    return consumers, refusals

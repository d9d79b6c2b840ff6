"""`report`: collected, scrubbed, written as one archive that only its owner may read."""

import asyncio
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.report.collect import Collected, collect
from streamconsumer.cli.report.scrub import Scrubber
from streamconsumer.errors import InvalidSettings

FOLDER = "streamconsumer-report"


def run(options: Mapping[str, Any]) -> int:
    """The exit code. Raises ServerUnavailable where nobody answers."""
    found, path = asyncio.run(collect(options)), Path(options["output"])
    try:
        _write(path, found)
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be written: {error.strerror}") from None
    click.echo(f"{path}: {len(found.documents) + len(found.texts)} files; look into it before you hand it on")
    return 0


def scrubbed(found: Collected) -> Iterator[tuple[str, str]]:
    """Files as they may leave the cluster."""
    scrubber = Scrubber(found.secrets)
    for file, document in found.documents.items():
        yield file, json.dumps(scrubber.value(document), ensure_ascii=False, indent=2) + "\n"
    for file, text in found.texts.items():
        yield file, scrubber.text(text)


def _write(path: Path, found: Collected) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        for file, text in scrubbed(found):
            content = text.encode(errors="backslashreplace")
            entry = tarfile.TarInfo(f"{FOLDER}/{file}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))

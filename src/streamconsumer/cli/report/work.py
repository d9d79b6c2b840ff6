"""`report`: writes a bundle as one archive that only its owner may read."""

import asyncio
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from streamconsumer.cli.report.bundle import CONTENTS, Bundle
from streamconsumer.cli.report.collect import collect
from streamconsumer.errors import InvalidSettings

FOLDER = "streamconsumer-report"


def run(options: Mapping[str, Any]) -> int:
    """The exit code. Raises ServerUnavailable if the API server does not answer."""
    bundle, path = asyncio.run(collect(options)), Path(options["output"])
    try:
        _write(path, bundle)
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be written: {error.strerror}") from None
    click.echo(f"{path}: {len(bundle.files) + 1} files, listed in {CONTENTS}; read them before you share the archive")
    return 0


def _write(path: Path, bundle: Bundle) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        os.fchmod(descriptor, 0o600)  # a file that existed has the mode of its first creation
        for file, text in {CONTENTS: bundle.contents(), **bundle.files}.items():
            content = text.encode(errors="backslashreplace")
            entry = tarfile.TarInfo(f"{FOLDER}/{file}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))

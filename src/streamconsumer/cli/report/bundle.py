"""Bundle of a report: collects the files, lists the contents and writes the archive."""

import io
import tarfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from streamconsumer.cli.report.redact import Redactor
from streamconsumer.errors import InvalidSettings
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.text import printable_lines, to_json

CONTENTS, FOLDER = "contents.json", "streamconsumer-report"

T = TypeVar("T")


class Bundle:
    """The files of a report. A redactor removes the values of Secrets from every text."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        """Texts by file name."""
        self._omitted: dict[str, str] = {}
        self._redactor = Redactor({})

    def redact_values(self, values: Mapping[str, bytes]) -> None:
        """Set the secret values. From now on, `add` removes these values from every text."""
        self._redactor = Redactor(values)

    def add(self, file: str, document: Any) -> None:
        """Add a file that contains a text, or a document or model as JSON. Secret values are removed, and unprintable
        characters are escaped."""
        clean = self._redact(document)
        self.files[file_path(file)] = printable_lines(clean) if isinstance(clean, str) else _json(clean)

    async def add_response(self, file: str, request: Awaitable[Any]) -> None:
        """Add the response to a request. If the request fails, the file is listed as omitted."""
        if (document := await self.fetch(file, request)) is not None:
            self.add(file, document)

    async def fetch(self, name: str, request: Awaitable[T]) -> T | None:
        """Return the response. If the request fails, `name` is listed as omitted and the result is None."""
        try:
            return await request
        except Exception as error:  # noqa: BLE001 - an unreadable object must not end the whole report
            self.omit(name, api_error_message(error))
            return None

    def omit(self, name: str, reason: str) -> None:
        """List a file or a value as omitted, with the reason."""
        self._omitted[name] = self._redactor.redact(reason)

    def write(self, path: Path) -> None:
        """Write the archive, with read permission only for the owner. Raises InvalidSettings if the file cannot be
        written."""
        self.files[CONTENTS] = _json(
            {
                "files": sorted({*self.files, CONTENTS}),
                "removed": self._redactor.removed_counts,
                "notRemoved": self._redactor.kept_reasons,
                "leftOut": self._omitted,
            }
        )
        try:
            path.touch(0o600)
            path.chmod(0o600)  # touch keeps the mode of an existing file
            with tarfile.open(path, "w:gz") as archive:
                for file, text in sorted(self.files.items()):
                    content = text.encode(errors="backslashreplace")
                    entry = tarfile.TarInfo(f"{FOLDER}/{file}")
                    entry.size, entry.mode = len(content), 0o600
                    archive.addfile(entry, io.BytesIO(content))
        except OSError as error:
            raise InvalidSettings(f"{path}: cannot be written: {error.strerror}") from None

    def _redact(self, document: Any) -> Any:
        match document:
            case BaseModel():
                return self._redact(document.model_dump(by_alias=True, mode="json"))
            case str():
                return self._redactor.redact(document)
            case dict():
                return {self._redact(name): self._redact(inner) for name, inner in document.items()}
            case list():
                return [self._redact(inner) for inner in document]
        return document


def _json(document: Any) -> str:
    return to_json(document) + "\n"


def file_path(name: str) -> str:
    """Return `name` as a path that stays within the bundle's folder. `name` is untrusted, because it contains the names
    of pods and containers."""
    parts = (quote(part, safe="") for part in name.split("/"))
    return "/".join(part.replace(".", "%2E") if set(part) <= {"."} else part for part in parts)

"""The files of a bundle, the list of its contents, and the archive."""

import io
import json
import tarfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from streamconsumer.cli.report.redact import Redactor
from streamconsumer.errors import InvalidSettings
from streamconsumer.operator.kube.api import ApiError, api_error_message

CONTENTS, FOLDER = "contents.json", "streamconsumer-report"

T = TypeVar("T")


class Bundle:
    """Texts by file name. Every text passes through a redactor."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self._omitted: dict[str, str] = {}
        self._redactor = Redactor({})

    def redact_values(self, values: Mapping[str, bytes]) -> None:
        """Remove the values from all that is added from now on."""
        self._redactor = Redactor(values)

    def add(self, file: str, document: Any) -> None:
        """Add a text, or a document or a model as JSON."""
        clean = self._redact(document)
        self.files[file] = clean if isinstance(clean, str) else _json(clean)

    async def add_response(self, file: str, request: Awaitable[Any]) -> None:
        """Add an answer of the API server, unless it refuses."""
        if (document := await self.fetch(file, request)) is not None:
            self.add(file, document)

    async def fetch(self, name: str, request: Awaitable[T]) -> T | None:
        """The answer; None if the API server refuses it, and then the reason is in the list of contents."""
        try:
            return await request
        except ApiError as error:
            self.omit(name, api_error_message(error))
            return None

    def omit(self, name: str, reason: str) -> None:
        self._omitted[name] = self._redactor.redact(reason)

    def write(self, path: Path) -> None:
        """Write an archive that only its owner may read. Raises InvalidSettings if it cannot be written."""
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
            path.chmod(0o600)  # a file that existed has the mode of its first creation
            with tarfile.open(path, "w:gz") as archive:
                for file, text in self.files.items():
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
                return {name: self._redact(inner) for name, inner in document.items()}
            case list():
                return [self._redact(inner) for inner in document]
        return document


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

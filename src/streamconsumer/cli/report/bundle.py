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
from streamconsumer.operator.kube.api import Refused, what_was_said

CONTENTS, FOLDER = "contents.json", "streamconsumer-report"

T = TypeVar("T")


class Bundle:
    """Texts by file name. Every text passes through a redactor."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._redactor = Redactor({})

    def remove(self, values: Mapping[str, bytes]) -> None:
        """Remove the values from all that is added from now on."""
        self._redactor = Redactor(values)

    def add(self, file: str, document: Any) -> None:
        """Add a text, or a document or a model as JSON."""
        clean = self._clean(document)
        self.files[file] = clean if isinstance(clean, str) else _json(clean)

    async def add_answer(self, file: str, asked: Awaitable[Any]) -> None:
        """Add an answer of the API server, unless it refuses."""
        if (document := await self.ask(file, asked)) is not None:
            self.add(file, document)

    async def ask(self, what: str, asked: Awaitable[T]) -> T | None:
        """The answer; None if the API server refuses it, and then the reason is in the list of contents."""
        try:
            return await asked
        except Refused as error:
            self.leave_out(what, what_was_said(error))
            return None

    def leave_out(self, what: str, reason: str) -> None:
        self._left_out[what] = self._redactor.text(reason)

    def write(self, path: Path) -> None:
        """Write an archive that only its owner may read. Raises InvalidSettings if it cannot be written."""
        self.files[CONTENTS] = _json(
            {
                "files": sorted({*self.files, CONTENTS}),
                "removed": self._redactor.counts,
                "notRemoved": self._redactor.kept,
                "leftOut": self._left_out,
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

    def _clean(self, document: Any) -> Any:
        match document:
            case BaseModel():
                return self._clean(document.model_dump(by_alias=True, mode="json"))
            case str():
                return self._redactor.text(document)
            case dict():
                return {name: self._clean(inner) for name, inner in document.items()}
            case list():
                return [self._clean(inner) for inner in document]
        return document


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

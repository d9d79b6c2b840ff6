"""The files of a bundle, and the list of its contents."""

import json
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from streamconsumer.cli.report.fields import Shape, allowed
from streamconsumer.cli.report.named import SecretValue
from streamconsumer.cli.report.redact import Redactor
from streamconsumer.operator.api import Refused, what_was_said

CONTENTS = "contents.json"

T = TypeVar("T")


class Bundle:
    """Files by name. Every text in them passes through a redactor."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        """What is not in the bundle, and the reason."""
        self._values: Sequence[SecretValue] = ()
        self._redactor = Redactor(())

    def remove(self, values: Sequence[SecretValue]) -> None:
        """Remove the values from all that is added from now on."""
        self._values, self._redactor = values, Redactor(values)

    def add(self, file: str, document: Any, shape: Shape) -> None:
        """Add the fields of the document that the shape names."""
        self.files[file] = _json(allowed(document, shape, self._redactor.text))

    def add_text(self, file: str, text: str) -> None:
        self.files[file] = self._redactor.text(text)

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out[what] = self._redactor.text(reason)

    async def unless_refused(self, what: str, asked: Awaitable[T]) -> T | None:
        """The answer; None if the API server refuses it, and then the reason is in the list of contents."""
        try:
            return await asked
        except Refused as error:
            self.leave_out(what, what_was_said(error))
            return None

    def contents(self) -> str:
        """The list of contents: names, numbers and reasons, no value."""
        kept = {each.label: each.why_not_removed for each in self._values if each.why_not_removed}
        return _json(
            {
                "files": sorted({*self.files, CONTENTS}),
                "removed": [{"what": what, "count": count} for what, count in sorted(self._redactor.counts.items())],
                "notRemoved": [{"what": what, "reason": reason} for what, reason in sorted(kept.items())],
                "leftOut": [{"what": what, "reason": reason} for what, reason in sorted(self.left_out.items())],
            }
        )


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

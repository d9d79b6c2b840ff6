"""Parser of the pages of a list that parses one object at a time.

Each object may have 1.5 MB, and parsing an object takes up to 45 ms. Parsing a whole page in one step would block the
event loop for up to a second, and would need the memory of all objects at the same time.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from streamconsumer.operator.manifests import Manifest

ITEMS = '"items":'
"""Key of the list of objects. Quotes inside a JSON string are escaped, so that no value can contain this key."""

_SEPARATORS = " \t\r\n,["
_decoder = json.JSONDecoder()


class ListPage:
    """A page of a list, as the API server sent the page. The server sends the metadata before the items."""

    def __init__(self, text: str) -> None:
        """Parse the metadata. Raises ValueError if the text is not a list."""
        self._text = text
        self._begin = text.find(ITEMS)
        if self._begin < 0:
            raise ValueError("found no items in the response, expected a list")
        head = text[: self._begin].rstrip(_SEPARATORS)
        self.fields: dict[str, Any] = json.loads(head + "}") if head else {}

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.fields.get("metadata", {})
        return metadata

    async def items(self) -> AsyncIterator[Manifest]:
        """Yield every object. Other tasks run between two objects."""
        text, position = self._text, self._begin + len(ITEMS)
        if text.startswith("null", position):
            return
        while (position := _skip_separators(text, position)) < len(text) and text[position] != "]":
            item, position = _decoder.raw_decode(text, position)
            yield item
            await asyncio.sleep(0)


def _skip_separators(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SEPARATORS:
        position += 1
    return position

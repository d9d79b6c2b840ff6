"""Parser of the pages of a list. The parser parses one object at a time.

An object may have up to 1.5 MB, and parsing an object takes up to 45 ms. Parsing a whole page in one step would block
the event loop for up to a second, and would need the memory of all objects at the same time.
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
    """A page of a list, as the API server sent the page."""

    def __init__(self, text: str) -> None:
        """Find the objects. Raises ValueError if the text is not a list."""
        self._text = text
        self._begin = text.find(ITEMS)
        if self._begin < 0:
            raise ValueError("found no items in the response, expected a list")
        head = text[: self._begin].rstrip(_SEPARATORS)
        self._fields: dict[str, Any] = json.loads(head + "}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the list. The metadata is complete only after all objects have been parsed, because the API
        server sends the metadata of a list of custom resources after the objects."""
        metadata: dict[str, Any] = self._fields.get("metadata", {})
        return metadata

    async def items(self) -> AsyncIterator[Manifest]:
        """Yield every object. Between two objects, other tasks of the event loop can run."""
        text, position = self._text, self._begin + len(ITEMS)
        is_null = text.startswith("null", position)
        while not is_null and text[position := _skip_separators(text, position)] != "]":
            item, position = _decoder.raw_decode(text, position)
            yield item
            await asyncio.sleep(0)
        tail = text[position + (len("null") if is_null else len("]")) :].lstrip(_SEPARATORS)
        self._fields |= json.loads("{" + tail)


def _skip_separators(text: str, position: int) -> int:
    while text[position] in _SEPARATORS:
        position += 1
    return position

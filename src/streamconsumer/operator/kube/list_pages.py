"""Parser of the pages of a list that receives and parses one object at a time.

An object may have up to 1.5 MB, and parsing an object takes up to 45 ms. Parsing a whole page in one step would block
the event loop for up to a second, and would need the memory of all objects at the same time.
"""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from streamconsumer.operator.manifests import Manifest

ITEMS = '"items":'
"""Key of the list of objects. Quotes inside a JSON string are escaped, so that no value can contain this key."""

_SEPARATORS = " \t\r\n,["
_separators = re.compile(f"[{re.escape(_SEPARATORS)}]*")
_json = json.JSONDecoder()


class ListPage:
    """A page of a list, as the API server sends the page. The page keeps only the text of the current object."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks, self._utf8 = chunks, codecs.getincrementaldecoder("utf-8")()
        self._text, self._position = "", 0
        """Received text, and the position of its first character that was not parsed yet."""
        self._fields: dict[str, Any] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the list. The metadata is complete only after all objects have been parsed, because the API
        server sends the metadata of a list of custom resources after the objects."""
        metadata: dict[str, Any] = self._fields.get("metadata", {})
        return metadata

    async def items(self) -> AsyncIterator[Manifest]:
        """Yield every object. Other tasks run between two objects. Raises ValueError if the page is not a list."""
        await self._read_head()
        is_null = await self._next_character() == "n"
        while not is_null and await self._next_character() != "]":
            yield await self._next_object()
            await asyncio.sleep(0)
        while await self._receive():
            pass
        tail = self._text.removeprefix("null" if is_null else "]")
        self._fields |= json.loads("{" + tail.lstrip(_SEPARATORS))

    async def _read_head(self) -> None:
        while (begin := self._text.find(ITEMS)) < 0:
            if not await self._receive():
                raise ValueError("found no items in the response, expected a list")
        self._fields = json.loads(self._text[:begin].rstrip(_SEPARATORS) + "}")
        self._position = begin + len(ITEMS)

    async def _next_character(self) -> str:
        """Skip separators and return the next character."""
        while True:
            if match := _separators.match(self._text, self._position):
                self._position = match.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not await self._receive():
                raise ValueError("found the end of the response, expected an object")

    async def _next_object(self) -> Manifest:
        """Return the next object. An attempt to parse an incomplete object fails. The received text then at least
        doubles before the next attempt, so that the failed attempts take no longer than the last attempt."""
        while True:
            try:
                item, self._position = _json.raw_decode(self._text, self._position)
            except ValueError:
                if not await self._receive(len(self._text) - self._position):
                    raise
            else:
                manifest: Manifest = item
                return manifest

    async def _receive(self, min_length: int = 1) -> bool:
        """Receive text with at least this length, or up to the end. Returns False at the end."""
        parts, length = [self._text[self._position :]], 0
        while length < min_length and (chunk := await anext(self._chunks, None)) is not None:
            parts.append(self._utf8.decode(chunk))
            length += len(parts[-1])
        self._text, self._position = "".join(parts), 0
        return length > 0

"""The pages of a list: the query of each page, and a parser that receives and parses one object at a time.

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


PAGE_SIZE = 20
"""The number of objects in one page of a list. Even a page of the largest objects, with 1.5 MB each, is received within
the time limit of a request."""

EXPIRED = 410
"""The HTTP status code that the API server returns if it no longer has the version of the list."""


class PageQuery:
    """The query of the next page of a list.

    The API server keeps the version of a list for a limited time (5 minutes by default). If reading the pages takes
    longer, the list starts again. The new list is a single page, so that the caller receives some objects a second
    time."""

    def __init__(self, selector: str = "") -> None:
        self._limit = {"limit": str(PAGE_SIZE)}
        self._selector = {"labelSelector": selector} if selector else {}
        self._token = ""

    @property
    def parameters(self) -> dict[str, str]:
        """The query parameters of the next page."""
        return self._limit | self._selector | ({"continue": self._token} if self._token else {})

    def advance(self, page: "ListPage") -> bool:
        """Set the query to the page that follows `page`. Returns False if `page` was the last page."""
        self._token = page.metadata.get("continue") or ""
        return bool(self._token)

    def restart(self, status: int) -> bool:
        """Start the list again if a page was rejected because the list has expired. Returns False for other errors."""
        has_expired = status == EXPIRED and bool(self._token)
        if has_expired:
            self._limit, self._token = {}, ""
        return has_expired


class ListPage:
    """A page of a list, in the form in which the API server sends it. The page keeps only the text of the current
    object."""

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
        """Return the next object. An attempt to parse an incomplete object fails. Before the next attempt, the length
        of the received text at least doubles, so that all failed attempts together take no longer than the successful
        attempt."""
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
        """Receive more text: at least `min_length` characters, or all text up to the end of the response. Returns False
        if the response has already ended."""
        parts, length = [self._text[self._position :]], 0
        while length < min_length and (chunk := await anext(self._chunks, None)) is not None:
            parts.append(self._utf8.decode(chunk))
            length += len(parts[-1])
        self._text, self._position = "".join(parts), 0
        return length > 0

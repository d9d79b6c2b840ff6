"""Limits of the replies that a connection accepts: size, nesting depth and types.

A Redis server may belong to a tenant, so a reply is untrusted until it is parsed. The default parser of redis-py,
hiredis, stores even an endless reply completely. In addition, hiredis allocates all elements that an array declares:
`*2000000000` takes 15 GB of virtual memory, and releasing this memory takes seconds. The parser in this module
allocates only received elements, and refuses a reply as soon as the declared or received size exceeds the limit.
Parsing in Python is much slower than hiredis. The reading connection of a consumer therefore uses hiredis, and counts
the received bytes itself.

The size of a reply is the number of received bytes plus ELEMENT_BYTES for each element, because an element of 4 bytes
becomes an object of up to 80 bytes.
"""

from typing import Any

from redis._parsers.base import AsyncBaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

ELEMENT_BYTES = 64
"""Number of bytes that each element adds to the size of a reply, in addition to the received bytes."""

ERROR_BYTES = 1024
"""Number of bytes that each error adds to the size of a reply, in addition to the received bytes. An error becomes
several objects, and handling an error takes 10 µs."""

MAX_DEPTH = 8
"""Maximum nesting depth of arrays. The replies to the commands of this package have up to 4 levels."""

MAX_LINE_BYTES = 65_536
"""Maximum length of a simple string or an error."""

MAX_ERROR_BYTES = 1000
"""Maximum length of an error reply in bytes. An error above this length is truncated."""

INCOMPLETE = object()
"""Result of `ReplyDecoder.next_reply` if the received data contains no complete reply."""

_SIMPLE_STRING, _ERROR, _INTEGER, _BULK_STRING, _ARRAY = b"+-:$*"
_TEXT_KINDS, _NUMBER_KINDS = b"+-", b":$*"
_MAX_NUMBER_LINE = 24
_MAX_INTEGER = 2**63 - 1


class ReplyTooLarge(RedisConnectionError):
    """A reply exceeds the limit. The connection must be closed, because the rest of the reply is unread."""

    @property
    def unquoted(self) -> str:
        """The message, which contains no text of the server."""
        return str(self)


class ReplyLimits:
    """Limits of the replies on one connection.

    Pass `parser` as the option `parser_class` of a redis-py connection.
    """

    def __init__(self, reply_bytes: int) -> None:
        """`reply_bytes` is the maximum size of one reply."""
        self._reply_bytes = reply_bytes
        self._remaining: int | None = None

    def limit_total(self, total_bytes: int) -> None:
        """Limit the total size of all replies until the next call of this method."""
        self._remaining = total_bytes

    def parser(self, socket_read_size: int) -> "LimitedParser":
        """Create the parser of one connection."""
        return LimitedParser(socket_read_size, self)

    def next_limit(self) -> int:
        return self._reply_bytes if self._remaining is None else min(self._reply_bytes, self._remaining)

    def add(self, size: int) -> None:
        """Add the size of a complete reply to the total size."""
        if self._remaining is not None:
            self._remaining -= size


class ReplyDecoder:
    """Incremental decoder of RESP 2. Bulk strings and simple strings become bytes."""

    def __init__(self, limits: ReplyLimits) -> None:
        self._limits = limits
        self._chunks: list[bytes] = []
        """Data that was received after the data in `_buffer`."""
        self._missing = 0
        """Minimum number of bytes that are still missing from the current element."""
        self._buffer, self._position = b"", 0
        self._arrays: list[tuple[list[Any], int]] = []
        """Arrays that are not complete, outermost first, each with its declared length."""
        self._max_size = limits.next_limit()
        self._size = 0

    @property
    def has_data(self) -> bool:
        """True if the buffers contain data that has not been returned as a reply."""
        return bool(self._chunks or self._arrays) or self._position < len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._missing -= len(data)

    def next_reply(self) -> Any:
        """Return the next complete reply, or INCOMPLETE. An error reply is returned as an exception.

        Raises ReplyTooLarge if the reply exceeds a limit, and InvalidResponse if the data is not RESP 2.
        """
        if self._missing > 0:
            return INCOMPLETE
        if self._chunks:
            self._buffer = b"".join([self._buffer[self._position :], *self._chunks])
            self._position, self._chunks = 0, []
        if not self._size:
            self._max_size = self._limits.next_limit()
        while (value := self._next_element()) is not INCOMPLETE:
            while self._arrays:
                items, length = self._arrays[-1]
                items.append(value)
                if len(items) < length:
                    break
                value = items
                self._arrays.pop()
            else:
                self._limits.add(self._size)
                self._size = 0
                return value
        return INCOMPLETE

    def _next_element(self) -> Any:
        """Return the next element, or INCOMPLETE. A non-empty array is added to `_arrays` instead of being returned."""
        while True:
            buffer, begin = self._buffer, self._position
            end = buffer.find(b"\r\n", begin)
            if end < 0:
                self._check_begin_of_line()
                return INCOMPLETE
            kind, line, next_position = buffer[begin], buffer[begin + 1 : end], end + 2
            value: Any
            if kind in _TEXT_KINDS:
                value = line if kind == _SIMPLE_STRING else _to_error(line)
            elif (number := _to_integer(kind, line)) is None:
                value = None
            elif kind == _BULK_STRING:
                next_position += number + 2
                if (value := self._bulk_string(end + 2, next_position)) is INCOMPLETE:
                    return INCOMPLETE
            else:
                value = number if kind == _INTEGER else []
            self._size += next_position - begin + (ERROR_BYTES if kind == _ERROR else ELEMENT_BYTES)
            self._check_size(0)
            self._position = next_position
            if kind != _ARRAY or not number:
                return value
            self._check_size(number * ELEMENT_BYTES)
            if len(self._arrays) == MAX_DEPTH:
                raise InvalidResponse(f"found a reply with more than {MAX_DEPTH} levels of nested arrays")
            self._arrays.append((value, number))

    def _bulk_string(self, begin: int, next_position: int) -> Any:
        """Return the bulk string at `begin`, or INCOMPLETE."""
        self._check_size(next_position - self._position)
        if (missing := next_position - len(self._buffer)) > 0:
            self._missing = missing
            return INCOMPLETE
        if self._buffer[next_position - 2 : next_position] != b"\r\n":
            raise _invalid(self._buffer[next_position - 2 : next_position])
        return self._buffer[begin : next_position - 2]

    def _check_size(self, size: int) -> None:
        """Raise ReplyTooLarge if the reply would exceed the limit with `size` more bytes."""
        if self._size + size > self._max_size:
            raise too_large(self._max_size)

    def _check_begin_of_line(self) -> None:
        """Raise an error if the buffered data is not the beginning of an element."""
        begin = self._buffer[self._position : self._position + _MAX_NUMBER_LINE]
        is_text = not begin or begin[0] in _TEXT_KINDS
        if not is_text and (begin[0] not in _NUMBER_KINDS or len(begin) == _MAX_NUMBER_LINE):
            raise _invalid(begin)
        if len(self._buffer) - self._position > MAX_LINE_BYTES:
            raise too_large(MAX_LINE_BYTES)
        self._missing = 1


class LimitedParser(AsyncBaseParser):
    """Parser of a redis-py connection that raises ReplyTooLarge for a reply above the limits."""

    def __init__(self, socket_read_size: int, limits: ReplyLimits) -> None:
        super().__init__(socket_read_size)
        self._limits = limits
        self._decoder = ReplyDecoder(limits)
        self._connected = False

    def on_connect(self, connection: Any) -> None:
        self._stream = connection._reader  # noqa: SLF001 - as in the parsers of redis-py
        self._decoder = ReplyDecoder(self._limits)
        self._connected = True

    def on_disconnect(self) -> None:
        self._connected = False

    async def can_read(self) -> bool:
        """Return True if the server has sent unsolicited data, or has closed the connection."""
        if not self._connected or self._stream is None:
            raise RedisConnectionError("the connection is closed")
        return self._decoder.has_data or self._stream.at_eof() or bool(self._stream._buffer)  # type: ignore[attr-defined] # noqa: SLF001 - asyncio has no public access to the buffer

    async def can_read_destructive(self) -> bool:
        return await self.can_read()

    async def read_response(self, disable_decoding: bool = False) -> Any:  # noqa: ARG002 - redis-py's signature
        """Return the next reply."""
        if not self._connected or self._stream is None:
            raise RedisConnectionError("the connection is closed")
        while (reply := self._decoder.next_reply()) is INCOMPLETE:
            data = await self._stream.read(self._read_size)
            if not data:
                raise RedisConnectionError("the server closed the connection")
            self._decoder.feed(data)
        if isinstance(reply, RedisConnectionError):
            raise reply
        return reply


def too_large(max_bytes: int) -> ReplyTooLarge:
    """Return the error for a reply above the limit."""
    return ReplyTooLarge(f"the reply exceeds the limit of {max_bytes} bytes")


def _to_error(line: bytes) -> Exception:
    error: Exception = AsyncBaseParser.parse_error(line[:MAX_ERROR_BYTES].decode(errors="replace"))  # type: ignore[no-untyped-call]
    return error


def _to_integer(kind: int, line: bytes) -> int | None:
    """Return the value of an integer, or the length of a bulk string or an array, from the first line of the element.
    Returns None for the length -1, which means nil."""
    is_negative = line.startswith(b"-") and kind == _INTEGER
    digits = line[1:] if is_negative else line
    if digits.isdigit() and len(digits) < _MAX_NUMBER_LINE and kind in _NUMBER_KINDS:
        number = -int(digits) if is_negative else int(digits)
        if -_MAX_INTEGER - 1 <= number <= _MAX_INTEGER:
            return number
    if line == b"-1" and kind in (_BULK_STRING, _ARRAY):
        return None
    raise _invalid(bytes([kind]) + line)


def _invalid(data: bytes) -> InvalidResponse:
    """Return the error for data that is not RESP 2.

    Only the first byte is quoted, because a condition must not show a tenant the reply of another service.
    """
    return InvalidResponse(f"found data that begins with {data[:1]!r}, expected a reply in the Redis protocol (RESP 2)")

"""The hot connection: commands out in one write, raw replies back, with nothing of a client library in between.

redis-py connects, encrypts and authenticates; then its transport is taken over. That keeps every way of reaching a
server and saves what its commands cost: 110 microseconds of bookkeeping a round trip against 12 (measured). Nothing
here retries, and a wire that has failed once is never used again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.processor.message import Encoding


class RawConnection(asyncio.Protocol):
    """One connection. Replies come in the order of commands; an error among them is a ResponseError in its place.
    Texts are text where `encoding` is utf-8, with what is not UTF-8 escaped, and bytes otherwise."""

    def __init__(self, connection: AbstractConnection, encoding: Encoding) -> None:
        self._connection = connection  # it owns the socket: let go of it and the socket is closed
        writer: Any = connection._writer  # noqa: SLF001 - there is no public way to it
        self._transport: asyncio.Transport = writer.transport
        self._parser = hiredis.Reader(
            replyError=ResponseError,
            notEnoughData=_INCOMPLETE,
            encoding="utf-8" if encoding == "utf-8" else None,
            errors="surrogateescape",
        )
        self._pending_replies: deque[tuple[asyncio.Future[Any], Callable[[Any], None] | None]] = deque()
        self._error: Exception | None = None
        self.bytes_received = 0
        self.is_ascii = True
        """Whether all that was received, since somebody said so last, was ASCII."""
        self._transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        return self._error is None and not self._transport.is_closing()

    def send(self, packed: bytes, on_first_reply: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        """Send a packed command; the future holds its reply. With `before`, two commands in one write: it is told the
        reply to the first as soon as that comes, although the second may wait."""
        future = asyncio.get_running_loop().create_future()
        if not self.is_usable:
            future.set_exception(self._error or RedisConnectionError("the connection is closed"))
            return future
        self._pending_replies.append((future, on_first_reply))
        self._transport.write(packed)
        return future

    async def execute(self, *command: Any) -> Any:
        """One command, its reply; an error is raised."""
        reply = await self.send(pack_command(*command))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def abort(self) -> None:
        """The server did not answer in time: for this wire it never will."""
        self._fail(RedisTimeoutError("the server does not answer"))
        self._transport.abort()

    async def close(self) -> None:
        """Close it. What was asked for and not answered fails."""
        self._fail(RedisConnectionError("the connection was closed"))
        self._transport.abort()
        await self._connection.disconnect(nowait=True)

    # -- what the transport tells --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self.is_ascii = self.is_ascii and data.isascii()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                self._on_reply(reply)
        except hiredis.ProtocolError as error:
            self._fail(RedisConnectionError(f"the server does not speak Redis' protocol: {error}"))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError(f"connection lost: {exc or 'closed by the server'}"))

    def _on_reply(self, reply: Any) -> None:
        if not self._pending_replies:  # nobody asked: a push, or a server gone mad
            return
        future, before = self._pending_replies[0]
        if before is not None:
            self._pending_replies[0] = (future, None)
            before(reply)
            return
        self._pending_replies.popleft()
        if not future.done():
            future.set_result(reply)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        while self._pending_replies:
            future, _ = self._pending_replies.popleft()
            if not future.done():
                future.set_exception(error)


_INCOMPLETE = object()


def pack_command(*arguments: str | int | bytes) -> bytes:
    """A command as it goes over a wire."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type] # its stub allows one word only
    return packed

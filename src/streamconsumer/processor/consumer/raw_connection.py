"""Reading connection: writes packed commands and returns raw replies, without a client library in between.

redis-py opens, encrypts and authenticates the connection. This class then takes over the transport. All connection
types and options of redis-py therefore work, but a round trip takes less time: 12 microseconds of bookkeeping instead
of 110 (measured). No command is retried, and a connection that has failed once is never used again.
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
    """Pipelined connection. Replies arrive in the order of the commands.

    An error reply is passed on as a ResponseError; only `execute` raises it.
    """

    def __init__(self, connection: AbstractConnection, encoding: Encoding) -> None:
        """Take over the transport of a connection.

        If `encoding` is utf-8, replies contain text, and bytes that are not valid UTF-8 become lone surrogates.
        Otherwise, replies contain bytes.
        """
        self._connection = connection  # keeps the socket open: without a reference it would be closed
        writer: Any = connection._writer  # noqa: SLF001 - redis-py has no public access to it
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
        """True if all data received since the last reset is ASCII. The consumer resets it with each read."""
        self._transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """True if the connection is open and has not failed."""
        return self._error is None and not self._transport.is_closing()

    def send(self, packed: bytes, on_first_reply: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        """Send packed commands in one write. Returns a future of the last reply.

        If `on_first_reply` is given, `packed` contains two commands. The callback receives the reply to the first
        command immediately, even while the second command is still blocking.
        """
        future = asyncio.get_running_loop().create_future()
        if not self.is_usable:
            future.set_exception(self._error or RedisConnectionError("the connection is closed"))
            return future
        self._pending_replies.append((future, on_first_reply))
        self._transport.write(packed)
        return future

    async def execute(self, *command: Any) -> Any:
        """Execute one command and return its reply. Raises a ResponseError for an error reply."""
        reply = await self.send(pack_command(*command))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def abort(self) -> None:
        """Drop the connection. All pending commands fail with a timeout error."""
        self._fail(RedisTimeoutError("the server does not answer"))
        self._transport.abort()

    async def close(self) -> None:
        """Close the connection. Pending commands fail."""
        self._fail(RedisConnectionError("the connection was closed"))
        self._transport.abort()
        await self._connection.disconnect(nowait=True)

    # -- callbacks of the transport ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse received data and pass on complete replies."""
        self.bytes_received += len(data)
        self.is_ascii = self.is_ascii and data.isascii()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                self._on_reply(reply)
        except hiredis.ProtocolError as error:
            self._fail(RedisConnectionError(f"the server does not use the Redis protocol: {error}"))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all pending commands."""
        self._fail(RedisConnectionError(f"connection lost: {exc or 'closed by the server'}"))

    def _on_reply(self, reply: Any) -> None:
        if not self._pending_replies:  # no command is pending: a push message, or a faulty server
            return
        future, on_first_reply = self._pending_replies[0]
        if on_first_reply is not None:
            self._pending_replies[0] = (future, None)
            on_first_reply(reply)
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
    """Return a command in the wire format."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type] # its stub allows a single word only
    return packed

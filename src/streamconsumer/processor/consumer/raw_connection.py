"""The connection on which a consumer reads entries: writes packed commands and returns raw replies.

The client redis-py opens, encrypts and authenticates the connection. `RawConnection` then takes over the transport from
redis-py. All connection types and options of redis-py therefore work. The bookkeeping of a round trip takes 12
microseconds, compared with 110 microseconds in redis-py (measured). No command is retried, and a connection that has
failed once is never used again.

The connection refuses a reply above `max_reply_bytes` while receiving it, because parsing such a reply could exceed the
memory limit of the pod. The size of a reply includes `VALUE_BYTES` for each value, see `memory_limit`.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.processor.consumer.memory_limit import VALUE_BYTES
from streamconsumer.processor.message import Encoding
from streamconsumer.redis_client.replies import UnexpectedReply

LARGE_REPLY_BYTES = 1024 * 1024
"""Minimum size of a reply whose values are counted. A reply below this size always fits into memory."""

PROGRESS_SECONDS = 5.0
"""Time without progress after which the connection counts as dead while a reply is being received."""

MAX_RECEIVE_SECONDS = 30.0
"""Maximum time to receive a reply that has started. A reply that takes longer than this time is too large for the
connection."""

KEEPALIVE_OPTIONS = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""Options of TCP keepalive, with which a dead connection is detected after 10 s. TCP_KEEPIDLE and TCP_KEEPINTVL are in
seconds. TCP_USER_TIMEOUT is in milliseconds, and limits the time until sent data is acknowledged. This limit is needed
because Linux sends no probes while sent data is not acknowledged."""

_MIN_PROGRESS_BYTES = 1024
"""Minimum growth of a reply that counts as progress. The reply to XACK, which precedes the reply to a blocking read, is
smaller than this minimum."""


class ConnectionCut(RedisConnectionError):
    """The connection was lost after it had been established, for example because a reply exceeds a server's limit."""


class UnreadableReply(RedisConnectionError):
    """A reply is larger than `max_reply_bytes`, or takes longer than MAX_RECEIVE_SECONDS. The connection is closed."""


class RawConnection(asyncio.Protocol):
    """Pipelined connection. Replies arrive in the order of the commands.

    Error replies are returned as ResponseError objects; only `execute` raises these errors.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        encoding: Encoding,
        max_reply_bytes: int,
        *,
        value_bytes: int = VALUE_BYTES,
        on_lost: Callable[[], object] = lambda: None,
    ) -> None:
        """Take over the transport of a connection. `on_lost` is called when the transport is closed.

        If `encoding` is utf-8, replies contain text, and bytes that are not valid UTF-8 become lone surrogates.
        Otherwise, replies contain bytes. The size of a large reply includes `value_bytes` for each value.
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
        self._on_lost = on_lost
        self._max_reply_bytes, self._value_bytes = max_reply_bytes, value_bytes
        self._timer: asyncio.TimerHandle | None = None
        self.bytes_received = 0
        """Size of the data received since the last reset. The consumer resets the size with each read."""
        self.is_ascii = True
        """True if all data received since the last reset is ASCII. The consumer resets this flag with each read."""
        self._transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """True if the connection is open and has not failed."""
        return self._error is None and not self._transport.is_closing()

    @property
    def is_receiving(self) -> bool:
        """True while a reply that may take a long time is being received."""
        return bool(self._pending_replies) and self.bytes_received > LARGE_REPLY_BYTES // 16

    def send(self, packed: bytes, on_first_reply: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        """Send packed commands in one write. Returns a future for the last reply.

        If `on_first_reply` is given, `packed` contains two commands. The callback receives the reply to the first
        command immediately, even while the second command is still blocking.
        """
        future = asyncio.get_running_loop().create_future()
        if not self.is_usable:
            future.set_exception(self._error or RedisConnectionError("the connection is closed"))
            return future
        self._pending_replies.append((future, on_first_reply))
        try:
            self._transport.write(packed)
        except BaseException:  # out of memory
            self._pending_replies.pop()
            raise
        return future

    async def execute(self, *command: Any) -> Any:
        """Execute one command and return its reply. Raises a ResponseError for an error reply."""
        reply = await self.send(pack_command(*command))
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Execute two commands in one round trip. Returns both replies; an error reply is a ResponseError object."""
        first: list[Any] = []
        second = await self.send(b"".join(pack_command(*command) for command in commands), first.append)
        return [*first, second]

    async def execute_within(self, seconds: float, *command: Any) -> Any:
        """Execute one command, and drop the connection if the server does not begin to reply within `seconds`."""
        self.bytes_received = 0
        self.start_timer(seconds)
        try:
            return await self.execute(*command)
        finally:
            self.stop_timer()

    def start_timer(self, seconds: float) -> None:
        """Drop the connection if no reply begins within `seconds`, or if a reply that has started stops growing."""
        deadline = asyncio.get_running_loop().time() + seconds + MAX_RECEIVE_SECONDS
        self._start_timer(seconds, self.bytes_received, deadline)

    def stop_timer(self) -> None:
        """Cancel the timer that `start_timer` started."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, seconds: float, received: int, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._check_progress, received + _MIN_PROGRESS_BYTES, deadline)

    def _check_progress(self, expected: int, deadline: float) -> None:
        if self.bytes_received < expected:
            self.abort()
        elif asyncio.get_running_loop().time() > deadline:
            seconds = f"{MAX_RECEIVE_SECONDS:.0f} s"
            self._refuse(f"found {self.bytes_received} bytes of a reply after {seconds}, expected the complete reply")
        else:
            self._start_timer(PROGRESS_SECONDS, self.bytes_received, deadline)

    def keep_alive(self) -> None:
        """Let the operating system detect within 10 s that the other end no longer replies.

        Does nothing for a Unix socket, or if the options of the connection disable keepalive."""
        tcp: socket.socket | None = self._transport.get_extra_info("socket")
        if tcp and tcp.family != socket.AF_UNIX and tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            for name, value in KEEPALIVE_OPTIONS.items():
                if hasattr(socket, name):
                    tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

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
        if self.bytes_received > LARGE_REPLY_BYTES and self._is_too_large(data):
            return
        self.is_ascii = self.is_ascii and data.isascii()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                self._on_reply(reply)
        except hiredis.ProtocolError as error:
            self._fail(RedisConnectionError(f"the server does not use the Redis protocol: {error}"))
            self._transport.abort()
        except UnexpectedReply as error:  # raised by `on_first_reply`
            self._fail(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all pending commands."""
        self._on_lost()
        self._fail(ConnectionCut(f"connection lost: {exc or 'closed by the server'}"))

    def _is_too_large(self, data: bytes) -> bool:
        """Add the overhead of the values in `data` to the size of a large reply. Drop the connection if the size
        exceeds the limit.

        In the reply, each value has two line ends, and each other element has one. The size of a value that itself
        contains line ends is overestimated. If a reply is refused because of an overestimated size, a script reads the
        entry again and measures its exact size.
        """
        self.bytes_received += self._value_bytes // 2 * data.count(b"\r")
        if self.bytes_received <= self._max_reply_bytes:
            return False
        self._refuse(f"found a reply of more than {self._max_reply_bytes} bytes")
        return True

    def _refuse(self, problem: str) -> None:
        self._fail(UnreadableReply(problem))
        self._parser = hiredis.Reader()  # releases the received part of the reply
        self._transport.abort()

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
    """Return a command in the wire format. Lone surrogates become the bytes that they replaced."""
    try:
        packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type] # its stub allows a single word only
    except UnicodeEncodeError:
        words = (word.encode(errors="surrogateescape") if isinstance(word, str) else word for word in arguments)
        return pack_command(*words)
    return packed

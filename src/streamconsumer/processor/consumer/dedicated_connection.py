"""Connection for one purpose: opened by the first command, kept open, and opened again after a failure."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.processor.consumer.liveness import command_timeout
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.memory_limit import VALUE_BYTES
from streamconsumer.processor.consumer.raw_connection import RawConnection
from streamconsumer.processor.message import Encoding
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.scripts import execute_by_hash


class DedicatedConnection:
    """Executes one command at a time on a connection of its own. A command is never repeated after an error."""

    def __init__(
        self,
        manager: StreamManager,
        max_reply_bytes: int,
        *,
        timeout_seconds: float | None = None,
        value_bytes: int = VALUE_BYTES,
        encoding: Encoding = "bytes",
    ) -> None:
        """Prepare the connection. A command fails if the server does not begin to reply within `timeout_seconds`.

        By default, the timeout is `liveness.command_timeout`."""
        self._manager = manager
        self._timeout_seconds = timeout_seconds or command_timeout(manager.min_idle)
        self._max_reply_bytes, self._value_bytes = max_reply_bytes, value_bytes
        self._encoding: Encoding = encoding
        self._connection: RawConnection | None = None
        self._lock = asyncio.Lock()
        self.on_connected: Callable[[RawConnection], Awaitable[object]] | None = None
        """Coroutine function that prepares each new connection. None if nothing must be prepared."""
        self.on_lost: Callable[[], object] = lambda: None
        """Called when an open connection is lost."""

    @property
    def is_connected(self) -> bool:
        """True if the connection is open."""
        return self._connection is not None and self._connection.is_usable

    @property
    def is_receiving(self) -> bool:
        """True while a large reply is being received."""
        return self._connection is not None and self._connection.is_receiving

    async def connect(self) -> RawConnection:
        """Return the connection, which is opened if it is not open. Raises connection errors."""
        async with self._lock:
            try:
                return await self._connect()
            except BaseException:
                await self._close()
                raise

    def abort(self) -> None:
        """Drop the connection. All pending commands fail."""
        if self._connection is not None:
            self._connection.abort()

    async def execute(self, *command: Any) -> Any:
        """Execute one command. If the command fails, closes the connection and raises the error. After an ordinary
        error reply, the connection stays open."""
        async with self._lock:
            try:
                connection = await self._connect()
                return await execute_by_hash(partial(connection.execute_within, self._timeout_seconds), command)
            except ResponseError as error:
                if classify_error(error, "").must_relocate:
                    await self._close()
                await self._manager.handle_error(error)
                raise
            except (RedisError, OSError) as error:
                await self._close()
                await self._manager.handle_error(error)
                raise
            except BaseException:
                await self._close()  # otherwise the next command would receive the reply to this command
                raise

    async def close(self) -> None:
        """Close the connection. The next command connects to the current primary."""
        async with self._lock:
            await self._close()

    async def _connect(self) -> RawConnection:
        if self._connection is None or not self._connection.is_usable:
            await self._close()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    opened = await self._manager.connect()
                    connection = self._connection = RawConnection(
                        opened,
                        self._encoding,
                        self._max_reply_bytes,
                        value_bytes=self._value_bytes,
                        on_lost=lambda: self.on_lost(),  # noqa: PLW0108 - may be set later
                    )
                    if self.on_connected is not None:
                        await self.on_connected(connection)
            except TimeoutError:
                raise RedisTimeoutError("the server does not answer") from None
        assert self._connection is not None
        return self._connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                await connection.close()

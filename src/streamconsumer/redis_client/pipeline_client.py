"""Client for the operator and the CLI: sends many commands in one round trip, with one reply for each command.

Errors are returned as replies. If the server rejects a command, only this command fails. If the connection is lost, all
commands fail.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, NO_RETRY_OPTIONS
from streamconsumer.redis_client.credentials import HostResolver
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error, root_cause
from streamconsumer.redis_client.topology import topology

DEFAULT_TIMEOUT_SECONDS = 5.0
"""Timeout of the connect and of each chunk of commands, which limits the wait for a frozen server or lost packets."""

CHUNK_SIZE = 500
"""Maximum number of commands in one chunk. While the server runs a chunk, it does not serve other clients."""

Command = tuple[Any, ...]


class PipelineClient:
    """Connection that is opened by the first command and closed on the first error."""

    def __init__(
        self,
        settings: RedisSettings,
        stream: str,
        resolve_host: HostResolver,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Prepare a client without connecting. Raises InvalidSettings.

        In a Redis Cluster, the client connects to the node that holds `stream`.
        """
        self._timeout_seconds = timeout_seconds
        self._topology = topology(settings, stream, resolve_host)
        if self._topology.credentials.scheme == "unix":
            raise InvalidSettings("found a URL with a Unix socket, expected redis:// or rediss://")
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        """Return the raw replies in order, with a RedisErrorInfo for each command that the server rejects.

        Returns a single RedisErrorInfo if the server cannot be reached.
        """
        async with self._lock:
            return await self._execute(commands)

    async def _execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        raw_replies: list[Any] = []
        try:
            for begin in range(0, len(commands), CHUNK_SIZE):
                async with asyncio.timeout(self._timeout_seconds):
                    raw_replies += await self._execute_chunk(commands[begin : begin + CHUNK_SIZE])
        except TimeoutError:
            await self.close()
            timeout = TimeoutError(f"no answer within {self._timeout_seconds:.0f} s")
            return classify_error(timeout, self._server_name)
        except (RedisError, OSError) as error:
            await self.close()
            return classify_error(root_cause(error), self._server_name)
        except BaseException:
            await self.close()  # otherwise the next command would receive a reply to this one
            raise
        if any(isinstance(reply, RedisErrorInfo) and reply.must_relocate for reply in raw_replies):
            await self.close()
        return raw_replies

    async def close(self) -> None:
        """Close the connection. The next command finds the stream's server again and connects to it."""
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.disconnect(nowait=True)

    @property
    def _server_name(self) -> str:
        host, port = self._topology.address
        return host if port is None else f"{host}:{port}"

    async def _execute_chunk(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._connect()
        await connection.send_packed_command(connection.pack_commands(commands))
        return [await self._read_reply(connection) for _ in commands]

    async def _read_reply(self, connection: AbstractConnection) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return classify_error(error, self._server_name)

    async def _connect(self) -> AbstractConnection:
        if self._connection is None:
            credentials = self._topology.credentials
            timeouts = {"socket_timeout": self._timeout_seconds, "socket_connect_timeout": DEFAULT_TIMEOUT_SECONDS}
            options = {**credentials.connection_options(), **timeouts, **NO_RETRY_OPTIONS}
            self._connection = CONNECTION_CLASSES[credentials.scheme](**options, address_source=self._topology)
            await self._connection.connect()  # type: ignore[no-untyped-call] # ships no types
        return self._connection

"""One connection for who looks from outside now and then: many questions in one round trip, each with its own answer.

Errors are answers: what the server refuses concerns one question, and that it cannot be reached concerns them all.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, NO_RETRY_OPTIONS
from streamconsumer.redis_client.credentials import HostResolver
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error
from streamconsumer.redis_client.topology import topology

DEFAULT_TIMEOUT_SECONDS = 5.0
"""For connecting, and for each portion: a server that is frozen, or behind a network that swallows everything."""

CHUNK_SIZE = 500
"""Questions at once: the server answers them without looking at anybody else."""

Command = tuple[Any, ...]


class PipelineClient:
    """A connection that is made when something is asked and it is not there, and given up at the first doubt."""

    def __init__(
        self,
        settings: RedisSettings,
        stream: str,
        resolve_host: HostResolver,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """`stream` says which node of a Cluster. Raises InvalidSettings; nothing connects yet."""
        self._timeout_seconds = timeout_seconds
        self._topology = topology(settings, stream, resolve_host)
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        """The raw replies in order, a Fault where the server refuses; one Fault where nobody answers."""
        async with self._lock:
            return await self._execute(commands)

    async def _execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        answers: list[Any] = []
        try:
            for begin in range(0, len(commands), CHUNK_SIZE):
                async with asyncio.timeout(self._timeout_seconds):
                    answers += await self._execute_chunk(commands[begin : begin + CHUNK_SIZE])
        except TimeoutError as error:
            await self.close()
            return RedisErrorInfo(
                type(error).__name__, f"{self._server_name}: no answer within {self._timeout_seconds:.0f} s"
            )
        except (RedisError, OSError) as error:
            await self.close()
            return classify_error(error, self._server_name)
        except BaseException:
            await self.close()  # a reply that was not waited for would be taken for the next one's
            raise
        if any(isinstance(each, RedisErrorInfo) and each.must_relocate for each in answers):
            await self.close()
        return answers

    async def close(self) -> None:
        """Close the connection; the next question connects anew, wherever the stream then is."""
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
            access = self._topology.credentials
            patience = {"socket_timeout": self._timeout_seconds, "socket_connect_timeout": DEFAULT_TIMEOUT_SECONDS}
            arguments = {
                **access.connection_options(),
                **patience,
                **NO_RETRY_OPTIONS,
                "address_source": self._topology,
            }
            self._connection = CONNECTION_CLASSES[access.scheme](**arguments)
            await self._connection.connect()  # type: ignore[no-untyped-call] # ships no types
        return self._connection

"""Client for the operator and the CLI: sends many commands in one round trip and returns one reply for each.

Errors are returned as replies. If the server rejects a command, only this command fails. If the connection is lost, all
commands fail.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.redis_url import format_host_port
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, limited_options
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo, classify_error, root_cause
from streamconsumer.redis_client.reply_limits import ReplyLimits, ReplyTooLarge
from streamconsumer.redis_client.scripts import execute_all_by_hash
from streamconsumer.redis_client.topology import topology

DEFAULT_TIMEOUT_SECONDS = 5.0
"""Timeout of the connect and of each chunk of commands. The timeout limits the wait for a frozen server or for lost
packets."""

CHUNK_SIZE = 500
"""Maximum number of commands in one chunk. While the server runs a chunk, it does not serve other clients."""

MAX_REPLY_BYTES = 131_072
"""Maximum size of one reply. The operator and the CLI request only numbers, ids and a limited number of names."""

MAX_TOTAL_BYTES = 8_388_608
"""Maximum total size of the replies to one call of `execute`. Each command adds AVERAGE_REPLY_BYTES to the limit."""

AVERAGE_REPLY_BYTES = 2048

MAX_TURN_SECONDS = 0.01
"""Maximum time for which the client reads replies before it lets other tasks run."""

Command = tuple[Any, ...]


class PipelineClient:
    """Client that connects for the first command, and closes the connection after an error.

    After an error reply to a command, the connection stays open, unless the error shows that the primary must be found
    again.
    """

    def __init__(
        self,
        credentials: RedisCredentials,
        stream: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Prepare a client without connecting. Raises InvalidSettings.

        In a Redis Cluster, the client connects to the node that holds `stream`.
        """
        self._timeout_seconds = timeout_seconds
        self._topology = topology(credentials, stream)
        if credentials.scheme == "unix":
            raise InvalidSettings("found a URL with a Unix socket, expected redis:// or rediss://")
        self._limits = ReplyLimits(MAX_REPLY_BYTES)
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        """Return the raw replies in order, with a RedisErrorInfo for each command that the server rejects.

        Returns a single RedisErrorInfo if the server cannot be reached or after any other error. Raises no exception.
        """
        async with self._lock:
            return await self._execute(commands)

    async def _execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        raw_replies: list[Any] = []
        self._limits.limit_total(MAX_TOTAL_BYTES + len(commands) * AVERAGE_REPLY_BYTES)
        try:
            for begin in range(0, len(commands), CHUNK_SIZE):
                async with asyncio.timeout(self._timeout_seconds):
                    raw_replies += await self._execute_chunk(commands[begin : begin + CHUNK_SIZE])
        except TimeoutError:
            await self.close()
            timeout = TimeoutError(f"no answer within {self._timeout_seconds:.0f} s")
            return classify_error(timeout, self._server_name)
        except Exception as error:  # noqa: BLE001 - a setting or a reply can cause any error; it concerns only this server
            await self.close()
            return classify_error(root_cause(error), self._server_name)
        except BaseException:
            await self.close()  # otherwise the next command would receive the reply to an earlier command
            raise
        if any(error.must_relocate for reply in raw_replies for error in _errors_in(reply)):
            await self.close()
        return raw_replies

    async def close(self) -> None:
        """Close the connection. The next command finds the stream's server again and connects to it."""
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.disconnect(nowait=True)

    @property
    def _server_name(self) -> str:
        return format_host_port(*self._topology.address)

    async def _execute_chunk(self, commands: Sequence[Command]) -> list[Any]:
        found = await execute_all_by_hash(partial(self._send, await self._connect()), commands)
        return [classify_errors(reply, self._server_name) for reply in found]

    async def _send(self, connection: AbstractConnection, commands: Sequence[Sequence[Any]]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands))
        replies, turn_began = [], time.monotonic()
        for command in commands:
            replies.append(await self._read_reply(connection, command))
            if time.monotonic() - turn_began > MAX_TURN_SECONDS:
                await asyncio.sleep(0)  # reading received replies does not suspend this task
                turn_began = time.monotonic()
        return replies

    async def _read_reply(self, connection: AbstractConnection, command: Sequence[Any]) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return error
        except ReplyTooLarge as error:
            raise ReplyTooLarge(f"{command_name(command)}: {error}") from None

    async def _connect(self) -> AbstractConnection:
        """Return a connection without unread data.

        If the server has closed the connection or has sent an unsolicited reply, the connection is replaced.
        """
        if self._connection is not None and await self._connection.can_read():
            await self.close()
        if self._connection is None:
            credentials = self._topology.credentials
            timeouts = {"socket_timeout": self._timeout_seconds, "socket_connect_timeout": DEFAULT_TIMEOUT_SECONDS}
            # The options in the URL are not used, because they are for pods.
            options = {**timeouts, **limited_options(self._limits)}
            self._connection = CONNECTION_CLASSES[credentials.scheme](**options, address_source=self._topology)
            await self._connection.connect()  # type: ignore[no-untyped-call] # ships no types
            if await self._connection.can_read():
                raise RedisConnectionError("the server closed the connection, or sent an unsolicited reply")
        return self._connection


def classify_errors(reply: Any, context: str) -> Any:
    """Replace each error in a reply by a RedisErrorInfo, and return the reply. Also replaces errors in an array, which
    a script returns if some of its commands fail. The message of each RedisErrorInfo begins with `context`."""
    if isinstance(reply, Exception):
        return classify_error(reply, context)
    if isinstance(reply, list) and any(isinstance(element, Exception) for element in reply):
        return [classify_error(each, context) if isinstance(each, Exception) else each for each in reply]
    return reply


def _errors_in(reply: Any) -> list[RedisErrorInfo]:
    return [each for each in (reply if isinstance(reply, list) else [reply]) if isinstance(each, RedisErrorInfo)]


def command_name(command: Sequence[Any]) -> str:
    """Return the name of a command for a message, including the subcommand if there is one."""
    has_subcommand = command[0] in {"XINFO", "XGROUP", "CLUSTER", "CONFIG", "CLIENT", "SENTINEL"}
    return " ".join(map(str, command[: 1 + has_subcommand]))

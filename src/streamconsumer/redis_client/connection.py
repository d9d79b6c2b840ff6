"""redis-py connections that resolve their address and credentials at each connect."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.redis_client.credentials import RedisAddress, RedisCredentials
from streamconsumer.redis_client.errors_table import AFTER_TLS_HANDSHAKE

TIMEOUT_SECONDS = 2.0
"""Timeout of a query to one sentinel or one Redis Cluster node. After the timeout, the next server is queried."""


class AddressSource(Protocol):
    """Provides the address of a connection."""

    credentials: RedisCredentials

    async def current_address(self) -> RedisAddress:
        """Return the address to connect to. Called at each connect."""


class ResolvingConnection(AbstractConnection):
    """Base class that sets address and credentials before each connect.

    redis-py calls `_connect` to open the socket, and then runs the handshake with the attributes that `_connect` has
    set.
    """

    def __init__(self, *, address_source: AddressSource, **arguments: Any) -> None:
        self._address_source = address_source
        super().__init__(**arguments)

    async def _connect(self) -> None:
        self._set_address(await self._address_source.current_address())
        await self._open_socket()

    async def _open_socket(self) -> None:
        await super()._connect()  # type: ignore[safe-super,no-untyped-call] # each class below has one

    async def disconnect(
        self,
        nowait: bool = False,
        error: Exception | None = None,
        failure_count: int | None = None,
        health_check_failed: bool = False,
    ) -> None:
        """Close the connection. With `nowait`, drop unsent data, because a server that does not read would otherwise
        keep the socket open."""
        if nowait and self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(nowait, error, failure_count, health_check_failed)

    def _set_address(self, address: RedisAddress) -> None:
        self.db, self.username, self.password = address.database, address.username, address.password


class TcpConnection(ResolvingConnection, Connection):
    """Connection by plain TCP."""

    resolved_host = ""
    """Host name or IP address that `resolve_host` returned and that the connection uses."""

    async def _open_socket(self) -> None:
        """Connect to the first address that accepts the connection."""
        *others, last = await self._address_source.credentials.resolve_host(self.host, int(self.port))
        for self.resolved_host in others:
            with suppress(OSError):
                return await super()._open_socket()
        self.resolved_host = last
        return await super()._open_socket()

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "host": self.resolved_host}

    def _set_address(self, address: RedisAddress) -> None:
        super()._set_address(address)
        self.host, self.port = address.host, address.port


class TlsConnection(TcpConnection, SSLConnection):
    """Connection by TLS."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self.host}

    async def _connect(self) -> None:
        try:
            await super()._connect()
        except TimeoutError:  # Redis without TLS takes the handshake for a command and waits for the rest of it
            message = (
                f"TLS handshake with {self.host}:{self.port} timed out; check that the server uses TLS at this port"
            )
            raise RedisTimeoutError(message) from None

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Mark the error of a connection that ends right after the TLS handshake. `errors_table` explains this error.

        In TLS 1.3, a server verifies the client certificate after the client has finished its handshake. The server's
        alert can get lost because the server closes the connection.
        """
        try:
            await super().on_connect_check_health(check_health)
        except RedisConnectionError as error:
            if type(error) is not RedisConnectionError:  # the server has replied
                raise
            raise RedisConnectionError(f"{error} {AFTER_TLS_HANDSHAKE}") from None

    def _set_address(self, address: RedisAddress) -> None:
        """Set the address, and read the certificate and key files again, because the files may have been rotated."""
        super()._set_address(address)
        # With None, redis-py creates a context from the options of the URL.
        self.ssl_context.context = self._address_source.credentials.tls_context()


class UnixConnection(ResolvingConnection, UnixDomainSocketConnection):
    """Connection by Unix socket."""

    def _set_address(self, address: RedisAddress) -> None:
        super()._set_address(address)
        self.path = address.socket_path


CONNECTION_CLASSES: dict[str, type[ResolvingConnection]] = {
    "redis": TcpConnection,
    "rediss": TlsConnection,
    "unix": UnixConnection,
}
"""Connection class by URL scheme."""

NO_RETRY_OPTIONS: dict[str, Any] = {"decode_responses": False, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
"""Connection options for raw replies and no retries. By default, redis-py 8 would send a command up to eleven times,
even a read. The consume loop retries instead."""


async def execute_once(credentials: RedisCredentials, address: RedisAddress, *command: str) -> Any:
    """Execute one command on one server, over a new connection."""
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    options = {**credentials.connection_options(), **timeouts, **NO_RETRY_OPTIONS}
    address_source = _FixedAddress(credentials, address)
    connection = CONNECTION_CLASSES[credentials.scheme](**options, address_source=address_source)
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # ships no types
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


class _FixedAddress:
    """Address source that always returns the same address."""

    def __init__(self, credentials: RedisCredentials, address: RedisAddress) -> None:
        self.credentials, self._address = credentials, address

    async def current_address(self) -> RedisAddress:
        return self._address

"""redis-py connections that resolve their address and credentials at each connect."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.model.redis_url import RedisUrl, format_host_port
from streamconsumer.redis_client.credentials import RedisAddress, RedisCredentials
from streamconsumer.redis_client.errors_table import AFTER_TLS_HANDSHAKE
from streamconsumer.redis_client.reply_limits import ReplyLimits
from streamconsumer.redis_client.setting_files import run_in_thread
from streamconsumer.redis_client.tls import TlsMaterial

TIMEOUT_SECONDS = 2.0
"""Timeout of a query to one sentinel or one Redis Cluster node. After the timeout, the next sentinel or node is
queried."""


_DRIVER_INFO = DriverInfo()
"""Name and version of redis-py, for CLIENT SETINFO. Without this object, each connection would read the version from a
file."""


class AddressSource(Protocol):
    """Provides the address of a connection."""

    credentials: RedisCredentials

    async def current_address(self) -> RedisAddress:
        """Return the address to connect to. Called at each connect."""


class ResolvingConnection(AbstractConnection):
    """Base class that sets address and credentials before each connect.

    redis-py calls `_connect` to open the socket. Then redis-py performs the handshake with the attributes that
    `_connect` has set.
    """

    def __init__(self, *, address_source: AddressSource, **arguments: Any) -> None:
        self._address_source = address_source
        super().__init__(**{"driver_info": _DRIVER_INFO, **arguments})

    async def _connect(self) -> None:
        self._set_address(await self._address_source.current_address())
        await self._prepare_tls()
        await self._open_socket()

    async def _open_socket(self) -> None:
        await super()._connect()  # type: ignore[safe-super,no-untyped-call] # redis-py's classes define it

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        with keeping_cancellation():
            await super().send_packed_command(command, check_health)

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

    async def _prepare_tls(self) -> None:
        """Do nothing, because only TLS connections need a TLS context."""

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
        except TimeoutError:  # Without TLS, Redis treats the handshake as a command and waits for the rest.
            server = format_host_port(self.host, self.port)
            message = f"TLS handshake with {server} timed out; check that the server uses TLS at this port"
            raise RedisTimeoutError(message) from None

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Add a mark to the error if the connection ends right after the TLS handshake. `errors_table` finds the mark.

        In TLS 1.3, a server verifies the client certificate after the client has finished its handshake. The server's
        alert can get lost because the server closes the connection.
        """
        try:
            await super().on_connect_check_health(check_health)
        except RedisConnectionError as error:
            if type(error) is not RedisConnectionError:  # the server has replied
                raise
            raise RedisConnectionError(f"{error} {AFTER_TLS_HANDSHAKE}") from None

    async def _prepare_tls(self) -> None:
        """Set the TLS context again at each connect, because the certificates may have been rotated."""
        self.ssl_context.context = await self._address_source.credentials.tls_context()


class UrlTlsConnection(SSLConnection):
    """Connection by TLS to a fixed address, for users of the Python library. A thread creates the TLS context."""

    def __init__(self, *, material: TlsMaterial, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._material = material

    async def _connect(self) -> None:
        self.ssl_context.context = await run_in_thread(self._material.context)
        await super()._connect()  # type: ignore[no-untyped-call] # ships no types for it


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

NO_RETRY_OPTIONS: dict[str, Any] = {
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "surrogateescape",
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
}
"""Connection options for raw replies, without retries. By default, redis-py 8 sends a command up to eleven times if the
connection fails, even a command that reads new entries. With these options, only the consume loop retries after an
error."""

MAX_SERVER_QUERY_BYTES = 2_097_152
"""Maximum size of the reply to a command of `execute_once`. The reply to CLUSTER SLOTS has about 1 kB for each
range of slots."""


def limited_options(limits: ReplyLimits) -> dict[str, Any]:
    """Return the options of a connection that returns raw replies within the limits and never retries."""
    return {**NO_RETRY_OPTIONS, "parser_class": limits.parser}


def connection_arguments(url: RedisUrl) -> dict[str, Any]:
    """Return the arguments of a redis-py connection pool for the server that the URL names, without credentials."""
    options: dict[str, Any] = {**url.connection_options, "db": url.database}
    match url.scheme:
        case "unix":
            return {**options, "connection_class": UnixDomainSocketConnection, "path": url.socket_path}
        case "rediss":
            options["connection_class"] = UrlTlsConnection
            options["material"] = TlsMaterial(
                verifies_certificate=url.verifies_certificate, verifies_host_name=url.verifies_host_name
            )
    return {**options, "host": url.host, "port": url.port}


@contextmanager
def keeping_cancellation() -> Iterator[None]:
    """Raise CancelledError at the end of the block if the block has swallowed a cancellation of the current task.

    The client redis-py sends commands with `asyncio.wait_for`. Before Python 3.12, `wait_for` swallows a cancellation
    that arrives when the awaited coroutine ends.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def execute_once(credentials: RedisCredentials, address: RedisAddress, *command: str) -> Any:
    """Execute one command on one server, over a new connection."""
    limits = ReplyLimits(MAX_SERVER_QUERY_BYTES)
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    options = {**timeouts, **limited_options(limits)}
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

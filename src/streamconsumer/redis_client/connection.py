"""Connections that ask where to go, and as whom, each time they connect; otherwise they are redis-py's own."""

from collections.abc import Mapping
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.redis_client.credentials import RedisAddress, RedisCredentials
from streamconsumer.redis_client.errors_table import AFTER_TLS_HANDSHAKE

TIMEOUT_SECONDS = 2.0
"""How long one sentinel, or one node of a cluster, may take with its answer before the next one is asked."""


class AddressSource(Protocol):
    """Where a connection goes."""

    credentials: RedisCredentials

    async def current_address(self) -> RedisAddress:
        """At each connect."""


class ResolvingConnection(AbstractConnection):
    """The part that asks. redis-py calls `_connect` for the socket, and then the handshake with what we set here."""

    def __init__(self, *, address_source: AddressSource, **arguments: Any) -> None:
        self._address_source = address_source
        super().__init__(**arguments)

    async def _connect(self) -> None:
        self._set_address(await self._address_source.current_address())
        await self._resolve_host()
        await super()._connect()  # type: ignore[safe-super,no-untyped-call] # each class below has one

    async def _resolve_host(self) -> None:
        """Of a socket there is nothing to look up."""

    def _set_address(self, address: RedisAddress) -> None:
        self.db, self.username, self.password = address.database, address.username, address.password


class TcpConnection(ResolvingConnection, Connection):
    resolved_host = ""
    """What the host is called from here."""

    async def _resolve_host(self) -> None:
        self.resolved_host = await self._address_source.credentials.resolve_host(self.host, int(self.port))

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "host": self.resolved_host}

    def _set_address(self, address: RedisAddress) -> None:
        super()._set_address(address)
        self.host, self.port = address.host, address.port


class TlsConnection(TcpConnection, SSLConnection):
    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self.host}

    async def _connect(self) -> None:
        try:
            await super()._connect()
        except TimeoutError:  # a Redis without TLS waits for the rest of what it takes for a command
            where = f"{self.host}:{self.port}"
            raise RedisTimeoutError(f"no TLS with {where} in time; does the server speak TLS at this port?") from None

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """In TLS 1.3 a server looks at our certificate when we think that the handshake is done. What it says then may
        get lost behind the end of the connection."""
        try:
            await super().on_connect_check_health(check_health)
        except RedisConnectionError as error:
            if type(error) is not RedisConnectionError:  # it talked to us
                raise
            raise RedisConnectionError(f"{error} {AFTER_TLS_HANDSHAKE}") from None

    def _set_address(self, address: RedisAddress) -> None:
        """Certificates and keys rotate too, so their files are read anew."""
        super()._set_address(address)
        self.ssl_context.context = (
            self._address_source.credentials.tls_context()
        )  # with None, redis-py makes its own of the options


class UnixConnection(ResolvingConnection, UnixDomainSocketConnection):
    def _set_address(self, address: RedisAddress) -> None:
        super()._set_address(address)
        self.path = address.socket_path


CONNECTION_CLASSES: dict[str, type[ResolvingConnection]] = {
    "redis": TcpConnection,
    "rediss": TlsConnection,
    "unix": UnixConnection,
}
"""By the scheme of the URL."""

NO_RETRY_OPTIONS: dict[str, Any] = {"decode_responses": False, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
"""Raw replies, and nothing sent twice: redis-py 8 would send a command up to eleven times, reads included; trying
again is the loop's affair."""


async def execute_once(credentials: RedisCredentials, address: RedisAddress, *command: str) -> Any:
    """One question to one server, over a connection of its own."""
    patience = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    arguments = {
        **credentials.connection_options(),
        **patience,
        **NO_RETRY_OPTIONS,
        "address_source": _FixedAddress(credentials, address),
    }
    connection = CONNECTION_CLASSES[credentials.scheme](**arguments)
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # ships no types
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


class _FixedAddress:
    """A place that is known."""

    def __init__(self, credentials: RedisCredentials, address: RedisAddress) -> None:
        self.credentials, self._address = credentials, address

    async def current_address(self) -> RedisAddress:
        return self._address

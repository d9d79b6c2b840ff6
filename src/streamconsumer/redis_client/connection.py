"""Connections that ask where to go, and as whom, each time they connect; otherwise they are redis-py's own."""

from collections.abc import Mapping
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.redis_client.credentials import Access, Place
from streamconsumer.redis_client.errors_table import AFTER_HANDSHAKE

ASK_SECONDS = 2.0
"""How long one sentinel, or one node of a cluster, may take with its answer before the next one is asked."""


class Destination(Protocol):
    """Where a connection goes."""

    access: Access

    async def place(self) -> Place:
        """At each connect."""


class Located(AbstractConnection):
    """The part that asks. redis-py calls `_connect` for the socket, and then the handshake with what we set here."""

    def __init__(self, *, destination: Destination, **arguments: Any) -> None:
        self._destination = destination
        super().__init__(**arguments)

    async def _connect(self) -> None:
        self._go_to(await self._destination.place())
        await self._look_up()
        await super()._connect()  # type: ignore[safe-super,no-untyped-call] # each class below has one

    async def _look_up(self) -> None:
        """Of a socket there is nothing to look up."""

    def _go_to(self, place: Place) -> None:
        self.db, self.username, self.password = place.database, place.username, place.password


class Tcp(Located, Connection):
    dialled = ""
    """What the host is called from here."""

    async def _look_up(self) -> None:
        self.dialled = await self._destination.access.dial(self.host, int(self.port))

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "host": self.dialled}

    def _go_to(self, place: Place) -> None:
        super()._go_to(place)
        self.host, self.port = place.host, place.port


class Tls(Tcp, SSLConnection):
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
            raise RedisConnectionError(f"{error} {AFTER_HANDSHAKE}") from None

    def _go_to(self, place: Place) -> None:
        """Certificates and keys rotate too, so their files are read anew."""
        super()._go_to(place)
        self.ssl_context.context = self._destination.access.tls()  # with None, redis-py makes its own of the options


class Socket(Located, UnixDomainSocketConnection):
    def _go_to(self, place: Place) -> None:
        super()._go_to(place)
        self.path = place.path


KINDS: dict[str, type[Located]] = {"redis": Tcp, "rediss": Tls, "unix": Socket}
"""By the scheme of the URL."""

ONCE: dict[str, Any] = {"decode_responses": False, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
"""Raw replies, and nothing sent twice: redis-py 8 would send a command up to eleven times, reads included; trying
again is the loop's affair."""


async def ask(access: Access, place: Place, *question: str) -> Any:
    """One question to one server, over a connection of its own."""
    patience = {"socket_timeout": ASK_SECONDS, "socket_connect_timeout": ASK_SECONDS}
    arguments = {**access.options(), **patience, **ONCE, "destination": _There(access, place)}
    connection = KINDS[access.scheme](**arguments)
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # ships no types
        await connection.send_command(*question)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


class _There:
    """A place that is known."""

    def __init__(self, access: Access, place: Place) -> None:
        self.access, self._place = access, place

    async def place(self) -> Place:
        return self._place

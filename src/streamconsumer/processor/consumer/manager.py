"""StreamManager: the public class for access to Redis, which also creates the connections of a consumer."""

import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from datetime import timedelta
from threading import Event
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.library_arguments import ManagerArguments, check_arguments
from streamconsumer.model.processor_settings import Delivery, RedisSettings, Retention
from streamconsumer.model.redis_url import InvalidRedisUrl, format_host_port, parse_redis_url
from streamconsumer.processor.forked_children import close_socket_in_children, fork_count
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, connection_arguments, limited_options
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import same_slot
from streamconsumer.redis_client.pipeline_client import command_name
from streamconsumer.redis_client.reply_limits import ReplyLimits, ReplyTooLarge
from streamconsumer.redis_client.scripts import FIND_GROUP, execute_all_by_hash, execute_by_hash
from streamconsumer.redis_client.sentinel_copy import close_sentinel_pool, copy_sentinel_pool
from streamconsumer.redis_client.topology import topology

MAX_REPLY_BYTES = 33_554_432
"""Maximum size of a reply on a control connection. `delivery.maxEntryBytes` is added to this size, so that one entry of
the maximum size also fits into the reply."""

MAX_CONNECTS = 5
"""Maximum number of connections that are opened for one purpose while a handler forks children."""

_OPTIONS_NOT_COPIED = {"himport_registry", "event_dispatcher", "maint_notifications_config", "client_name"}


class _ControlPool(BlockingConnectionPool):
    """Connection pool whose sockets are closed in forked children."""

    def make_connection(self) -> AbstractConnection:
        connection: AbstractConnection = super().make_connection()  # type: ignore[no-untyped-call]
        close_socket_in_children(connection, _find_socket)
        return connection


class StreamManager:
    """Access to Redis Streams: creates a group, reads from the group and acknowledges entries.

    Create a manager from a URL with `from_url`, or from a `redis.asyncio.Redis` client. `RedisStreamProcessor` also
    uses the manager's connections for blocking reads, lease renewal and claims.
    """

    def __init__(
        self,
        client: Redis,
        *,
        start_from: str = "0",
        encoding: Encoding = "utf-8",
        min_idle: timedelta | None = None,
        delivery: Delivery | None = None,
        retention: Retention | None = None,
    ) -> None:
        """Create a manager with the connection options of a client, without connecting yet.

        The keyword arguments are those of `from_url`. The manager keeps the client, so that its pool and its
        credential provider live as long as the manager. Raises InvalidSettings.
        """
        options = {"start_from": start_from, "encoding": encoding, "min_idle": min_idle}
        check_arguments(ManagerArguments, {**options, "delivery": delivery, "retention": retention})
        self.start_from, self.encoding = start_from, encoding
        self.delivery, self.retention = delivery or Delivery(), retention or Retention()
        self.min_idle = min_idle or self.delivery.min_idle
        pool = _check_client(client).connection_pool
        self._client = client
        self._connection_class: type[AbstractConnection] = pool.connection_class
        self._connection_options = {
            key: value
            for key, value in pool.connection_kwargs.items()
            if key not in _OPTIONS_NOT_COPIED and not key.startswith(("maint_", "orig_", "oss_"))
        } | limited_options(ReplyLimits(MAX_REPLY_BYTES + self.delivery.max_entry_bytes))
        self.command_refused = Event()
        """Event that is set when the server rejects a command because a permission is missing or the command is
        unknown. While the event is set, the consumer repeats the preflight checks before its next read. Clones share
        the event.
        """
        self._connect_to(pool)

    def _connect_to(self, pool: ConnectionPool | None) -> None:
        """Create the control client, which connects to the server of `pool`."""
        self._sentinel_pool = copy_sentinel_pool(pool)
        if self._sentinel_pool is not None:
            self._connection_options = {**self._connection_options, "connection_pool": self._sentinel_pool}
        control_pool = _ControlPool(
            connection_class=self._connection_class, max_connections=8, **self._connection_options
        )
        self.control: Redis = Redis(connection_pool=control_pool)
        self.control.response_callbacks.clear()  # raw replies: the parsed replies of redis-py omit needed fields

    def clone(self) -> Self:
        """Return a copy with its own connections, for the event loop of another thread."""
        other = copy(self)
        other._connect_to(self._sentinel_pool)  # noqa: SLF001 - an object of the same class
        return other

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        start_from: str = "0",
        encoding: Encoding = "utf-8",
        min_idle: timedelta | None = None,
        delivery: Delivery | None = None,
        retention: Retention | None = None,
    ) -> Self:
        """Create a manager for one Redis server, without connecting yet.

        The URL can contain options, such as `?socket_timeout=3` (seconds). docs/redis.md lists the options. For other
        options, such as files with certificates, pass a `redis.asyncio.Redis` client to the class instead. Raises
        InvalidSettings.

        Args:
            url: `redis://host:port/db`, `rediss://host:port/db` (TLS) or `unix:///path/to/socket`.
            username: Redis user, if the URL contains none. Default: the default user.
            password: password of the user, if the URL contains none. Default: none.
            start_from: start of a consumer group that does not exist yet: "0" for all entries of the stream, "$" for
                new entries only, or an entry id. Default: "0".
            encoding: "utf-8" passes field names and values to the handler as text, "bytes" as bytes. Default: "utf-8".
            min_idle: idle time after which a pending entry of another program's consumer is claimed. Default:
                `delivery.min_idle`, which is 30 seconds by default.
            delivery: retries, dead letters and the circuit breaker. Default: `Delivery()`.
            retention: rules for trimming the stream. Default: no trimming.
        """
        for name, value in {"url": url, "username": username, "password": password}.items():
            if not isinstance(value, str) and (name == "url" or value is not None):
                raise InvalidSettings(f"{name}: found {type(value).__name__}, expected text")
        try:
            parsed = parse_redis_url(url)
        except InvalidRedisUrl as error:
            raise InvalidSettings(f"url: {error}") from None
        credentials: dict[str, Any] = {"username": parsed.username or username, "password": parsed.password or password}
        pool = ConnectionPool(**connection_arguments(parsed), **credentials)
        return cls(
            Redis(connection_pool=pool),
            start_from=start_from,
            encoding=encoding,
            min_idle=min_idle,
            delivery=delivery,
            retention=retention,
        )

    @classmethod
    def from_settings(
        cls,
        settings: RedisSettings,
        stream: str,
        *,
        start_from: str = "0",
        encoding: Encoding = "utf-8",
        delivery: Delivery | None = None,
        retention: Retention | None = None,
    ) -> Self:
        """Create a manager from a pod's settings, without connecting yet. Raises InvalidSettings.

        Each new connection determines the server again: the fixed address, the primary that Sentinel reports, or the
        node of the Redis Cluster that stores `stream`. Each new connection also reads the files with credentials and
        certificates again. The other arguments are those of `from_url`.
        """
        if settings.cluster and not same_slot(stream):
            raise InvalidSettings(
                f"stream {stream!r}: StreamConsumer stores additional keys in the hash slot of the stream, which is "
                "not possible with this name; use a name without braces or with one hash tag, such as {shop}:orders"
            )
        address_source = topology(RedisCredentials(settings), stream)
        address_source.credentials.check_certificates()
        pool = ConnectionPool(
            connection_class=CONNECTION_CLASSES[address_source.credentials.scheme],
            **address_source.credentials.connection_options(),
            address_source=address_source,
        )
        return cls(
            Redis(connection_pool=pool),
            start_from=start_from,
            encoding=encoding,
            delivery=delivery,
            retention=retention,
        )

    async def execute(self, *command: Any) -> Any:
        """Execute one command on a control connection and return the raw reply. Errors are raised without a retry."""
        try:
            return await execute_by_hash(self.control.execute_command, command)
        except ReplyTooLarge as error:
            raise ReplyTooLarge(f"{command_name(command)}: {error}") from None
        except RedisError as error:
            await self.handle_error(error)
            raise

    async def handle_error(self, error: Exception) -> None:
        """Close idle connections if the error shows that the primary must be found again. Sets `command_refused` if the
        server has rejected a command."""
        error_info = classify_error(error, "")
        if error_info.must_relocate:
            await self.drop_connections()
        if error_info.is_command_unavailable:
            self.command_refused.set()

    async def execute_pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Execute commands in one round trip. Returns one reply or error for each command. Raises connection errors."""
        return await execute_all_by_hash(self._execute_pipeline, commands)

    async def _execute_pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        pipeline = self.control.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def create_group(self, stream_name: str, group_name: str) -> None:
        """Create the group, and the stream if it does not exist. An existing group is unchanged."""
        try:
            await self.execute("XGROUP", "CREATE", stream_name, group_name, self.start_from, "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]:
        """Read up to `count` new entries of the group without waiting. Returns (message id, data) for each entry."""
        source = ("COUNT", count, "STREAMS", stream_name, ">")
        reply = await self.execute("XREADGROUP", "GROUP", group_name, consumer_name, *source)
        entries = Entry.from_reply(replies.stream_entries(reply))
        return [(entry.message_id, entry.data(self.encoding)) for entry in entries]

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> bool:
        """Acknowledge one entry. Returns False if the entry was not pending."""
        return replies.count(await self.execute("XACK", stream_name, group_name, message_id), "XACK") > 0

    async def connect(self) -> AbstractConnection:
        """Return a new connection that has completed its handshake and never retries.

        A child that a handler forks at the same time may keep the socket open after this process has ended. In this
        case, another connection is opened and returned."""
        for _ in range(MAX_CONNECTS):
            count = fork_count()
            connection = self._connection_class(**{**self._connection_options, "health_check_interval": 0})
            close_socket_in_children(connection, _find_socket)
            await connection.connect()  # type: ignore[no-untyped-call] # ships no types for it
            if count == fork_count():
                break
            await connection.disconnect(nowait=True)
        return connection

    @property
    def address(self) -> tuple[str, int | None]:
        """Host and port of the last connection. Before the first connection, host and port of the next connection. For
        a Unix socket, the path and None."""
        options = self._connection_options
        if (address_source := options.get("address_source")) is not None:
            host, port = address_source.address
            return host, port
        return str(options.get("host") or options.get("path") or "localhost"), options.get("port")

    @property
    def address_text(self) -> str:
        """`host:port`, or the path of a Unix socket."""
        return format_host_port(*self.address)

    @property
    def skips_tls_verification(self) -> bool:
        """True if the settings disable the verification of the server's certificate."""
        address_source = self._connection_options.get("address_source")
        return address_source is not None and bool(address_source.credentials.skips_tls_verification)

    @property
    def uses_tls(self) -> bool:
        """True if the connections use TLS."""
        return issubclass(self._connection_class, SSLConnection)

    async def aclose(self) -> None:
        """Close the manager's connections. A client that was passed to the class stays open."""
        await self.control.aclose()
        await self.control.connection_pool.disconnect()
        if self._sentinel_pool is not None:
            await close_sentinel_pool(self._sentinel_pool)

    async def last_delivered_id(self, stream: str, group: str) -> str | None:
        """Return the group's last-delivered id. Returns None if the group does not exist or Redis rejects the query."""
        with suppress(ResponseError):
            if (found := await self.execute("EVAL", FIND_GROUP, 1, stream, group)) is not None:
                position, _consumers = replies.array(found, "XINFO GROUPS", 2)
                return replies.entry_id(position, "XINFO GROUPS")
        return None

    async def clock_offset_ns(self) -> int:
        """Return how far the server's clock is ahead of this machine's clock, accurate to half a round trip."""
        sent_ns = time.time_ns()
        server_ns = replies.server_time_microseconds(await self.execute("TIME")) * 1000
        return server_ns - (sent_ns + time.time_ns()) // 2

    async def drop_connections(self) -> None:
        """Close idle connections, so that the next command connects to the current primary after a failover."""
        await self.control.connection_pool.disconnect(inuse_connections=False)


def _check_client(client: Any) -> Redis:
    """Return the client. Raises InvalidSettings if the manager cannot connect as the client does."""
    found = f"{type(client).__module__}.{type(client).__name__}"
    if isinstance(client, Redis):
        connection_class = getattr(getattr(client, "connection_pool", None), "connection_class", None)
        if isinstance(connection_class, type) and issubclass(connection_class, AbstractConnection):
            return client
        found += f" with {getattr(connection_class, '__module__', '?')}.{getattr(connection_class, '__name__', '?')}"
    raise InvalidSettings(
        f"StreamManager: found {found}, expected redis.asyncio.Redis; for a URL, use StreamManager.from_url"
    )


def _find_socket(connection: AbstractConnection) -> Any:
    writer: Any = connection._writer  # noqa: SLF001 - redis-py has no public access to it
    return writer and writer.get_extra_info("socket")

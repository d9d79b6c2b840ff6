"""The StreamManager: what users name, and where connections come from."""

import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from datetime import timedelta
from threading import Event
from typing import Any, Self
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import Delivery, RedisSettings, Retention
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.connection import CONNECTION_CLASSES, NO_RETRY_OPTIONS
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import same_slot
from streamconsumer.redis_client.topology import topology

_OPTIONS_NOT_COPIED = {"himport_registry", "event_dispatcher", "maint_notifications_config", "client_name"}


class StreamManager:
    """Redis Streams as a user's code sees them: create a group, read from it, acknowledge.

    Give it a URL or a `redis.asyncio.Redis`. `RedisStreamProcessor` asks it for more than these three coroutines:
    blocking reads, renewal, take-over.
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
        self.start_from, self.encoding = start_from, encoding
        self.delivery, self.retention = delivery or Delivery(), retention or Retention()
        self.min_idle = min_idle or self.delivery.min_idle
        pool = client.connection_pool
        given = {key: value for key, value in pool.connection_kwargs.items() if key not in _OPTIONS_NOT_COPIED}
        self._connection_class: type[AbstractConnection] = pool.connection_class
        self._connection_options = {
            **{key: value for key, value in given.items() if not key.startswith(("maint_", "orig_", "oss_"))},
            **NO_RETRY_OPTIONS,
        }
        self.command_refused = Event()
        """Set when the server has refused a command. The reader then examines the server again. A twin shares it."""
        self.control = self._new_control()

    def _new_control(self) -> Redis:
        pool = BlockingConnectionPool(
            connection_class=self._connection_class, max_connections=8, **self._connection_options
        )
        control: Redis = Redis(connection_pool=pool)
        control.response_callbacks.clear()  # raw replies: redis-py's shapes drop what we need
        return control

    def clone(self) -> Self:
        """The same with connections of its own, for another thread's event loop."""
        other = copy(self)
        other.control = self._new_control()
        return other

    @classmethod
    def from_url(cls, url: str, *, username: str | None = None, password: str | None = None, **options: Any) -> Self:
        """`redis://host:port/db`, `rediss://…` or `unix://…`; options as for the class. Nothing connects yet."""
        given: dict[str, Any] = {"username": username, "password": password}
        pool = ConnectionPool.from_url(url, **{key: value for key, value in given.items() if value is not None})
        return cls(Redis(connection_pool=pool), **options)

    @classmethod
    def from_settings(cls, settings: RedisSettings, stream: str, **options: Any) -> Self:
        """As a pod is told: a fixed address, Sentinel or the cluster node of `stream`, found anew at each connect, with
        credentials and certificates as their files then are. Raises InvalidSettings; nothing connects yet."""
        if settings.cluster and not same_slot(stream):
            raise InvalidSettings(
                f"stream {stream!r}: no key beside it can be in its slot of the cluster; "
                "name it without braces, or with one tag in them, such as {shop}:orders"
            )
        found = topology(settings, stream)
        kind, arguments = (
            CONNECTION_CLASSES[found.credentials.scheme],
            {**found.credentials.connection_options(), "address_source": found},
        )
        return cls(Redis(connection_pool=ConnectionPool(connection_class=kind, **arguments)), **options)

    async def execute(self, *command: Any) -> Any:
        """One command on the control connection, its raw reply. Sent once: trying again is the caller's affair."""
        try:
            return await self.control.execute_command(*command)  # type: ignore[no-untyped-call] # ships no types for it
        except RedisError as error:
            await self.handle_error(error)
            raise

    async def handle_error(self, error: Exception) -> None:
        """Connect again after an error of a server that is no longer the right one, and note a refused command."""
        found = classify_error(error, "")
        if found.must_relocate:
            await self.drop_connections()
        if found.is_command_unavailable:
            self.command_refused.set()

    async def execute_pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Several commands in one round trip; an error of one is its answer, unless it is the connection's."""
        pipeline = self.control.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def create_group(self, stream_name: str, group_name: str) -> None:
        """Create the group, and the stream where it does not exist. A group that exists stays as it is."""
        try:
            await self.execute("XGROUP", "CREATE", stream_name, group_name, self.start_from, "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]:
        """At most `count` entries that no consumer has seen yet, as (message id, data); none if there are none."""
        command = (
            "XREADGROUP",
            "GROUP",
            group_name,
            consumer_name,
            "COUNT",
            count,
            "STREAMS",
            stream_name,
            ">",
        )
        reply = await self.execute(*command)
        return [
            (entry.message_id, entry.data(self.encoding)) for entry in Entry.from_reply(replies.stream_entries(reply))
        ]

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> bool:
        """Acknowledge one entry. False: it was not pending (any more)."""
        return bool(await self.execute("XACK", stream_name, group_name, message_id))

    async def connect(self) -> AbstractConnection:
        """A connection of its own, its handshake done, that never retries by itself."""
        connection = self._connection_class(**{**self._connection_options, "health_check_interval": 0})
        await connection.connect()  # type: ignore[no-untyped-call] # ships no types for it
        return connection

    @property
    def address(self) -> tuple[str, int | None]:
        """Host and port of the last connection, or where the next one goes; a socket's path and None."""
        arguments = self._connection_options
        if (address_source := arguments.get("address_source")) is not None:
            found: tuple[str, int | None] = address_source.address
            return found
        return str(arguments.get("host") or arguments.get("path") or "localhost"), arguments.get("port")

    @property
    def address_text(self) -> str:
        """The address as one text."""
        host, port = self.address
        return host if port is None else f"{host}:{port}"

    @property
    def skips_tls_verification(self) -> bool:
        """Whether the settings that it was made from have any certificate of a server taken."""
        address_source = self._connection_options.get("address_source")
        return address_source is not None and bool(address_source.credentials.skips_tls_verification)

    async def aclose(self) -> None:
        """Close what this manager opened; a client that was given stays open."""
        await self.control.aclose()
        await self.control.connection_pool.disconnect()

    async def last_delivered_id(self, stream: str, group: str) -> str | None:
        """The id of the last entry that the group was given; None where there is no such group, or no telling."""
        with suppress(ResponseError):
            for each in await self.execute("XINFO", "GROUPS", stream):
                if replies.to_dict(each)[b"name"] == group.encode():
                    return str(replies.to_dict(each)[b"last-delivered-id"].decode())
        return None

    async def clock_offset_ns(self) -> int:
        """By how much the server's clock is ahead of this machine's, give or take half a round trip."""
        before = time.time_ns()
        seconds, microseconds = await self.execute("TIME")
        return (int(seconds) * 1_000_000 + int(microseconds)) * 1000 - (before + time.time_ns()) // 2

    async def drop_connections(self) -> None:
        """Connect anew from here on: after a failover the address may lead elsewhere."""
        await self.control.connection_pool.disconnect(inuse_connections=False)


def redact_url(url: str) -> str:
    """The URL as it may be printed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

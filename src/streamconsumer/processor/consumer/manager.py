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
from streamconsumer.model.processor_settings import Delivery, RedisAccess, Retention
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.connection import KINDS, ONCE
from streamconsumer.redis_client.errors_table import fault
from streamconsumer.redis_client.keys import shares_slot
from streamconsumer.redis_client.topology import topology

_NOT_FOR_A_COPY = {"himport_registry", "event_dispatcher", "maint_notifications_config", "client_name"}


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
        given = {key: value for key, value in pool.connection_kwargs.items() if key not in _NOT_FOR_A_COPY}
        self._kind: type[AbstractConnection] = pool.connection_class
        self._arguments = {
            **{key: value for key, value in given.items() if not key.startswith(("maint_", "orig_", "oss_"))},
            **ONCE,
        }
        self.refused = Event()
        """Set when the server has refused a command. The reader then examines the server again. A twin shares it."""
        self.control = self._new_control()

    def _new_control(self) -> Redis:
        pool = BlockingConnectionPool(connection_class=self._kind, max_connections=8, **self._arguments)
        control: Redis = Redis(connection_pool=pool)
        control.response_callbacks.clear()  # raw replies: redis-py's shapes drop what we need
        return control

    def twin(self) -> Self:
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
    def from_settings(cls, settings: RedisAccess, stream: str, **options: Any) -> Self:
        """As a pod is told: a fixed address, Sentinel or the cluster node of `stream`, found anew at each connect, with
        credentials and certificates as their files then are. Raises InvalidSettings; nothing connects yet."""
        if settings.cluster and not shares_slot(stream):
            raise InvalidSettings(
                f"stream {stream!r}: no key beside it can be in its slot of the cluster; "
                "name it without braces, or with one tag in them, such as {shop}:orders"
            )
        found = topology(settings, stream)
        kind, arguments = KINDS[found.access.scheme], {**found.access.options(), "destination": found}
        return cls(Redis(connection_pool=ConnectionPool(connection_class=kind, **arguments)), **options)

    async def ask(self, *command: Any) -> Any:
        """One command on the control connection, its raw reply. Sent once: trying again is the caller's affair."""
        try:
            return await self.control.execute_command(*command)  # type: ignore[no-untyped-call] # ships no types for it
        except RedisError as error:
            await self.notice(error)
            raise

    async def notice(self, error: Exception) -> None:
        """Connect again after an error of a server that is no longer the right one, and note a refused command."""
        found = fault(error, "")
        if found.elsewhere:
            await self.forget_connections()
        if found.is_refusal:
            self.refused.set()

    async def ask_together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Several commands in one round trip; an error of one is its answer, unless it is the connection's."""
        pipeline = self.control.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def create_group(self, stream_name: str, group_name: str) -> None:
        """Create the group, and the stream where it does not exist. A group that exists stays as it is."""
        try:
            await self.ask("XGROUP", "CREATE", stream_name, group_name, self.start_from, "MKSTREAM")
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
        reply = await self.ask(*command)
        return [(entry.message_id, entry.data(self.encoding)) for entry in Entry.from_reply(replies.of_stream(reply))]

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> bool:
        """Acknowledge one entry. False: it was not pending (any more)."""
        return bool(await self.ask("XACK", stream_name, group_name, message_id))

    async def connect(self) -> AbstractConnection:
        """A connection of its own, its handshake done, that never retries by itself."""
        connection = self._kind(**{**self._arguments, "health_check_interval": 0})
        await connection.connect()  # type: ignore[no-untyped-call] # ships no types for it
        return connection

    @property
    def address(self) -> tuple[str, int | None]:
        """Host and port of the last connection, or where the next one goes; a socket's path and None."""
        arguments = self._arguments
        if (destination := arguments.get("destination")) is not None:
            found: tuple[str, int | None] = destination.address
            return found
        return str(arguments.get("host") or arguments.get("path") or "localhost"), arguments.get("port")

    @property
    def place(self) -> str:
        """The address as one text."""
        host, port = self.address
        return host if port is None else f"{host}:{port}"

    @property
    def trusts_anybody(self) -> bool:
        """Whether the settings that it was made from have any certificate of a server taken."""
        destination = self._arguments.get("destination")
        return destination is not None and bool(destination.access.trusts_anybody)

    async def aclose(self) -> None:
        """Close what this manager opened; a client that was given stays open."""
        await self.control.aclose()
        await self.control.connection_pool.disconnect()

    async def position(self, stream: str, group: str) -> str | None:
        """The id of the last entry that the group was given; None where there is no such group, or no telling."""
        with suppress(ResponseError):
            for each in await self.ask("XINFO", "GROUPS", stream):
                if replies.pairs(each)[b"name"] == group.encode():
                    return str(replies.pairs(each)[b"last-delivered-id"].decode())
        return None

    async def clock_offset_ns(self) -> int:
        """By how much the server's clock is ahead of this machine's, give or take half a round trip."""
        before = time.time_ns()
        seconds, microseconds = await self.ask("TIME")
        return (int(seconds) * 1_000_000 + int(microseconds)) * 1000 - (before + time.time_ns()) // 2

    async def forget_connections(self) -> None:
        """Connect anew from here on: after a failover the address may lead elsewhere."""
        await self.control.connection_pool.disconnect(inuse_connections=False)


def without_credentials(url: str) -> str:
    """The URL as it may be printed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

"""The only room that speaks to Redis: the StreamManager that users name, and the intake behind it.

The bargains, each measured on Redis 6.2, 7.0 and Valkey:
- The outcome of a failed read is unknown: entries may have been delivered to a reply that was lost. The reader's
  connection therefore never retries by itself (redis-py 8 would, and strand them), and after any error the own
  pending entries are read again from the start.
- A blocked read is never cancelled, which could strand entries too: CLIENT UNBLOCK ends it with an empty reply.
- XACK of the last batch and XREADGROUP of the next travel together, without MULTI, which would not block and which
  Redis 7.0 refuses at maxmemory: one round trip a batch.
- XACK answers 0, not an error, when the group is gone or another consumer acknowledged: the replies are counted.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from streamconsumer.processor import scripts
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.processor.metrics import Metrics

log = logging.getLogger(__name__)

READ_MARGIN = timedelta(seconds=5)
"""A read that has not answered this long after its own end is taken for a dead connection."""

LINGER_SECONDS = 0.005
"""How long an acknowledgement waits for the next read to carry it before it travels alone."""

PAGE = 200
"""How many of its own pending entries a consumer reads at a time."""

SWEEP = 100
"""How many XAUTOCLAIMs in a row look for idle entries; each looks at ten times as many as it may claim."""

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
        min_idle: timedelta = timedelta(seconds=30),
    ) -> None:
        self.start_from, self.encoding, self.min_idle = start_from, encoding, min_idle
        pool = client.connection_pool
        given = {key: value for key, value in pool.connection_kwargs.items() if key not in _NOT_FOR_A_COPY}
        self._kind: type[AbstractConnection] = pool.connection_class
        self._arguments = {
            **{key: value for key, value in given.items() if not key.startswith(("maint_", "orig_", "oss_"))},
            "decode_responses": False,
            "protocol": 2,
            # redis-py 8 would send a command up to eleven times, reads included; trying again is the loop's affair.
            "retry": Retry(NoBackoff(), 0),
        }
        self.control: Redis = Redis(
            connection_pool=ConnectionPool(connection_class=self._kind, max_connections=8, **self._arguments)
        )
        self.control.response_callbacks.clear()  # raw replies: redis-py's shapes drop what we need of XAUTOCLAIM

    @classmethod
    def from_url(cls, url: str, *, username: str | None = None, password: str | None = None, **options: Any) -> Self:
        """`redis://host:port/db`, `rediss://…` or `unix://…`; options as for the class. Nothing connects yet."""
        given: dict[str, Any] = {"username": username, "password": password}
        pool = ConnectionPool.from_url(url, **{key: value for key, value in given.items() if value is not None})
        return cls(Redis(connection_pool=pool), **options)

    async def ask(self, *command: Any) -> Any:
        """One command on the control connection, its raw reply. Sent once: trying again is the caller's affair."""
        return await self.control.execute_command(*command)  # type: ignore[no-untyped-call] # ships no types for it

    async def create_group(self, stream_name: str, group_name: str) -> None:
        """Create the group, and the stream where it does not exist. A group that exists stays as it is."""
        await self._create_group(stream_name, group_name, self.start_from)

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
        return [(entry.message_id, entry.data(self.encoding)) for entry in _entries(_of_stream(reply))]

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> bool:
        """Acknowledge one entry. False: it was not pending (any more)."""
        return bool(await self.ask("XACK", stream_name, group_name, message_id))

    def intake(self, stream: str, group: str, consumer: str, *, block: timedelta, metrics: Metrics) -> "RedisIntake":
        """The full intake for one consumer."""
        return RedisIntake(self, stream, group, consumer, block=block, metrics=metrics)

    def reader(self, block: timedelta) -> AbstractConnection:
        """A connection of its own for blocking reads: no retries, patient for longer than the block."""
        patience = (block + READ_MARGIN).total_seconds()
        return self._kind(**{**self._arguments, "socket_timeout": patience, "health_check_interval": 0})

    @property
    def address(self) -> tuple[str, int | None]:
        """Host and port for telemetry; a socket's path and None."""
        arguments = self._arguments
        return str(arguments.get("host") or arguments.get("path") or "localhost"), arguments.get("port")

    async def aclose(self) -> None:
        """Close what this manager opened; a client that was given stays open."""
        await self.control.aclose()
        await self.control.connection_pool.disconnect()

    async def _create_group(self, stream: str, group: str, position: str) -> None:
        try:
            await self.ask("XGROUP", "CREATE", stream, group, position, "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def recreate_group(self, stream: str, group: str, position: str) -> str:
        """Create a group that was lost where it last was: `position`, or 0 where the stream has a new life."""
        try:
            last = _pairs(await self.ask("XINFO", "STREAM", stream))[b"last-generated-id"].decode()
        except ResponseError:  # no such key
            last = "0-0"
        begin = position if _order(last) >= _order(position) else "0"
        await self._create_group(stream, group, begin)
        return begin

    async def position(self, stream: str, group: str) -> str | None:
        """The id of the last entry that the group was given; None where there is no such group, or no telling."""
        with suppress(ResponseError):
            for each in await self.ask("XINFO", "GROUPS", stream):
                if _pairs(each)[b"name"] == group.encode():
                    return str(_pairs(each)[b"last-delivered-id"].decode())
        return None

    async def forget_connections(self) -> None:
        """Connect anew from here on: after a failover the address may lead elsewhere."""
        await self.control.connection_pool.disconnect(inuse_connections=False)


class RedisIntake:
    """One consumer's side of a consumer group."""

    def __init__(
        self,
        manager: StreamManager,
        stream: str,
        group: str,
        consumer: str,
        *,
        block: timedelta,
        metrics: Metrics,
    ) -> None:
        self._manager, self._metrics = manager, metrics
        self._stream, self._group, self._consumer = stream, group, consumer
        self.blocks = True
        self.encoding = manager.encoding
        self.min_idle: timedelta | None = manager.min_idle
        self._lifetime = manager.min_idle
        self._block = block
        self._reader = manager.reader(block)
        self._client_id: int | None = None
        self._reading = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._acks: dict[str, None] = {}
        self._sending: set[str] = set()
        self._flushing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._replay_from: str | None = "0"  # a restarted consumer first finishes what it had begun
        self._sweep_from = "0-0"
        self._unsettled: dict[str, float] = {}
        self._listeners: list[set[str]] = []
        self._position = "0-0"

    # -- reading -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and create the group where it does not exist."""
        with self._busy():
            position = await self._manager.position(self._stream, self._group)
            if position is None:  # a server out of memory refuses to create even what exists
                await self._manager.create_group(self._stream, self._group)
                position = await self._manager.position(self._stream, self._group)
            self._position = position or self._position
            await self._connect()

    async def read(self, count: int) -> list[Entry]:
        """New entries, waiting up to the block for one; before those, what this consumer never acknowledged."""
        with self._busy():
            try:
                await self._connect()
                if self._replay_from is not None:
                    return await self._replay()
                return self._fresh(await self._exchange(count))
            except BaseException as error:
                if isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    await self._recover_group()
                    return []
                # What was read is unknown, and what stands in the connection too: begin anew, with what is pending.
                self._replay_from = "0"
                await self._reader.disconnect(nowait=True)
                await self._manager.forget_connections()
                raise

    async def wake(self) -> None:
        """End the read that waits. Between two commands UNBLOCK does nothing, so it is repeated until one ends."""
        while not self._idle.is_set():
            if self._client_id is not None and self._reading.is_set():
                with suppress(RedisError, OSError):
                    await self._manager.ask("CLIENT", "UNBLOCK", self._client_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 0.01)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    async def _connect(self) -> None:
        if self._reader.is_connected:
            return
        await self._reader.connect()  # type: ignore[no-untyped-call] # ships no types for it
        self._replay_from = "0"
        self._client_id = None
        with suppress(ResponseError):  # without the right to CLIENT, stopping waits for the block to end
            self._client_id = int(await self._command("CLIENT", "ID"))

    async def _exchange(self, count: int) -> list[Entry]:
        """Acknowledge what is done and read what is new: one write, two replies."""
        acks = self._take_acks()
        milliseconds = max(1, round(self._block / timedelta(milliseconds=1)))
        read = (
            *("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count),
            *("BLOCK", milliseconds, "STREAMS", self._stream, ">"),
        )
        commands = [("XACK", self._stream, self._group, *acks), read] if acks else [read]
        try:
            await self._reader.send_packed_command(self._reader.pack_commands(commands))
            if acks:
                self._settled(acks, await self._reader.read_response())
            self._reading.set()
            return _entries(_of_stream(await self._reader.read_response()))
        finally:
            self._reading.clear()
            self._metrics.reads += 1
            self._keep_unsettled(acks)

    async def _replay(self) -> list[Entry]:
        """One page of this consumer's own pending entries."""
        after = self._replay_from or "0"
        command = (
            "XREADGROUP",
            "GROUP",
            self._group,
            self._consumer,
            "COUNT",
            PAGE,
            "STREAMS",
            self._stream,
            after,
        )
        with self._acknowledged() as done:
            found = _of_stream(await self._command(*command))
            entries = [entry for entry in _entries(found) if entry.message_id not in done]
        self._replay_from = found[-1][0].decode() if len(found) == PAGE else None
        await self._lost_to_trimming([message_id.decode() for message_id, fields in found if fields is None])
        await self._count_deliveries(entries)
        self._metrics.redelivered += len(entries)
        return self._delivered(entries)

    async def _command(self, *command: Any) -> Any:
        await self._reader.send_command(*command)
        return await self._reader.read_response()

    def _fresh(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self._position = entries[-1].message_id
        return self._delivered(entries)

    def _delivered(self, entries: list[Entry]) -> list[Entry]:
        now = time.monotonic()
        for entry in entries:
            self._unsettled[entry.message_id] = now
        return entries

    # -- acknowledging -----------------------------------------------------------------------------------------

    async def acknowledge(self, message_id: str) -> None:
        """The next read carries it, or after a few milliseconds a command of its own."""
        self._acks[message_id] = None
        for done in self._listeners:
            done.add(message_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._flush_soon)

    @contextmanager
    def _acknowledged(self) -> Iterator[set[str]]:
        """What may still stand in the reply to a question asked in this context although it is done with here."""
        done = {*self._acks, *self._sending}
        self._listeners.append(done)
        try:
            yield done
        finally:
            self._listeners = [each for each in self._listeners if each is not done]

    async def flush(self) -> None:
        """Send what has not been sent. Raises what Redis raised, and keeps what has not arrived."""
        acks = self._take_acks()
        if not acks:
            return
        try:
            self._settled(acks, await self._manager.ask("XACK", self._stream, self._group, *acks))
        finally:
            self._keep_unsettled(acks)

    def _flush_soon(self) -> None:
        self._timer = None
        task = asyncio.create_task(self._flush_quietly())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush_quietly(self) -> None:
        with suppress(RedisError, OSError):  # they are kept, and travel with the first read that succeeds
            await self.flush()

    def _take_acks(self) -> list[str]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        acks = list(self._acks)
        self._acks.clear()
        self._sending.update(acks)
        return acks

    def _keep_unsettled(self, acks: Sequence[str]) -> None:
        """Those not known to have arrived are sent again, which does no harm."""
        self._acks.update(dict.fromkeys(self._sending.intersection(acks)))
        self._sending.difference_update(acks)

    def _settled(self, acks: Sequence[str], confirmed: int) -> None:
        self._metrics.acknowledged += confirmed
        self._metrics.acknowledgements_lost += len(acks) - confirmed
        self._sending.difference_update(acks)
        for message_id in acks:
            self._unsettled.pop(message_id, None)

    # -- looking after what is pending ---------------------------------------------------------------------------

    async def claim(self, count: int) -> list[Entry]:
        """Take over entries that show no sign of life: of dead consumers, and failed ones whose wait is over."""
        self._forget_old()
        entries: list[Entry] = []
        with self._acknowledged() as done:
            for _ in range(SWEEP):
                found = await self._sweep(count - len(entries))
                entries += [entry for entry in found if entry.message_id not in done]
                if len(entries) >= count or self._sweep_from == "0-0":
                    break
        await self._count_deliveries(entries)
        self._metrics.claimed += len(entries)
        return self._delivered(entries)

    async def _sweep(self, count: int) -> list[Entry]:
        command = ("XAUTOCLAIM", self._stream, self._group, self._consumer, _milliseconds(self._lifetime))
        cursor, found, *gone = await self._manager.ask(*command, self._sweep_from, "COUNT", count)
        self._sweep_from = cursor.decode()
        if gone:
            self._metrics.lost_to_trimming += len(gone[0])
        elif None in found:  # Redis 6.2 claims what was trimmed without saying which; reading it tells
            self._replay_from = "0"
        return _entries(found)

    async def renew(self, message_ids: Collection[str]) -> list[str]:
        """Show a sign of life. Returns the ids that belong to another consumer by now."""
        lost: list[str] = []
        ids = list(message_ids)
        for begin in range(0, len(ids), PAGE):
            page = ids[begin : begin + PAGE]
            reply = await self._manager.ask("EVAL", scripts.RENEW, 1, self._stream, self._group, self._consumer, *page)
            lost += [each.decode() for each in reply]
        now = time.monotonic()
        self._unsettled.update({message_id: now for message_id in ids if message_id in self._unsettled})
        for message_id in lost:
            self._unsettled.pop(message_id, None)
        return lost

    async def release(self, message_ids: Collection[str]) -> None:
        """Hand back what was read and not begun: a peer's next claim takes it."""
        long_idle = 10 * _milliseconds(self._lifetime)
        arguments = (self._stream, self._group, self._consumer, long_idle, *message_ids)
        if message_ids:
            await self._manager.ask("EVAL", scripts.RELEASE, 1, *arguments)

    async def close(self) -> None:
        """Acknowledge what is left, leave the group if nothing is pending here, disconnect."""
        try:
            await asyncio.gather(*self._flushing)
            await self.flush()
            await self._manager.ask("EVAL", scripts.LEAVE, 1, self._stream, self._group, self._consumer)
        except (RedisError, OSError) as error:
            log.warning("left without a last word to Redis", extra={"error": str(error)})
        finally:
            for task in self._flushing:
                task.cancel()
            await self._reader.disconnect(nowait=True)

    async def _count_deliveries(self, entries: list[Entry]) -> None:
        """Redis counts deliveries where a restarted process cannot; only redelivered entries pay for asking."""
        if not entries:
            return
        first, last = entries[0].message_id, entries[-1].message_id
        most = len(self._unsettled) + len(entries) + PAGE
        command = ("XPENDING", self._stream, self._group, first, last, most, self._consumer)
        counts = {each[0].decode(): int(each[3]) for each in await self._manager.ask(*command)}
        for entry in entries:
            entry.deliveries = counts.get(entry.message_id, entry.deliveries)

    async def _lost_to_trimming(self, message_ids: list[str]) -> None:
        """Entries that were trimmed or deleted while pending can never be handled: settled, and counted."""
        if message_ids:
            await self._manager.ask("XACK", self._stream, self._group, *message_ids)
            self._metrics.lost_to_trimming += len(message_ids)

    async def _recover_group(self) -> None:
        """The group is gone: create it where it was, with what is not settled here pending as it was."""
        begin = await self._manager.recreate_group(self._stream, self._group, self._position)
        unsettled = list(self._unsettled)
        for first in range(0, len(unsettled), PAGE):
            page = unsettled[first : first + PAGE]
            command = ("XCLAIM", self._stream, self._group, self._consumer, 0, *page, "FORCE", "JUSTID")
            await self._manager.ask(*command)
        self._metrics.groups_recreated += 1
        log.warning(
            "consumer group was gone and is created again",
            extra={"stream": self._stream, "group": self._group, "position": begin},
        )

    def _forget_old(self) -> None:
        """What somebody else took over long ago no longer holds the position of this consumer back."""
        horizon = time.monotonic() - 4 * self._lifetime.total_seconds()
        for message_id in [each for each, since in self._unsettled.items() if since < horizon]:
            del self._unsettled[message_id]


def without_credentials(url: str) -> str:
    """The URL as it may be printed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _of_stream(reply: Any) -> list[Any]:
    return reply[0][1] if reply else []


def _entries(found: Sequence[Any]) -> list[Entry]:
    return [Entry(each[0].decode(), each[1]) for each in found if each is not None and each[1] is not None]


def _pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _order(message_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))

"""Blocking reads: how long they block, and how they are ended.

While a consumer stays idle, each read blocks longer than the previous read, so that the server executes fewer commands.
A long read ends early in three cases:

- The consumer stops, must not read more entries, or has detected that the group is missing. The consumer then sends
  CLIENT UNBLOCK.
- The server does not reply to another command, so that the connection is probably dead.
- A proxy cuts the connection, because no data was transferred for a while. Later reads then block for a shorter time.

Some managed services and proxies ignore BLOCK. Each read then returns immediately. Without a pause, an idle consumer
would send hundreds of reads per second.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import RedisError, ResponseError

from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.raw_connection import RawConnection, pack_command
from streamconsumer.processor.consumer.registration import OwnRegistration, is_temporary
from streamconsumer.redis_client.replies import ExecuteAll

FIRST_BLOCK, MAX_BLOCK = timedelta(seconds=5), timedelta(seconds=60)
"""Maximum durations of a blocking read: of the first read after entries were received, and of any read."""

READ_TIMEOUT_MARGIN = timedelta(seconds=5)
"""If no reply arrives within this time after the end of the BLOCK duration, the connection counts as dead."""

OVERDUE_AFTER = timedelta(seconds=1)
"""Time after the end of the BLOCK duration at which CLIENT UNBLOCK ends the read."""

MAX_EARLY_READS = 10
"""Number of consecutive early reads after which the server counts as ignoring BLOCK. Fewer early reads prove nothing,
because CLIENT UNBLOCK also ends a read early."""

EARLY_SHARE = 0.9
"""An empty read counts as early if it ends before this share of the BLOCK duration has passed."""

MAX_LIMITED_READS = 100
"""After this number of empty reads since a cut, reads of the maximum duration are tried again. A single cut does not
prove that a proxy cuts each long read."""

MAX_UNBLOCKS, UNBLOCK_INTERVAL = 50, timedelta(milliseconds=10)
"""Number of attempts to end a read with CLIENT UNBLOCK, and the time between them."""

log = logging.getLogger(__name__)


class BlockDuration:
    """BLOCK duration of the next read, which depends on the previous reads."""

    def __init__(self, poll_interval: timedelta) -> None:
        self._first = self.seconds = min(poll_interval, FIRST_BLOCK).total_seconds()
        self._longest = MAX_BLOCK.total_seconds()
        self._survived = 0.0
        """Duration of the longest read that has ended with a reply."""
        self._limited_reads = 0
        """Number of empty reads since the last cut."""
        self._early_count = 0

    @property
    def is_long(self) -> bool:
        """True if no entries were received for a while."""
        return self.seconds > self._first

    @property
    def is_supported(self) -> bool:
        """False if the server ignores BLOCK."""
        return self._early_count < MAX_EARLY_READS

    def record(self, reply: Any, elapsed: float) -> bool:
        """Record a read that took `elapsed` seconds. Returns True if the read was empty and early, so that another
        consumer may have ended the read.

        If the whole BLOCK duration has passed, the next read blocks twice as long.
        """
        self._survived = max(self._survived, elapsed)
        is_early = not reply and elapsed < EARLY_SHARE * self.seconds
        is_immediate = is_early and elapsed < EARLY_SHARE * self._first
        self._early_count = self._early_count + 1 if is_immediate else 0
        if self._early_count == MAX_EARLY_READS:
            log.warning("the Redis server or a proxy ignores BLOCK; polling at intervals instead")
        if reply or is_early:
            self.seconds = self._first
        else:
            self._limited_reads += 1
            if self._limited_reads >= MAX_LIMITED_READS:
                self._longest = MAX_BLOCK.total_seconds()
            self.seconds = min(2 * self.seconds, self._longest)
        return is_early and self.is_supported

    def on_lost(self, elapsed: float) -> None:
        """Record that the connection was lost during a read.

        If no earlier read has lasted this long, a proxy may cut each read that lasts this long. Later reads are
        therefore shorter, until MAX_LIMITED_READS reads have ended.
        """
        self.reset()
        if elapsed > self._survived:
            self._longest = max(self._first, min(self._survived, EARLY_SHARE * elapsed))
            self._limited_reads = 0

    def reset(self) -> None:
        """Make the next read short."""
        self.seconds = self._first


class BlockingReads:
    """Blocking reads of one consumer."""

    def __init__(
        self,
        poll_interval: timedelta,
        registration: OwnRegistration,
        reader: DedicatedConnection,
        execute_all: ExecuteAll,
    ) -> None:
        """`reader` is the connection on which the consumer reads. `execute_all` executes commands on another connection
        in one round trip."""
        self._registration, self._reader, self._execute_all = registration, reader, execute_all
        self.duration = BlockDuration(poll_interval)
        self._commands: dict[tuple[int, float], bytes] = {}
        self._ended = asyncio.Event()
        self._ended.set()
        self._is_waiting, self._elapsed = False, 0.0
        self._is_dropped = False
        """True if `interrupt` has dropped the connection of the current read."""
        self._task: asyncio.Task[object] | None = None
        """Task that ends the current read."""

    def command(self, count: int) -> bytes:
        """Return the packed command that reads up to `count` new entries."""
        key = (count, self.duration.seconds)
        return self._commands.get(key) or self._commands.setdefault(key, self._pack(*key))

    def _pack(self, count: int, seconds: float) -> bytes:
        stream, group, consumer = self._registration.consumer_id
        read = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, "BLOCK", max(1, round(seconds * 1000)))
        return pack_command(*read, "STREAMS", stream, ">")

    @property
    def is_supported(self) -> bool:
        """False if the server ignores BLOCK."""
        return self.duration.is_supported

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context of a whole read, including the preparation of its connection."""
        ended = self._ended = asyncio.Event()
        try:
            yield
        finally:
            ended.set()

    @contextmanager
    def waiting(self, connection: RawConnection) -> Iterator[None]:
        """Context of the command that waits for entries. Limits the duration of the command."""
        loop, seconds = asyncio.get_running_loop(), self.duration.seconds
        connection.start_timer(seconds + READ_TIMEOUT_MARGIN.total_seconds())
        overdue = loop.call_later(seconds + OVERDUE_AFTER.total_seconds(), self._end_overdue)
        self._is_waiting, self._is_dropped, began = True, False, loop.time()
        try:
            yield
        finally:
            self._is_waiting, self._elapsed = False, loop.time() - began
            overdue.cancel()
            connection.stop_timer()

    def record(self, reply: Any) -> bool:
        """Record the reply to the last read. Returns True if another consumer may have ended the read."""
        return self.duration.record(reply, self._elapsed)

    def tolerates_loss(self) -> bool:
        """Return True if the loss of the connection during the last read is no error, so that the consumer reads over a
        new connection."""
        if self._is_dropped:
            return True
        if not self.duration.is_long:
            return False
        seconds = round(self._elapsed, 1)
        log.info("connection was lost while waiting for entries; reconnecting", extra={"seconds": seconds})
        self.duration.on_lost(self._elapsed)
        return True

    async def interrupt(self) -> None:
        """End the current read. The read returns the entries that were delivered meanwhile.

        Repeats CLIENT UNBLOCK, which has no effect until the read blocks. If CLIENT UNBLOCK is not available, or has no
        effect at all, drops the connection."""
        ended, unblocks = self._ended, 0
        while not ended.is_set():
            if self._is_waiting and not self._reader.is_receiving:
                unblocks += 1
                if unblocks > MAX_UNBLOCKS or not await self._unblock():
                    self._drop()
            with suppress(TimeoutError):
                async with asyncio.timeout(UNBLOCK_INTERVAL.total_seconds()):
                    await ended.wait()

    async def end_abandoned(self, connection: RawConnection, client_id: int) -> None:
        """End the read on a lost connection of this consumer. `connection` is the new connection.

        The server does not notice the loss if the network drops packets. The server would deliver the next entries to
        the lost connection, where they would stay pending until `min_idle`."""
        with suppress(ResponseError):  # CLIENT UNBLOCK is not available
            await self._registration.unblock(connection.execute_all, client_id)

    def end_long(self) -> None:
        """End the current read in the background if it is a long read."""
        if self.duration.is_long:
            self.end()

    def end(self) -> None:
        """End the current read in the background if it waits for entries."""
        is_ending = self._task is not None and not self._task.done()
        if self._is_waiting and not is_ending:
            self._task = asyncio.create_task(self.interrupt(), name="end read")

    def on_no_reply(self) -> None:
        """Drop the connection of a long read, because the server does not reply to another command."""
        if self._is_waiting and self.duration.is_long:
            self.duration.reset()  # the loss is an error
            self._reader.abort()

    def _end_overdue(self) -> None:
        """End a read whose BLOCK duration has passed.

        Redis 7.2.0 to 7.2.4 start the BLOCK duration of a waiting read again whenever another consumer receives a new
        entry."""
        self._task = asyncio.create_task(self._unblock(), name="end read")

    def _drop(self) -> None:
        if self._is_waiting:
            self._is_dropped = True
            self._reader.abort()

    async def _unblock(self) -> bool:
        """Send CLIENT UNBLOCK. Returns False if the command is not available."""
        identity = self._registration.identities.get("reader")
        if identity is None:
            return False
        try:
            await self._registration.unblock(self._execute_all, identity.client_id)
        except ResponseError as error:
            return is_temporary(error)
        except (RedisError, OSError):
            pass  # the connection of the read may still be usable
        return True

"""Heartbeat: renews the leases of the entries in flight from a separate thread.

The thread keeps the leases alive while a handler blocks the event loop.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice

from redis.exceptions import RedisError

from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.liveness import HEARTBEAT_INTERVAL
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.message import ConsumerId
from streamconsumer.processor.runtime import ThreadMain

log = logging.getLogger(__name__)

PAGE_SIZE = 190
"""Maximum number of leases that one command renews. The server needs 2 ms to renew this number of leases."""

STOP_TIMEOUT_SECONDS = 0.5
"""Time for which `stop` waits for a running renewal."""

RENEWALS_PER_MIN_IDLE = 4
"""Minimum number of renewals of each lease within `min_idle`. A lease that is not renewed for `min_idle` expires."""


class HeartbeatThread:
    """Thread that renews the leases of the entries in flight."""

    def __init__(
        self,
        manager: StreamManager,
        consumer_id: ConsumerId,
        ack_buffer: AckBuffer,
        *,
        in_flight_ids: Callable[[], list[str]],
        on_lost: Callable[[list[str]], None],
        is_alive: Callable[[], bool],
        is_receiving: Callable[[], bool],
        start_thread: Callable[[str, ThreadMain], object],
    ) -> None:
        """Prepare the thread.

        `on_lost` is called in the event loop's thread with the ids of entries that another consumer has claimed. No
        lease is renewed while `is_alive` returns False. While `is_receiving` returns True, the thread also resets the
        idle time of the consumer. While a reply is incomplete, the ids of its entries are unknown, so the thread cannot
        renew their leases.
        """
        self._is_receiving = is_receiving
        self._manager, self._consumer_id, self._ack_buffer = manager, consumer_id, ack_buffer
        self._in_flight_ids, self._on_lost, self._is_alive = in_flight_ids, on_lost, is_alive
        self._interval = min(HEARTBEAT_INTERVAL, manager.min_idle / RENEWALS_PER_MIN_IDLE)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._request_stop: Callable[[], object] = lambda: None
        self._abort: Callable[[], object] = lambda: None
        self._start_thread = start_thread
        self._next_index = 0
        self._ids_at_last_beat: set[str] = set()

    def start(self) -> None:
        """Start the thread."""
        self._start_thread("heartbeat", self._run)

    async def stop(self) -> None:
        """Stop the renewal of leases.

        Waits for a running renewal. If the renewal makes acknowledged entries pending again, the thread must
        acknowledge these entries again. If the server does not reply within `STOP_TIMEOUT_SECONDS`, the renewal is
        cancelled.
        """
        self._request_stop()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self._stopped.wait()
        except TimeoutError:
            self._abort()

    async def _run(self) -> None:
        try:
            await self._heartbeat_loop()
        finally:
            with suppress(RuntimeError):  # the processor's event loop is closed
                self._loop.call_soon_threadsafe(self._stopped.set)

    async def _heartbeat_loop(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        stop_requested = asyncio.Event()
        self._request_stop = lambda: loop.is_closed() or loop.call_soon_threadsafe(stop_requested.set)
        self._abort = lambda: loop.is_closed() or loop.call_soon_threadsafe(task.cancel)
        manager = self._manager.clone()
        leases = Leases(manager.execute, *self._consumer_id)
        try:
            while not stop_requested.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval.total_seconds()):
                        await stop_requested.wait()
                    break
                if self._is_alive():
                    await self._beat(manager, leases)
        finally:
            await manager.aclose()

    async def _beat(self, manager: StreamManager, leases: Leases) -> None:
        # `acked_during` starts before the ids are read: an entry that was acknowledged earlier is no longer in flight.
        with self._ack_buffer.acked_during() as acked_ids:
            if ids := self._select_ids(self._in_flight_since_last_beat(self._in_flight_ids())):
                await self._renew(manager, leases, ids, acked_ids)
        if self._is_receiving():
            with suppress(RedisError, OSError):
                await leases.show_activity()

    async def _renew(self, manager: StreamManager, leases: Leases, ids: list[str], acked_ids: set[str]) -> None:
        lost: list[str] = []
        unanswered: set[str] = set()
        try:
            try:
                for begin in range(0, len(ids), PAGE_SIZE):
                    lost += await leases.renew(ids[begin : begin + PAGE_SIZE])
            finally:  # Redis may have run a renewal even if the command failed here
                unanswered = self._ack_buffer.record_renewed(ids)
            await self._ack_again(manager, [id_ for id_ in ids if id_ in acked_ids and id_ not in lost])
        except (RedisError, OSError) as error:
            log.debug("failed to renew the leases of messages in flight", extra={"error": str(error)})
        if claimed := [id_ for id_ in lost if id_ not in unanswered]:  # postponed entries may be in `unanswered`
            with suppress(RuntimeError):  # the processor's event loop is closed
                self._loop.call_soon_threadsafe(self._on_lost, claimed)

    async def _ack_again(self, manager: StreamManager, message_ids: list[str]) -> None:
        """Acknowledge entries again, because a renewal made them pending again after Redis had acknowledged them."""
        if sent := [id_ for id_ in message_ids if not self._ack_buffer.is_buffered(id_)]:
            await manager.execute("XACK", self._consumer_id.stream, self._consumer_id.group, *sent)

    def _in_flight_since_last_beat(self, ids: list[str]) -> list[str]:
        """Return the ids that were already in flight at the last heartbeat, except ids that a script is settling.

        An entry that is in flight only between two heartbeats needs no renewal.
        """
        in_scripts = self._ack_buffer.ids_in_scripts
        remaining = [id_ for id_ in ids if id_ in self._ids_at_last_beat and id_ not in in_scripts]
        self._ids_at_last_beat = set(ids)
        return remaining

    def _select_ids(self, ids: list[str]) -> list[str]:
        """Return the ids of the leases to renew now.

        If there are many ids, each heartbeat renews only a part of the leases. A heartbeat that renews only a part of
        the leases still renews each lease several times within `min_idle`.
        """
        share = max(PAGE_SIZE, round(len(ids) * RENEWALS_PER_MIN_IDLE * (self._interval / self._manager.min_idle)))
        if len(ids) <= share:
            return ids
        begin = self._next_index % len(ids)
        self._next_index = begin + share
        return list(islice(cycle(ids), begin, begin + share))

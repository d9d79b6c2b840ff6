"""Signs of life, from a thread of its own: a handler that blocks the event loop must not cost its message."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice

from redis.exceptions import RedisError

from streamconsumer.processor.consumer.ack_buffer import AckBuffer
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.liveness import HEARTBEAT_INTERVAL
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.message import ConsumerId

log = logging.getLogger(__name__)

PAGE_SIZE = 200
"""How many entries one command renews: 2 ms of the server."""

STOP_TIMEOUT_SECONDS = 0.5

RENEWALS_PER_MIN_IDLE = 4
"""How often an entry is renewed, at least, before it would count as idle."""


class HeartbeatThread:
    """Renews what is in flight. `lost` is told, in the loop's thread, which entries are another consumer's by now."""

    def __init__(
        self,
        manager: StreamManager,
        consumer_id: ConsumerId,
        ack_buffer: AckBuffer,
        *,
        in_flight_ids: Callable[[], list[str]],
        on_lost: Callable[[list[str]], None],
        is_alive: Callable[[], bool],
    ) -> None:
        self._manager, self._consumer_id, self._ack_buffer = manager, consumer_id, ack_buffer
        self._in_flight_ids, self._on_lost, self._is_alive = in_flight_ids, on_lost, is_alive
        self._interval = min(HEARTBEAT_INTERVAL, manager.min_idle / RENEWALS_PER_MIN_IDLE)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._request_stop: Callable[[], object] = lambda: None
        self._abort: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._next_index = 0
        self._ids_at_last_beat: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """No more signs of life. One that is under way is finished, or what it puts back would stay pending; unless the
        server does not answer."""
        self._request_stop()
        try:
            await asyncio.wait_for(self._stopped.wait(), STOP_TIMEOUT_SECONDS)
        except TimeoutError:
            self._abort()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._heartbeat_loop())
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _heartbeat_loop(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        enough = asyncio.Event()
        self._request_stop = lambda: loop.is_closed() or loop.call_soon_threadsafe(enough.set)
        self._abort = lambda: loop.is_closed() or loop.call_soon_threadsafe(task.cancel)
        twin = self._manager.clone()
        ownership = Leases(twin.execute, *self._consumer_id)
        try:
            while not enough.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), self._interval.total_seconds())
                    break
                if self._is_alive() and (
                    ids := self._select_ids(self._in_flight_since_last_beat(self._in_flight_ids()))
                ):
                    await self._renew(twin, ownership, ids)
        finally:
            await twin.aclose()

    async def _renew(self, manager: StreamManager, leases: Leases, ids: list[str]) -> None:
        lost: list[str] = []
        unanswered: set[str] = set()
        try:
            with self._ack_buffer.acked_during() as done:
                try:
                    for begin in range(0, len(ids), PAGE_SIZE):
                        lost += await leases.renew(ids[begin : begin + PAGE_SIZE])
                finally:  # Redis may have run a renewal that failed here
                    unanswered = self._ack_buffer.record_renewed(ids)
                await self._ack_again(manager, [each for each in ids if each in done and each not in lost])
        except (RedisError, OSError) as error:
            log.debug("lease renewal failed", extra={"error": str(error)})
        if taken := [each for each in lost if each not in unanswered]:  # a postponed entry is not another consumer's
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_lost, taken)

    async def _ack_again(self, manager: StreamManager, message_ids: list[str]) -> None:
        """A renewal puts back what is nobody's, and so also what Redis heard acknowledged before it."""
        if settled := [each for each in message_ids if not self._ack_buffer.is_buffered(each)]:
            await manager.execute("XACK", self._consumer_id.stream, self._consumer_id.group, *settled)

    def _in_flight_since_last_beat(self, ids: list[str]) -> list[str]:
        """What was in flight a beat ago too. What comes and goes between two beats needs no other sign of life."""
        stay = [each for each in ids if each in self._ids_at_last_beat and each not in self._ack_buffer.ids_in_scripts]
        self._ids_at_last_beat = set(ids)
        return stay

    def _select_ids(self, ids: list[str]) -> list[str]:
        """Those that are renewed now. Of very many, a part each time: all of them several times within `min_idle`."""
        share = max(PAGE_SIZE, round(len(ids) * RENEWALS_PER_MIN_IDLE * (self._interval / self._manager.min_idle)))
        if len(ids) <= share:
            return ids
        begin = self._next_index % len(ids)
        self._next_index = begin + share
        return list(islice(cycle(ids), begin, begin + share))

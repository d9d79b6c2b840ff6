"""Signs of life, from a thread of its own: a handler that blocks the event loop must not cost its message."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice

from redis.exceptions import RedisError

from streamconsumer.processor.consumer.ack_buffer import Acknowledgements
from streamconsumer.processor.consumer.leases import Ownership
from streamconsumer.processor.consumer.liveness import HEARTBEAT
from streamconsumer.processor.consumer.manager import StreamManager

log = logging.getLogger(__name__)

PAGE = 200
"""How many entries one command renews: 2 ms of the server."""

FAREWELL_SECONDS = 0.5

BEATS = 4
"""How often an entry is renewed, at least, before it would count as idle."""


class Heart:
    """Renews what is in flight. `lost` is told, in the loop's thread, which entries are another consumer's by now."""

    def __init__(
        self,
        manager: StreamManager,
        who: tuple[str, str, str],
        acks: Acknowledgements,
        *,
        held: Callable[[], list[str]],
        lost: Callable[[list[str]], None],
        alive: Callable[[], bool],
    ) -> None:
        self._manager, self._who, self._acks = manager, who, acks
        self._held, self._lost, self._alive = held, lost, alive
        self._every = min(HEARTBEAT, manager.min_idle / BEATS)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._end: Callable[[], object] = lambda: None
        self._give_up: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._next = 0
        self._before: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """No more signs of life. One that is under way is finished, or what it puts back would stay pending; unless the
        server does not answer."""
        self._end()
        try:
            await asyncio.wait_for(self._stopped.wait(), FAREWELL_SECONDS)
        except TimeoutError:
            self._give_up()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._beat())
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _beat(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        enough = asyncio.Event()
        self._end = lambda: loop.is_closed() or loop.call_soon_threadsafe(enough.set)
        self._give_up = lambda: loop.is_closed() or loop.call_soon_threadsafe(task.cancel)
        twin = self._manager.twin()
        ownership = Ownership(twin.ask, *self._who)
        try:
            while not enough.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), self._every.total_seconds())
                    break
                if self._alive() and (ids := self._turn(self._that_stay(self._held()))):
                    await self._renew(twin, ownership, ids)
        finally:
            await twin.aclose()

    async def _renew(self, twin: StreamManager, ownership: Ownership, ids: list[str]) -> None:
        lost: list[str] = []
        unanswered: set[str] = set()
        try:
            with self._acks.done() as done:
                try:
                    for begin in range(0, len(ids), PAGE):
                        lost += await ownership.renew(ids[begin : begin + PAGE])
                finally:  # Redis may have run a renewal that failed here
                    unanswered = self._acks.renewed(ids)
                await self._acknowledge_again(twin, [each for each in ids if each in done and each not in lost])
        except (RedisError, OSError) as error:
            log.debug("lease renewal failed", extra={"error": str(error)})
        if taken := [each for each in lost if each not in unanswered]:  # a postponed entry is not another consumer's
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._lost, taken)

    async def _acknowledge_again(self, twin: StreamManager, message_ids: list[str]) -> None:
        """A renewal puts back what is nobody's, and so also what Redis heard acknowledged before it."""
        if settled := [each for each in message_ids if not self._acks.waits(each)]:
            stream, group, _ = self._who
            await twin.ask("XACK", stream, group, *settled)

    def _that_stay(self, ids: list[str]) -> list[str]:
        """What was in flight a beat ago too. What comes and goes between two beats needs no other sign of life."""
        stay = [each for each in ids if each in self._before and each not in self._acks.elsewhere]
        self._before = set(ids)
        return stay

    def _turn(self, ids: list[str]) -> list[str]:
        """Those that are renewed now. Of very many, a part each time: all of them several times within `min_idle`."""
        share = max(PAGE, round(len(ids) * BEATS * (self._every / self._manager.min_idle)))
        if len(ids) <= share:
            return ids
        begin = self._next % len(ids)
        self._next = begin + share
        return list(islice(cycle(ids), begin, begin + share))

"""Beside the loop: renewing what is in flight here, and taking over what shows no sign of life.

That is how a message that failed is tried again, how the messages of a dead consumer run elsewhere, and why those of
a live one are left alone however long they take. It goes on through the drain.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from streamconsumer.processor.faults import noting
from streamconsumer.processor.in_flight import InFlight
from streamconsumer.processor.intake import Intake
from streamconsumer.processor.metrics import Metrics

log = logging.getLogger(__name__)

RENEWALS = 4
"""How often an entry shows a sign of life before it would count as idle."""

CLAIMS = 2
"""How often idle entries are looked for in the time after which they are idle."""


class PendingCare:
    """Looks after the pending entries of one consumer, until told that it is over."""

    def __init__(self, intake: Intake, in_flight: InFlight, *, batch_count: int, where: str, metrics: Metrics) -> None:
        self._intake, self._in_flight, self._metrics = intake, in_flight, metrics
        self._batch_count, self._where = batch_count, where
        self.claims = True
        """Whether to take entries over; not while Redis fails the loop or the drain has begun."""
        self.over = False

    async def look_after(self) -> None:
        """Renew and claim, again and again."""
        if self._intake.min_idle is None:
            log.warning("this stream manager cannot renew or take over entries: those of a dead consumer stay pending")
            return
        seconds = self._intake.min_idle.total_seconds()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self._renew, seconds / RENEWALS))
            group.create_task(self._again_and_again(self._claim, seconds / CLAIMS))

    async def _again_and_again(self, act: Callable[[], Awaitable[None]], seconds: float) -> None:
        while not self.over:  # redis-py loses a cancellation now and then
            await asyncio.sleep(seconds * random.uniform(0.75, 1))  # noqa: S311 - spreads pods, guards nothing
            with noting("looking after pending entries failed; it will be tried again", self._where):
                await act()

    async def _renew(self) -> None:
        for message_id in await self._intake.renew(self._in_flight.ids()):
            if self._in_flight.lose(message_id):
                self._metrics.lost_ownership += 1
                log.warning("another consumer took the message over", extra={"message_id": message_id})

    async def _claim(self) -> None:
        """As long as claims come back full, go on as soon as there is room."""
        full = True
        while full and self.claims:
            await self._in_flight.room.wait()
            if not self.claims:
                return
            entries = await self._intake.claim(self._batch_count)
            full = len(entries) == self._batch_count
            self._in_flight.take_in(entries)

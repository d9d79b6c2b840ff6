"""Beside the loop: signs of life for what is in flight here, and taking over what is due although nobody reads it.

That is how the messages of a dead consumer run elsewhere within seconds, how a postponed one comes back, and why those
of a live one are left alone however long they take. Signs of life go on through the drain.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from streamconsumer.processor.consumer import Claim, Claims, Intake
from streamconsumer.processor.error_logging import noting
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlight
from streamconsumer.processor.telemetry import Tracing

log = logging.getLogger(__name__)

SWEEPS = 2
"""How often idle entries are looked for in the time after which they are idle."""

FIRST_LOOK_SECONDS = 0.05
"""What a pod handed back a moment ago, its successor takes at once."""

NOTE_SECONDS = 1.0
"""How often it is written down what is pending, while anything is."""

RETRY_SECONDS = 1.0
"""While Redis does not answer."""

PATIENCE_SECONDS = 0.5
"""How long a claim waits for room; then the next turn goes on with it."""


class PendingCare:
    """Looks after the pending entries of one consumer, until told that it is over."""

    def __init__(
        self,
        intake: Intake,
        in_flight: InFlight,
        *,
        may_claim: Callable[[], bool],
        batch_count: int,
        where: str,
        metrics: Metrics,
        telemetry: Tracing | None = None,
    ) -> None:
        self._intake, self._in_flight, self._metrics = intake, in_flight, metrics
        self._may_claim = may_claim
        """Whether to take entries over; not while Redis fails the loop or the drain has begun."""
        self._batch_count, self._where, self._telemetry = batch_count, where, telemetry
        self.over = False

    async def look_after(self, is_alive: Callable[[], bool]) -> None:
        """Renew and claim, again and again. `is_alive` says whether the process still deserves its entries."""
        caring = self._intake.caring
        if caring is None:
            log.warning("this stream manager cannot renew or take over entries: those of a dead consumer stay pending")
            return
        stop = caring.show_life(held=self._in_flight.ids, lost=self._lost, alive=is_alive)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(caring))
                group.create_task(self._sweep(caring))
                group.create_task(self._note(caring))
        finally:
            await stop()

    async def _watch(self, caring: Claims) -> None:
        seconds = FIRST_LOOK_SECONDS
        while not self.over:  # redis-py loses a cancellation now and then
            with suppress(TimeoutError):
                await asyncio.wait_for(caring.woken.wait(), seconds)
            caring.woken.clear()
            seconds = RETRY_SECONDS
            await self._act(caring.look)
            if self._may_claim():
                with noting("the server does not tell the time", self._where):
                    seconds = await caring.seconds_to_turn()

    async def _sweep(self, caring: Claims) -> None:
        while not self.over:
            spread = random.uniform(0.75, 1)  # noqa: S311 - spreads pods, guards nothing
            await asyncio.sleep(caring.min_idle.total_seconds() / SWEEPS * spread)
            await self._act(caring.sweep)

    async def _note(self, caring: Claims) -> None:
        """Once more after nothing is in flight any more: what was noted then is settled."""
        delivered, busy = 0, False
        while not self.over:
            await asyncio.sleep(NOTE_SECONDS)
            was_busy, before = busy, delivered
            busy, delivered = bool(self._in_flight.waiting or self._in_flight.running), self._metrics.delivered
            if self._may_claim() and (busy or was_busy or delivered != before):
                with noting("what is pending could not be written down", self._where):
                    await caring.note()

    async def _act(self, look: Callable[[], Awaitable[Sequence[Claim]]]) -> None:
        if not self._may_claim():
            return
        with noting("looking after pending entries failed; it will be tried again", self._where):
            for claim in await look():
                await self._claim(claim)

    async def _claim(self, claim: Claim) -> None:
        """As long as claims bring something, go on as soon as there is room."""
        is_more = True
        while is_more and self._may_claim():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._in_flight.room.wait(), PATIENCE_SECONDS)
            if not self._in_flight.room.is_set() or not self._may_claim():
                return
            start_ns = time.time_ns()
            entries = await claim(self._batch_count)
            is_more = bool(entries)
            if self._telemetry is not None and entries:
                self._telemetry.took_in(entries)
                if entries[0].claimed_from:  # otherwise they had waited, and were nobody's
                    self._telemetry.claimed(entries, start_ns)
            self._in_flight.take_in(entries)

    def _lost(self, message_ids: list[str]) -> None:
        for message_id in message_ids:
            if self._in_flight.lose(message_id):
                self._metrics.lost_ownership += 1
                log.warning("another consumer took the message over", extra={"message_id": message_id})

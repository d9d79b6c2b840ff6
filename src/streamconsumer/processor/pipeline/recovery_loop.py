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

from streamconsumer.processor.consumer import ClaimPage, Consumer, PendingClaimer
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.telemetry import MessageTracing

log = logging.getLogger(__name__)

IDLE_SCANS_PER_MIN_IDLE = 2
"""How often idle entries are looked for in the time after which they are idle."""

FIRST_CHECK_SECONDS = 0.05
"""What a pod handed back a moment ago, its successor takes at once."""

SNAPSHOT_INTERVAL_SECONDS = 1.0
"""How often it is written down what is pending, while anything is."""

RETRY_DELAY_SECONDS = 1.0
"""While Redis does not answer."""

CAPACITY_TIMEOUT_SECONDS = 0.5
"""How long a claim waits for room; then the next turn goes on with it."""


class RecoveryLoop:
    """Looks after the pending entries of one consumer, until told that it is over."""

    def __init__(
        self,
        consumer: Consumer,
        in_flight: InFlightTable,
        *,
        may_claim: Callable[[], bool],
        batch_count: int,
        log_context: str,
        metrics: Metrics,
        telemetry: MessageTracing | None = None,
    ) -> None:
        self._consumer, self._in_flight, self._metrics = consumer, in_flight, metrics
        self._may_claim = may_claim
        """Whether to take entries over; not while Redis fails the loop or the drain has begun."""
        self._batch_count, self._log_context, self._telemetry = batch_count, log_context, telemetry
        self.is_stopped = False

    async def run(self, is_alive: Callable[[], bool]) -> None:
        """Renew and claim, again and again. `is_alive` says whether the process still deserves its entries."""
        caring = self._consumer.claimer
        if caring is None:
            log.warning("this stream manager cannot renew or take over entries: those of a dead consumer stay pending")
            return
        stop = caring.start_heartbeat(in_flight_ids=self._in_flight.ids, on_lost=self._on_lost, is_alive=is_alive)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._claim_dead_loop(caring))
                group.create_task(self._claim_idle_loop(caring))
                group.create_task(self._snapshot_loop(caring))
        finally:
            await stop()

    async def _claim_dead_loop(self, claimer: PendingClaimer) -> None:
        seconds = FIRST_CHECK_SECONDS
        while not self.is_stopped:  # redis-py loses a cancellation now and then
            with suppress(TimeoutError):
                await asyncio.wait_for(claimer.wakeup.wait(), seconds)
            claimer.wakeup.clear()
            seconds = RETRY_DELAY_SECONDS
            await self._claim_from(claimer.find_claimable)
            if self._may_claim():
                with logging_redis_errors("the server does not tell the time", self._log_context):
                    seconds = await claimer.seconds_until_turn()

    async def _claim_idle_loop(self, claimer: PendingClaimer) -> None:
        while not self.is_stopped:
            spread = random.uniform(0.75, 1)  # noqa: S311 - spreads pods, guards nothing
            await asyncio.sleep(claimer.min_idle.total_seconds() / IDLE_SCANS_PER_MIN_IDLE * spread)
            await self._claim_from(claimer.find_idle)

    async def _snapshot_loop(self, claimer: PendingClaimer) -> None:
        """Once more after nothing is in flight any more: what was noted then is settled."""
        delivered, busy = 0, False
        while not self.is_stopped:
            await asyncio.sleep(SNAPSHOT_INTERVAL_SECONDS)
            was_busy, before = busy, delivered
            busy, delivered = bool(self._in_flight.queued or self._in_flight.running), self._metrics.delivered
            if self._may_claim() and (busy or was_busy or delivered != before):
                with logging_redis_errors("what is pending could not be written down", self._log_context):
                    await claimer.save_snapshot()

    async def _claim_from(self, find_pages: Callable[[], Awaitable[Sequence[ClaimPage]]]) -> None:
        if not self._may_claim():
            return
        with logging_redis_errors("looking after pending entries failed; it will be tried again", self._log_context):
            for claim in await find_pages():
                await self._claim_pages(claim)

    async def _claim_pages(self, claim_page: ClaimPage) -> None:
        """As long as claims bring something, go on as soon as there is room."""
        is_more = True
        while is_more and self._may_claim():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._in_flight.has_capacity.wait(), CAPACITY_TIMEOUT_SECONDS)
            if not self._in_flight.has_capacity.is_set() or not self._may_claim():
                return
            start_ns = time.time_ns()
            entries = await claim_page(self._batch_count)
            is_more = bool(entries)
            if self._telemetry is not None and entries:
                self._telemetry.on_received(entries)
                if entries[0].claimed_from:  # otherwise they had waited, and were nobody's
                    self._telemetry.on_claimed(entries, start_ns)
            self._in_flight.admit(entries)

    def _on_lost(self, message_ids: list[str]) -> None:
        for message_id in message_ids:
            if self._in_flight.drop_claimed(message_id):
                self._metrics.lost_ownership += 1
                log.warning("another consumer took the message over", extra={"message_id": message_id})

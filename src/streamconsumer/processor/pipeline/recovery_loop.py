"""Background tasks of a consumer: renew leases, claim pending entries, and save the group snapshot.

The consumer claims the entries of a dead consumer within seconds, and postponed entries when their delays have ended.
Entries of a live consumer are not claimed, even if their handlers take a long time. Leases are also renewed during the
drain.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from streamconsumer.processor.consumer import ClaimPage, Consumer, PendingClaimer
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.supervisor import Supervisor
from streamconsumer.processor.telemetry import MessageTracing

log = logging.getLogger(__name__)

FIRST_CHECK_SECONDS = 0.05
"""Delay of the first check of the group after the start. The delay is short, so that a new pod soon claims the entries
that a stopped pod released."""

SNAPSHOT_INTERVAL_SECONDS = 1.0
"""Interval between snapshots of the consumer group while entries are in flight."""

RETRY_DELAY_SECONDS = 1.0
"""Delay before the next check of the group while Redis is unavailable or claiming is paused."""

CAPACITY_TIMEOUT_SECONDS = 0.5
"""Maximum time that a claim waits until the processor may read entries. After this time, the claim requests only the
number of entries that may wait in addition to new entries."""

MAX_CLAIM_SECONDS = 1.0
"""Time after which a claim ends although entries are left. The next check of the group follows immediately, and finds
further dead consumers and due entries."""


class RecoveryLoop:
    """Runs the background tasks of one consumer until `is_stopped` is True."""

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
        """Function that returns False while Redis is unavailable, and after the drain has started."""
        self._batch_count, self._log_context, self._telemetry = batch_count, log_context, telemetry
        self._claim_lock = asyncio.Lock()
        """Lock that is held from the start of a claim until its entries are in the in-flight table."""
        self.is_stopped = False

    async def run(self, health: Health) -> None:
        """Run the background tasks until the current task is cancelled. Leases are renewed only while the process is
        alive."""
        claimer = self._consumer.claimer
        if claimer is None:
            log.warning("stream manager does not support claiming; entries of dead consumers stay pending")
            return
        heartbeat = claimer.heartbeat(
            in_flight_ids=self._in_flight.ids,
            on_lost=self._on_lost,
            is_alive=lambda: health.liveness()[0],
            on_problem=partial(health.set_problem, "heartbeat"),
        )
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "heartbeat": heartbeat.run,
            "claims of dead consumers": partial(self._claim_dead_loop, claimer),
            "snapshots of the group": partial(self._snapshot_loop, claimer),
        }
        supervisor = Supervisor(health, self._metrics)
        try:
            async with asyncio.TaskGroup() as group:
                for name, task in tasks.items():
                    group.create_task(supervisor.run(name, task))
        finally:
            await heartbeat.stop()
            health.set_problem("heartbeat", "")  # the heartbeat of the next run reports its own problems
            await claimer.close()

    async def finish_claim(self) -> None:
        """Wait until the claim in progress has ended and its entries are in the in-flight table."""
        async with self._claim_lock:
            pass

    async def _claim_dead_loop(self, claimer: PendingClaimer) -> None:
        seconds = FIRST_CHECK_SECONDS
        while not self.is_stopped:  # redis-py occasionally swallows a cancellation
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await claimer.wakeup.wait()
            claimer.wakeup.clear()
            seconds = RETRY_DELAY_SECONDS
            if await self._claim_from(claimer, claimer.find_claimable):
                seconds = 0.0
            elif self._may_claim():
                seconds = claimer.seconds_until_turn()

    async def _snapshot_loop(self, claimer: PendingClaimer) -> None:
        """Save the snapshot while entries are in flight, and once more after all of these entries have been settled."""
        delivered, is_busy, is_due = 0, False, False
        while not self.is_stopped:
            await asyncio.sleep(SNAPSHOT_INTERVAL_SECONDS)
            was_busy, delivered_before = is_busy, delivered
            is_busy, delivered = bool(self._in_flight.queued or self._in_flight.running), self._metrics.delivered
            is_due = is_due or is_busy or was_busy or delivered != delivered_before
            if is_due and self._may_claim():
                with logging_redis_errors("failed to save the group snapshot", self._log_context):
                    is_due = not await claimer.save_snapshot()

    async def _claim_from(self, claimer: PendingClaimer, find_pages: Callable[[], Awaitable[list[ClaimPage]]]) -> bool:
        """Claim entries, one page after another from each source in turns. Returns True if entries are left that fit
        into the in-flight table."""
        loop = asyncio.get_running_loop()
        with logging_redis_errors("failed to claim pending entries; retrying", self._log_context):
            sources = await find_pages() if self._may_claim() else []
            deadline = loop.time() + MAX_CLAIM_SECONDS
            while sources and loop.time() < deadline:
                sources = [source for source in sources if await self._claim_page(claimer, source)]
            return bool(sources)
        return False

    async def _claim_page(self, claimer: PendingClaimer, claim_page: ClaimPage) -> bool:
        """Claim one page and admit its entries. Returns False if the page is empty, or if the in-flight table has no
        room."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CAPACITY_TIMEOUT_SECONDS):
                await self._in_flight.has_capacity.wait()
        async with self._claim_lock:
            count = self._batch_count
            if not self._in_flight.has_capacity.is_set():
                count = min(count, self._in_flight.room_for_claims(is_due=claim_page == claimer.claim_due))
            if not count or not self._may_claim():
                return False
            start_ns = time.time_ns()
            entries = await claim_page(count)
            if self._telemetry is not None and entries:
                self._telemetry.on_received(entries)
                if entries[0].claimed_from:  # Postponed entries have no previous consumer.
                    self._telemetry.on_claimed(entries, start_ns)
            self._in_flight.admit(entries)
            return bool(entries)

    def _on_lost(self, message_ids: list[str]) -> None:
        for message_id in message_ids:
            if self._in_flight.drop_claimed(message_id):
                self._metrics.lost_ownership += 1
                log.warning("message was claimed by another consumer", extra={"message_id": message_id})

"""Background tasks of a consumer: renew leases, claim pending entries, and save the group snapshot.

The consumer claims the entries of a dead consumer within seconds, and postponed entries when their delays have ended.
Entries of a live consumer are not claimed, even if their handlers take a long time. Leases are also renewed during the
drain.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
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

MAX_CLAIM_SECONDS = 1.0
"""Entries of the consumers that a check has found dead are claimed for at most this time after the check. If such
entries are left and there is room, the next check then follows."""

MAX_UNWATCHED_SECONDS = 1.5
"""Threshold for the time until the next check. If this time is longer when a pod of an idle group gets entries, the pod
checks for dead consumers immediately."""


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
        self._next_check = 0.0
        """Time of the next check, in seconds of the event loop."""
        in_flight.on_busy = self._on_busy
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
            "claims of dead consumers": partial(self._claim_loop, claimer),
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

    async def _claim_loop(self, claimer: PendingClaimer) -> None:
        """Check for claimable entries at this consumer's turns, and claim them page by page as there is room.

        The claims of one check continue until the next check, so that a backlog does not delay a check."""
        loop = asyncio.get_running_loop()
        pages: list[ClaimPage] = []
        checked_at, self._next_check = loop.time(), loop.time() + FIRST_CHECK_SECONDS
        while not self.is_stopped:  # redis-py occasionally swallows a cancellation
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_check):
                    await self._wait_for_work(claimer, pages)
            is_expired = loop.time() > checked_at + MAX_CLAIM_SECONDS and any(page.kind == "dead" for page in pages)
            if is_expired or claimer.wakeup.is_set() or loop.time() >= self._next_check:
                claimer.wakeup.clear()
                pages, seconds = await self._check(claimer)
                checked_at, self._next_check = loop.time(), loop.time() + seconds
            pages = await self._claim_pages(pages)
            if any(page.kind == "dead" and not self._count(page) for page in pages):
                await claimer.share_dead()
            self._in_flight.reserve(frozenset(page.kind for page in pages if page.kind != "upkeep"))

    def _on_busy(self) -> None:
        """Check soon if this pod gets entries while checks of the group are rare. The pods that share the checks may
        have ended."""
        claimer = self._consumer.claimer
        seconds_left = self._next_check - asyncio.get_running_loop().time()
        if claimer is not None and not claimer.is_watching and seconds_left > MAX_UNWATCHED_SECONDS:
            claimer.wakeup.set()

    async def _wait_for_work(self, claimer: PendingClaimer, pages: Collection[ClaimPage]) -> None:
        """Wait until one of the pages can be claimed. If there are no pages, wait until the claimer is woken."""
        if not pages:
            await claimer.wakeup.wait()
        while pages and not any(map(self._count, pages)):
            self._in_flight.capacity_changed.clear()
            await self._in_flight.capacity_changed.wait()

    async def _check(self, claimer: PendingClaimer) -> tuple[list[ClaimPage], float]:
        """Run a check. Returns the claimable pages, and the seconds until the next check."""
        pages: list[ClaimPage] = []
        seconds = RETRY_DELAY_SECONDS
        if self._may_claim():
            with logging_redis_errors("failed to claim pending entries; retrying", self._log_context):
                pages = await claimer.find_claimable()
            seconds = claimer.seconds_until_turn()
        return pages, seconds

    async def _snapshot_loop(self, claimer: PendingClaimer) -> None:
        """Save the snapshot while entries are in flight, and once more after all of these entries have been settled.

        Also save it after a failed read, because another program may have created the group again meanwhile. In this
        case, the claimer restores the entries in the previous snapshot first."""
        counts, is_busy, is_due = (0, 0), False, False
        while not self.is_stopped:
            await asyncio.sleep(SNAPSHOT_INTERVAL_SECONDS)
            was_busy, counts_before = is_busy, counts
            is_busy = bool(self._in_flight.queued or self._in_flight.running)
            counts = self._metrics.delivered, self._metrics.redis_errors
            is_due = is_due or is_busy or was_busy or counts != counts_before
            if is_due and self._may_claim():
                with logging_redis_errors("failed to save the group snapshot", self._log_context):
                    is_due = not await claimer.save_snapshot()

    async def _claim_pages(self, pages: Collection[ClaimPage]) -> list[ClaimPage]:
        """Claim one page of each kind for which there is room. Returns the pages of the kinds of which entries are
        left."""
        with logging_redis_errors("failed to claim pending entries; retrying", self._log_context):
            return [page for page in pages if await self._claim_page(page)]
        return []

    async def _claim_page(self, page: ClaimPage) -> bool:
        """Claim one page and admit its entries, if there is room. Returns True if entries are left."""
        async with self._claim_lock:
            if not self._may_claim():
                return False
            if not (count := self._count(page)):
                return True
            start_ns = time.time_ns()
            claimed = await page.claim(count)
            if self._telemetry is not None and claimed.entries:
                self._telemetry.on_received(claimed.entries)
                if claimed.entries[0].claimed_from:  # Postponed entries have no previous consumer.
                    self._telemetry.on_claimed(claimed.entries, start_ns)
            self._in_flight.admit(claimed.entries)
            return claimed.has_more

    def _count(self, page: ClaimPage) -> int:
        """Return the number of entries that may be claimed."""
        if page.kind == "upkeep":
            return self._batch_count
        return self._in_flight.claim_count(self._batch_count, is_due=page.kind == "due")

    def _on_lost(self, message_ids: list[str]) -> None:
        for message_id in message_ids:
            if self._in_flight.drop_claimed(message_id):
                self._metrics.lost_ownership += 1
                log.warning("message was claimed by another consumer", extra={"message_id": message_id})

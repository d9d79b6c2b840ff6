"""Prepares attempts: checks an entry before its handler is called, and counts the attempt in Redis.

An ordinary entry needs neither the check nor the count. XREADGROUP has counted the first attempt, and no other consumer
can own the entry while the leases of this process are valid.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from streamconsumer.errors import UndecodableEntry
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Consumer
from streamconsumer.processor.dead_letters.record import DeadLetterReason, is_replay_for_other_group
from streamconsumer.processor.entry_state import RUNNING
from streamconsumer.processor.error_logging import log_redis_error
from streamconsumer.processor.handler.loader import HandlerThreadPool
from streamconsumer.processor.message import DUE, NEW, ConsumerId, Entry, UnreadableEntry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.retry_policy import RetryLater
from streamconsumer.processor.pipeline.settlement import RETRY_DELAY_SECONDS, Settler
from streamconsumer.redis_client.outcome import Outcome

log = logging.getLogger(__name__)

BUSY_RETRY = RetryLater(timedelta(seconds=1))
"""Retry of an entry whose previous handler is still running in this process."""

MAX_LOADED_AT_ONCE = 50
"""Maximum number of parked entries of one lane that are read again together."""


class Preparation:
    """Prepares the attempts of one processor."""

    def __init__(  # noqa: PLR0917 - one per collaborator
        self,
        consumer: Consumer,
        in_flight: InFlightTable,
        policy: Delivery,
        breaker: CircuitBreaker,
        settler: Settler,
        thread_pool: HandlerThreadPool,
        consumer_id: ConsumerId,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._consumer, self._in_flight, self._policy, self._breaker = consumer, in_flight, policy, breaker
        self._thread_pool = thread_pool
        self._settler, self._consumer_id, self._metrics, self._clock = settler, consumer_id, metrics, clock
        self.marks_first_attempts = policy.max_deliveries == 1 and consumer.claimer is not None
        """True if the delivery counts in Redis distinguish two cases: an entry was only read (1), or its handler has
        started (2). This distinction is needed if only one attempt is allowed. After the process has died, an entry
        that was only read must start. An entry whose handler has started must not start again."""

    async def data_for_handler(self, entry: Entry) -> dict[Any, Any] | None:
        """Return the data for the handler. Returns None if the handler must not be called."""
        if entry.is_parked and not await self._load(entry):
            return None
        has_checks = entry.may_be_large or entry.decision is not None or entry.is_replay
        is_ordinary = entry.origin is NEW and not has_checks
        is_verified = self._clock() <= self._consumer.leases_valid_until and not self.marks_first_attempts
        if not (is_ordinary and is_verified) and not await self._prepare_attempt(entry, is_verified=is_verified):
            return None
        if self._thread_pool.is_exhausted:
            await self._thread_pool.wait_for_thread()
        if self._in_flight.is_closed:
            self.keep_unstarted(entry)
            return None
        if entry.state is not RUNNING:  # claimed by another consumer during the wait
            return None
        try:
            return entry.data(self._consumer.encoding)
        except UndecodableEntry as error:
            await self._on_undecodable(entry, error)
            return None

    def keep_unstarted(self, entry: Entry) -> None:
        """Keep a prepared entry that the processor must not start, because the processor was stopped meanwhile. The
        drain releases the entry."""
        if entry.origin is not NEW:
            entry.deliveries -= 1
        self._in_flight.schedule_retry(entry, 0)

    async def _load(self, entry: Entry) -> bool:
        """Read a parked entry again, together with the next parked entries of its lane. Returns False if the entry must
        not start. Either the entry was settled, or it is retried after a Redis error."""
        replay, table = self._consumer.replay, self._in_flight
        assert replay is not None
        try:
            outcome = await self._consumer.start_attempt(entry.message_id, entry.deliveries)
            parked = {each.message_id: each for each in table.ready_queue.parked_with(entry, MAX_LOADED_AT_ONCE)}
            found = await replay.read_again(list(parked)) if outcome is Outcome.DONE else []
        except Exception as error:  # noqa: BLE001 - the client may raise anything
            log_redis_error("failed to start message; retrying", self._consumer_id.log_context, error)
            table.schedule_retry(entry, RETRY_DELAY_SECONDS)
            return False
        for each in found:
            if each.message_id == entry.message_id or not isinstance(each, UnreadableEntry):
                table.load(parked[each.message_id], each.fields)
        if outcome is not Outcome.DONE:
            self._settler.count_lost(entry, outcome)
        elif entry.is_parked:  # the group was lost between the two commands
            table.schedule_retry(entry, RETRY_DELAY_SECONDS)
        elif isinstance(found[0], UnreadableEntry):
            await self._on_too_large(entry, DeadLetterReason.UNREADABLE, found[0].problem)
        return entry.state is RUNNING and not entry.is_parked

    async def _prepare_attempt(self, entry: Entry, *, is_verified: bool) -> bool:
        """Check a redelivered, large or replayed entry, and count its attempt. If `is_verified` is False, another
        consumer may own the entry by now. In this case, a script checks the owner in Redis, even if the read has
        counted the attempt.

        Returns False if the handler must not be called."""
        try:
            if await self._is_settled_without_attempt(entry):
                return False
            return (entry.origin is NEW and is_verified) or await self._count_attempt(entry)
        except Exception as error:  # noqa: BLE001 - the client may raise anything
            log_redis_error("failed to start message; retrying", self._consumer_id.log_context, error)
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)
            return False

    async def _is_settled_without_attempt(self, entry: Entry) -> bool:
        """Settle or postpone an entry whose handler must not be called. Returns False if the handler may be called."""
        size_bytes = entry.size_bytes() if entry.may_be_large else 0
        if entry.decision is not None:
            entry.apply("decide")
            await self._settler.apply_decision(entry)
        elif entry.message_id in self._in_flight.busy_ids:
            await self._postpone_busy(entry)
        elif entry.is_replay and is_replay_for_other_group(entry.fields, self._consumer_id.group.encode()):
            await self._consumer.ack(entry.message_id)
        elif isinstance(entry, UnreadableEntry):
            await self._on_too_large(entry, DeadLetterReason.UNREADABLE, entry.problem)
        elif size_bytes > self._policy.max_entry_bytes:
            problem = f"{size_bytes} bytes; delivery.maxEntryBytes is {self._policy.max_entry_bytes}"
            await self._on_too_large(entry, DeadLetterReason.OVERSIZED, problem)
        else:
            return False
        return True

    async def _count_attempt(self, entry: Entry) -> bool:
        """Count the attempt in Redis.

        Returns False if the entry was dead-lettered, claimed by another consumer or trimmed."""
        is_new, is_trial = entry.origin is NEW, entry is self._in_flight.trial
        if not is_new and entry.deliveries >= self._policy.max_deliveries:
            error = RuntimeError(
                f"started {entry.deliveries} times without finishing; it probably crashes the process; "
                f"maxDeliveries is {self._policy.max_deliveries}"
            )
            await self._settler.dead_letter(entry, DeadLetterReason.CRASHED, error)
            return False
        await self._thread_pool.reserve_thread()  # Otherwise, the counted attempt might wait for a thread.
        if self._in_flight.is_closed:
            self._in_flight.schedule_retry(entry, 0)
            return False
        if entry.is_suspect:  # This entry may crash the process, so finished messages are acknowledged first.
            await self._consumer.flush()
        is_uncounted = is_trial and entry.origin is DUE and not self._breaker.counts_trials()
        if is_uncounted or entry is self._settler.uncounted_trial:
            self._settler.uncounted_trial = entry if is_uncounted else None
        entry.had_uncounted_attempt = entry.had_uncounted_attempt or is_uncounted or not entry.deliveries
        deliveries = entry.deliveries + (not is_new)
        stored = deliveries - is_uncounted + self.marks_first_attempts
        outcome = await self._consumer.start_attempt(entry.message_id, stored)
        if outcome is Outcome.DONE and entry.state is RUNNING:
            entry.deliveries = deliveries
            return True
        self._settler.count_lost(entry, outcome)
        return False

    async def _postpone_busy(self, entry: Entry) -> None:
        """Postpone an entry whose previous handler is still running in this process. Another process may handle the
        entry."""
        self._thread_pool.record_wait(entry.message_id)
        must_wait_here = self._consumer.claimer is None or entry.lane is not None
        if must_wait_here or not await self._settler.postpone([(entry, BUSY_RETRY)]):
            self._in_flight.schedule_retry(entry, BUSY_RETRY.delay.total_seconds())

    async def _on_undecodable(self, entry: Entry, error: UndecodableEntry) -> None:
        """Dead-letter an entry that cannot be decoded, because a retry would fail for the same reason."""
        self._metrics.failed += 1
        log.error("message cannot be decoded", extra={"error": str(error)})
        if self._consumer.claimer is not None:
            await self._settler.dead_letter(entry, DeadLetterReason.UNDECODABLE, error)

    async def _on_too_large(self, entry: Entry, reason: DeadLetterReason, problem: str) -> None:
        self._metrics.failed += 1
        error = ValueError(problem)
        log.error("message is too large", extra={"message_id": entry.message_id, "error": str(error)})
        await self._settler.dead_letter(entry, reason, error)

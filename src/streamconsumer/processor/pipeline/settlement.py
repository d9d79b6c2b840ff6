"""Settles messages whose handler has ended: acknowledges, retries, postpones or dead-letters them.

`retry_policy` decides between a retry and a dead letter, and this module applies the decision in Redis. If a Redis
command fails, the entry stays pending and the command is retried, so that no entry is lost.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from streamconsumer.errors import EffectsRejected
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Consumer
from streamconsumer.processor.dead_letters.record import (
    DeadLetterReason,
    FailureDetails,
    to_fields,
)
from streamconsumer.processor.error_logging import format_error, format_leaves, leaves, log_redis_error
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import ConsumerId, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.retry_policy import Decision, RetryLater, ToDeadLetter, decide, main_error
from streamconsumer.processor.runtime import Runtime
from streamconsumer.processor.telemetry import MessageTracing, current_traceparent
from streamconsumer.redis_client.outcome import Outcome

log = logging.getLogger(__name__)

MAX_LOCAL_WAIT = timedelta(seconds=2)
"""Longest retry delay that an entry waits in this process. Longer delays are stored in Redis, so that they survive the
end of the pod."""

RETRY_DELAY_SECONDS = 1.0
"""Delay before a failed Redis command is retried."""

MAX_LOGGED_IDS = 10
"""Maximum number of message ids in the log line of a failed batch."""


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """Decision on a failed attempt, and the error of the attempt."""

    action: Decision
    error: BaseException
    """Error that determines the decision. If the handler raised an exception group, one error of this group."""

    traceparent: str = ""
    """Trace context of the attempt. Empty if the attempt was not traced."""

    other_errors: str = ""
    """The other errors in the exception group that the handler raised. Empty if there are no other errors."""


class Settler:
    """Settles messages. A processor creates a new settler on each start."""

    def __init__(
        self,
        consumer: Consumer,
        in_flight: InFlightTable,
        policy: Delivery,
        breaker: CircuitBreaker,
        *,
        consumer_id: ConsumerId,
        metrics: Metrics,
        telemetry: MessageTracing | None = None,
        runtime: Runtime,
    ) -> None:
        self._consumer, self._in_flight, self._policy, self._breaker = consumer, in_flight, policy, breaker
        self._consumer_id, self._log_context = consumer_id, consumer_id.log_context
        self._metrics, self._telemetry = metrics, telemetry
        self._random = runtime.random
        self.uncounted_trial: Entry | None = None
        """Entry of a trial that the delivery count in Redis does not include. None if there is no such trial."""
        self._unreleased: list[tuple[Entry, float]] = []
        """Entries whose release has failed, each with the time (by the event loop's clock) from which another consumer
        may claim the entry."""

    async def on_success(self, entry: Entry, result: Any) -> None:
        """Acknowledge the entry. If the handler returned Effects, apply the effects in the same step."""
        entry.apply("decide")
        try:
            if isinstance(result, Effects):
                await self._commit_effects(entry, result)
            else:
                await self._consumer.ack(entry.message_id)
        except Exception as error:  # noqa: BLE001 - a custom stream manager may raise anything
            log_redis_error(
                "acknowledgement failed; the entry stays pending and will be handled again", self._log_context, error
            )
        if not self._breaker.has_no_recent_failure:
            is_trial = entry is self._in_flight.trial
            self._breaker.record_success(is_trial)
            if is_trial:
                self._in_flight.trial = None
                self._in_flight.dispatch()

    async def _commit_effects(self, entry: Entry, effects: Effects) -> None:
        entry.decision = effects
        entry.mark_attempted()
        try:
            outcome = await self._consumer.commit_effects(entry.message_id, effects)
            if outcome is Outcome.DONE:
                self._metrics.acknowledged += 1
            else:
                self.count_lost(entry, outcome)
                log.warning(
                    "message was claimed by another consumer; effects not applied",
                    extra={"message_id": entry.message_id},
                )
        except EffectsRejected as error:
            self.on_failure(entry, error)
            await self.apply_decision(entry)
        except Exception as error:  # noqa: BLE001 - a Redis error, so only the commit is retried
            log_redis_error("failed to commit effects; retrying", self._log_context, error)
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)

    def on_failure(self, entry: Entry, error: BaseException) -> None:
        """Decide whether a failed message is retried or dead-lettered, and log the failure."""
        if self._decide(entry, error):
            self._record_breaker_failure(entry)
        self._log_failure(entry, error, entry.decision.action)

    def on_batch_failure(self, failed: Sequence[tuple[Entry, BaseException]], *, is_whole_batch: bool) -> None:
        """Decide for each message, by its own error, whether it is retried or dead-lettered. Logs the failures.

        The circuit breaker counts a failed batch as one failure. If only some messages of the batch failed, the breaker
        counts no failure, because the service that the handler uses is up."""
        breaker_failures = [entry for entry, error in failed if self._decide(entry, error)]
        if is_whole_batch and breaker_failures:
            self._record_breaker_failure(breaker_failures[0])
        for kind in (False, True):
            part = [(entry, error) for entry, error in failed if is_deferred(entry) is kind]
            if len(part) > 1 and len({id(error) for _, error in part}) == 1:
                self._log_batch_failure([entry for entry, _ in part], part[0][1])
            else:
                for entry, error in part:
                    self._log_failure(entry, error, entry.decision.action)

    def _decide(self, entry: Entry, error: BaseException) -> bool:
        """Store the decision in `entry.decision`. Returns True if the failure is relevant for the circuit breaker."""
        entry.apply("decide")
        entry.mark_attempted()
        jitter, cause = self._random.random(), main_error(error, self._policy)
        is_trial = entry is self._in_flight.trial
        is_uncounted = is_trial and (entry is self.uncounted_trial or not self._breaker.counts_trials())
        decision = decide(cause, entry.deliveries, self._policy, jitter=jitter, is_uncounted=is_uncounted)
        others = format_leaves([each for each in leaves(error) if each is not cause])
        entry.decision = FailureDecision(decision, cause, current_traceparent(), others)
        return is_trial or (isinstance(decision, RetryLater) and decision.counts_as_attempt)

    async def apply_decision(self, entry: Entry) -> None:
        """Apply the stored decision. Does nothing for a custom stream manager.

        A custom stream manager can neither postpone nor dead-letter entries, so its entries stay pending."""
        decision: FailureDecision | Effects = entry.decision
        if self._consumer.claimer is None:
            return
        if isinstance(decision, Effects):
            self._in_flight.ignore_trial(entry)  # this attempt does not call the handler
            await self._commit_effects(entry, decision)
        else:
            await self.apply_decisions([entry])

    async def apply_decisions(self, entries: Sequence[Entry]) -> None:
        """Apply the decisions on failed messages.

        One round trip postpones all messages that must be postponed, and a few round trips write the dead letters."""
        if self._consumer.claimer is None:
            return
        to_dead_letter: list[tuple[Entry, FailureDecision]] = []
        to_retry: list[tuple[Entry, RetryLater]] = []
        for entry in entries:
            decision: FailureDecision = entry.decision
            if isinstance(decision.action, ToDeadLetter):
                to_dead_letter.append((entry, decision))
            else:
                to_retry.append((entry, decision.action))
        await self._schedule_retries(to_retry)
        await self.dead_letter_many(to_dead_letter)

    async def release(self, entries: list[tuple[Entry, float]]) -> None:
        """Release unstarted entries, and the entries of earlier calls that failed. For each entry, `entries` contains
        the seconds after which another consumer may claim the entry."""
        now = asyncio.get_running_loop().time()
        self._unreleased += [(entry, now + seconds) for entry, seconds in entries]
        postponements = [
            (entry.message_id, entry.previous_attempts, timedelta(seconds=max(0.0, due_at - now)))
            for entry, due_at in self._unreleased
        ]
        if postponements and self._consumer.claimer:
            await self._consumer.postpone(postponements)
        self._metrics.released += len(postponements)
        self._unreleased.clear()

    async def _schedule_retries(self, entries: Sequence[tuple[Entry, RetryLater]]) -> None:
        for entry, decision in entries:
            if not decision.counts_as_attempt:
                entry.deliveries -= 1
                entry.had_uncounted_attempt = True
                counted = replace(decision, counts_as_attempt=True)
                entry.decision = replace(entry.decision, action=counted)  # the attempt must be subtracted only once
        self._metrics.retried += sum(not decision.is_deferred for _, decision in entries)
        postponed_ids = await self.postpone(
            [(entry, retry) for entry, retry in entries if retry.delay > MAX_LOCAL_WAIT and entry.lane is None]
        )
        local = [(entry, retry) for entry, retry in entries if entry.message_id not in postponed_ids]
        await self._uncount_attempts(
            [entry for entry, retry in local if not retry.counts_as_attempt and entry is not self.uncounted_trial]
        )
        for entry, decision in local:
            entry.decision = None
            self._in_flight.schedule_retry(entry, decision.delay.total_seconds())

    async def _uncount_attempts(self, entries: Sequence[Entry]) -> None:
        """Reduce the delivery counts in Redis by the attempts that do not count.

        The delivery counts must be correct before the entries wait for their retries, because this process may crash
        during the wait."""
        if not entries:
            return
        try:
            await self._consumer.set_delivery_counts([(entry.message_id, entry.deliveries) for entry in entries])
        except Exception as error:  # noqa: BLE001 - the client may raise anything
            log_redis_error("failed to reset the delivery count", self._log_context, error)

    async def postpone(self, entries: Sequence[tuple[Entry, RetryLater]]) -> set[str]:
        """Store the retry delays of the entries in Redis. Returns the ids of all entries, or no ids if Redis fails."""
        if not entries:
            return set()
        try:
            outcomes = await self._consumer.postpone(
                [(entry.message_id, entry.previous_attempts, retry.delay) for entry, retry in entries]
            )
        except Exception as error:  # noqa: BLE001 - the client may raise anything
            log_redis_error("failed to postpone in Redis; waiting in this process", self._log_context, error)
            return set()
        for (entry, _), outcome in zip(entries, outcomes, strict=True):
            self.count_lost(entry, outcome)
        return {entry.message_id for entry, _ in entries}

    def count_lost(self, entry: Entry, outcome: Outcome) -> None:
        """Count an entry that another consumer owns, or that was trimmed before its message was settled."""
        if outcome is Outcome.LOST:
            entry.apply("lose")
            self._metrics.lost_ownership += 1
        elif outcome is Outcome.TRIMMED:
            self._metrics.lost_to_trimming += 1
            log.warning("message was trimmed before it was settled", extra={"message_id": entry.message_id})

    async def dead_letter(self, entry: Entry, reason: DeadLetterReason, error: Exception) -> None:
        """Write the dead letter of an entry whose handler was not called."""
        await self.dead_letter_many([(entry, FailureDecision(ToDeadLetter(reason), error))])

    async def dead_letter_many(self, entries: Sequence[tuple[Entry, FailureDecision]]) -> None:
        """Write dead letters. After an error, the write of the dead letter is retried."""
        if not entries:
            return
        for entry, decision in entries:
            entry.apply("decide")
            entry.decision = decision
        replies: Sequence[Outcome | Exception]
        start_ns = time.time_ns()
        try:
            replies = await self._consumer.dead_letter_many(
                [self._dead_letter_record(entry, decision) for entry, decision in entries]
            )
        except Exception as error:  # noqa: BLE001 - the client may raise anything
            replies = [error] * len(entries)
        for (entry, decision), reply in zip(entries, replies, strict=True):
            self._on_dead_lettered(entry, decision, reply, start_ns)

    def _dead_letter_record(self, entry: Entry, decision: FailureDecision) -> tuple[str, list[bytes]]:
        assert isinstance(decision.action, ToDeadLetter)
        failure = FailureDetails.from_error(
            decision.error,
            reason=decision.action.reason,
            stream=self._consumer_id.stream,
            consumer_group=self._consumer_id.group,
            consumer=self._consumer_id.consumer,
            message_id=entry.message_id,
            deliveries=entry.deliveries,
            traceparent=decision.traceparent,
            other_errors=decision.other_errors,
        )
        return entry.message_id, to_fields(entry.fields, failure)

    def _on_dead_lettered(
        self, entry: Entry, decision: FailureDecision, reply: Outcome | Exception, start_ns: int
    ) -> None:
        """Process one result of `dead_letter_many`. After an error, the write of the dead letter is retried."""
        assert isinstance(decision.action, ToDeadLetter)
        reason = decision.action.reason
        if isinstance(reply, Exception):
            log_redis_error("failed to write dead letter; message stays pending", self._log_context, reply)
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)
        elif reply is Outcome.DONE:
            self._metrics.dead_lettered += 1
            if self._telemetry is not None:
                self._telemetry.on_dead_lettered(entry, start_ns, was_started=reason == DeadLetterReason.CRASHED)
            log_fields: dict[str, Any] = {"message_id": entry.message_id, "reason": str(reason)}
            log_fields |= {"deliveries": entry.deliveries, "error": format_error(decision.error)}
            log.error("message dead-lettered", extra=log_fields)
        else:
            self.count_lost(entry, reply)

    def _record_breaker_failure(self, entry: Entry) -> None:
        was_open, is_trial = self._breaker.is_open, entry is self._in_flight.trial
        if is_trial:
            self._in_flight.trial = None
        self._breaker.record_failure(is_trial)
        seconds = self._breaker.seconds_until_trial()
        if seconds is None or (was_open and not is_trial):
            return
        self._schedule_trial()
        self._metrics.breaker_opened += not was_open
        if not was_open:
            log.warning(
                "circuit breaker opened",
                extra={"failures": self._policy.breaker.failures, "pause_seconds": seconds},
            )

    def _schedule_trial(self) -> None:
        """Dispatch entries when the breaker's pause has ended. Waits again if the timer fired too early."""
        seconds = self._breaker.seconds_until_trial()
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._schedule_trial)
        else:
            self._in_flight.dispatch()

    def _log_failure(self, entry: Entry, error: BaseException, decision: Decision) -> None:
        log_fields: dict[str, Any] = {"message_id": entry.message_id, "stream": self._consumer_id.stream}
        log_fields["deliveries"] = entry.deliveries
        if is_deferred(entry):
            self._metrics.deferred += 1
            message = "message deferred; it stays pending" if self._consumer.claimer is None else "message deferred"
            log.info(message, extra={**log_fields, **_deferral_fields(entry, error)})
            return
        self._metrics.failed += 1
        if self._consumer.claimer is None:
            message = "message failed; it stays pending"
        elif isinstance(decision, RetryLater):
            message = "message failed; will retry"
            log_fields["retry_after_seconds"] = round(decision.delay.total_seconds(), 3)
        else:
            message = "message failed; dead-lettering"
        log.error(message, exc_info=error, extra={**log_fields, "error": format_error(error)})

    def _log_batch_failure(self, entries: Sequence[Entry], error: BaseException) -> None:
        """Log one line and one stack trace for all failed or deferred messages of a batch."""
        to_dead_letter = (
            sum(isinstance(entry.decision.action, ToDeadLetter) for entry in entries) if self._consumer.claimer else 0
        )
        log_fields = {
            "stream": self._consumer_id.stream,
            "messages": len(entries),
            "stay_pending": len(entries) - to_dead_letter,
            "message_ids": [entry.message_id for entry in entries[:MAX_LOGGED_IDS]],
        }
        if is_deferred(entries[0]):
            self._metrics.deferred += len(entries)
            log.info("batch deferred", extra={**log_fields, **_deferral_fields(entries[0], error)})
            return
        self._metrics.failed += len(entries)
        log.error("batch failed", exc_info=error, extra={**log_fields, "error": format_error(error)})


def is_deferred(entry: Entry) -> bool:
    decision: Decision = entry.decision.action
    return isinstance(decision, RetryLater) and decision.is_deferred


def _deferral_fields(entry: Entry, error: BaseException) -> dict[str, Any]:
    return {"after_seconds": round(entry.decision.action.delay.total_seconds(), 3), "reason": format_error(error)}

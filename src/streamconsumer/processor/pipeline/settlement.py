"""What becomes of a message once its handler has ended: acknowledged, tried again, or buried with the dead letters.

Which of them is decided in decision.py; here it is done. Whatever fails on the way leaves the entry pending: it is
tried again, and lost in no case.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamconsumer.errors import EffectsRejected, UndecodableEntry
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Consumer
from streamconsumer.processor.dead_letters.record import (
    DeadLetterReason,
    FailureDetails,
    is_replay_for_other_group,
    to_fields,
)
from streamconsumer.processor.error_logging import format_error, log_redis_error
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import ConsumerId, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.retry_policy import Decision, RetryLater, ToDeadLetter, decide
from streamconsumer.processor.telemetry import MessageTracing, current_traceparent

log = logging.getLogger(__name__)

MAX_LOCAL_WAIT = timedelta(seconds=2)
"""A wait up to this long is spent in this process; a longer one is written down in Redis, and survives the pod."""

RETRY_DELAY_SECONDS = 1.0
"""How soon what Redis refused is tried again."""


MAX_LOGGED_IDS = 10
"""How many ids of a batch that failed are told."""


@dataclass(frozen=True, slots=True)
class FailureDecision:
    """What was decided, and on what evidence."""

    action: Decision
    error: BaseException
    traceparent: str = ""


class Settler:
    """Ends messages. One for each start of a processor."""

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
    ) -> None:
        self._consumer, self._in_flight, self._policy, self._breaker = consumer, in_flight, policy, breaker
        self._stream, self._group, self._consumer_name = consumer_id
        self._log_context = f"stream {self._stream!r}, group {self._group!r}"
        self._metrics, self._telemetry = metrics, telemetry

    # -- before it begins ----------------------------------------------------------------------------------------------

    async def prepare_data(self, entry: Entry) -> dict[Any, Any] | None:
        """The data for the handler. None if the entry must not begin; the entry is then settled in another way."""
        if entry.has_replay_marks():
            entry.is_replay = True
        is_ordinary = entry.attempt_counted and not entry.may_be_large and not entry.is_replay
        if not is_ordinary and not await self._prepare_attempt(entry):
            return None
        try:
            return entry.data(self._consumer.encoding)
        except UndecodableEntry as error:
            await self._on_undecodable(entry, error)
            return None

    async def _prepare_attempt(self, entry: Entry) -> bool:
        """Whether a redelivered or a large entry may be handled; otherwise it is settled in another way."""
        try:
            if entry.decision is not None:
                await self.apply_decision(entry)
                return False
            if entry.is_replay and is_replay_for_other_group(entry.fields, self._group.encode()):
                await self._consumer.ack(entry.message_id)
                return False
            if entry.may_be_large and entry.size_bytes() > self._policy.max_entry_bytes:
                await self._on_oversized(entry)
                return False
            return entry.attempt_counted or await self._count_attempt(entry)
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            log_redis_error("a message could not begin; it will be tried again", self._log_context, error)
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)
            return False

    async def _count_attempt(self, entry: Entry) -> bool:
        if entry.deliveries >= self._policy.max_deliveries:
            error = RuntimeError(
                f"begun {entry.deliveries} times and never ended: does handling it kill the process? "
                f"maxDeliveries is {self._policy.max_deliveries}"
            )
            await self._dead_letter_many([(entry, FailureDecision(ToDeadLetter(DeadLetterReason.CRASHED), error))])
            return False
        if entry.is_suspect:  # if it kills this process, what is done shall be known to be done
            await self._consumer.flush()
        entry.is_uncounted = entry.is_trial and not entry.owner_died and not self._breaker.counts_trials()
        entry.had_uncounted_attempt = entry.had_uncounted_attempt or entry.is_uncounted or not entry.deliveries
        begun = await self._consumer.start_attempt(entry.message_id, entry.deliveries + (not entry.is_uncounted))
        if begun == 1:
            entry.deliveries += 1
            entry.attempt_counted = True
            return True
        if begun == 0:
            self._metrics.lost_ownership += 1
        else:
            self._metrics.lost_to_trimming += 1
        return False

    # -- after it ended ------------------------------------------------------------------------------------------------

    async def on_success(self, entry: Entry, result: Any) -> None:
        """Acknowledge; with what the handler returned to be done in the same step, if it did."""
        try:
            if isinstance(result, Effects):
                await self._commit_effects(entry, result)
            else:
                await self._consumer.ack(entry.message_id)
        except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
            log_redis_error(
                "acknowledgement failed; the entry stays pending and will be handled again", self._log_context, error
            )
        if not self._breaker.has_no_recent_failure:
            self._breaker.record_success(entry.is_trial)
            if entry.is_trial:
                entry.is_trial = False
                self._in_flight.dispatch()

    async def _commit_effects(self, entry: Entry, effects: Effects) -> None:
        try:
            if not await self._consumer.commit_effects(entry.message_id, effects):
                self._metrics.lost_ownership += 1
                log.warning("another consumer has the message; its effects were not applied")
        except EffectsRejected as error:
            self.on_failure(entry, error)
            await self.apply_decision(entry)
        except Exception as error:  # noqa: BLE001 - the server's fault, not the message's: it is not handled again
            log_redis_error("effects could not be committed; they will be", self._log_context, error)
            entry.decision = effects
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)

    def on_failure(self, entry: Entry, error: BaseException) -> None:
        """Decide what becomes of a message that failed, and say so."""
        if self._decide(entry, error):
            self._record_breaker_failure(entry)
        self._log_failure(entry, error, entry.decision.action)

    def on_batch_failure(self, failed: Sequence[tuple[Entry, BaseException]], *, is_whole_batch: bool) -> None:
        """The same for each of a batch by its own error. For the circuit breaker a batch is one, and what it depends on
        is there if not the `whole` batch failed."""
        weighty = [entry for entry, error in failed if self._decide(entry, error)]
        if is_whole_batch and weighty:
            self._record_breaker_failure(weighty[0])
        if len(failed) > 1 and len({id(error) for _, error in failed}) == 1:
            self._log_batch_failure([entry for entry, _ in failed], failed[0][1])
        else:
            for entry, error in failed:
                self._log_failure(entry, error, entry.decision.action)

    def _decide(self, entry: Entry, error: BaseException) -> bool:
        """Returns whether the failure says something of what the handler depends on."""
        dice = random.random()  # noqa: S311 - spreads retries, guards nothing
        is_free = entry.is_trial and (entry.is_uncounted or not self._breaker.counts_trials())
        decision = decide(error, entry.deliveries, self._policy, jitter=dice, is_uncounted=is_free)
        entry.decision = FailureDecision(decision, error, current_traceparent())
        return entry.is_trial or (isinstance(decision, RetryLater) and decision.counts_as_attempt)

    async def apply_decision(self, entry: Entry) -> None:
        """Do what was decided. A user's own manager can do neither: it stays pending, and nobody knows more."""
        verdict: FailureDecision | Effects = entry.decision
        if self._consumer.claimer is None:
            return
        if not isinstance(verdict, Effects):
            await self.apply_decisions([entry])
            return
        entry.decision = None
        if entry.is_trial:  # its handler was called before: this says nothing of what that depends on
            entry.is_trial = False
            self._breaker.record_ignored(is_trial=True)
        await self._commit_effects(entry, verdict)

    async def apply_decisions(self, entries: Sequence[Entry]) -> None:
        """The same for what failed of a batch: one round trip for all that wait, and one for many dead letters."""
        if self._consumer.claimer is None:
            return
        buried: list[tuple[Entry, FailureDecision]] = []
        again: list[tuple[Entry, RetryLater]] = []
        for entry in entries:
            verdict: FailureDecision = entry.decision
            if isinstance(verdict.action, ToDeadLetter):
                buried.append((entry, verdict))
            else:
                entry.decision = None
                again.append((entry, verdict.action))
        await self._schedule_retries(again)
        await self._dead_letter_many(buried)

    async def _on_undecodable(self, entry: Entry, error: UndecodableEntry) -> None:
        """Trying again would not mend it."""
        self._metrics.failed += 1
        log.error("message cannot be decoded", extra={"error": str(error)})
        if self._consumer.claimer is not None:
            await self._dead_letter_many([(entry, FailureDecision(ToDeadLetter(DeadLetterReason.UNDECODABLE), error))])

    async def release(self, entries: list[tuple[Entry, float]]) -> None:
        """What was not begun, for a peer; what waits to be tried again, when its time comes."""
        self._metrics.released += len(entries)
        given = [
            (entry.message_id, entry.deliveries - (1 if entry.attempt_counted else 0), timedelta(seconds=seconds))
            for entry, seconds in entries
        ]
        if given and self._consumer.claimer:
            await self._consumer.postpone(given)

    async def _schedule_retries(self, entries: Sequence[tuple[Entry, RetryLater]]) -> None:
        for entry, decision in entries:
            entry.deliveries -= not decision.counts_as_attempt
            entry.had_uncounted_attempt = entry.had_uncounted_attempt or not decision.counts_as_attempt
            entry.owner_died = False
        self._metrics.retried += len(entries)
        written = await self._postpone(
            [each for each in entries if each[1].delay > MAX_LOCAL_WAIT and each[0].lane is None]
        )
        here = [each for each in entries if each[0].message_id not in written]
        await self._uncount_attempts(
            [entry for entry, decision in here if not (decision.counts_as_attempt or entry.is_uncounted)]
        )
        for entry, decision in here:
            self._in_flight.schedule_retry(entry, decision.delay.total_seconds())

    async def _uncount_attempts(self, entries: Sequence[Entry]) -> None:
        """What did not count is known before the wait: a peer of a process that is killed in it believes Redis."""
        if not entries:
            return
        try:
            await self._consumer.set_delivery_counts([(entry.message_id, entry.deliveries) for entry in entries])
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            log_redis_error("an attempt that does not count could not be taken back", self._log_context, error)

    async def _postpone(self, entries: Sequence[tuple[Entry, RetryLater]]) -> set[str]:
        """Their waits are in Redis, all or none: returns whose."""
        if not entries:
            return set()
        try:
            await self._consumer.postpone([(entry.message_id, entry.deliveries, each.delay) for entry, each in entries])
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            log_redis_error("a wait could not be written down; it is spent here", self._log_context, error)
            return set()
        return {entry.message_id for entry, _ in entries}

    async def _on_oversized(self, entry: Entry) -> None:
        self._metrics.failed += 1
        error = ValueError(f"{entry.size_bytes()} bytes; delivery.maxEntryBytes is {self._policy.max_entry_bytes}")
        log.error("message is too large", extra={"message_id": entry.message_id, "error": str(error)})
        await self._dead_letter_many([(entry, FailureDecision(ToDeadLetter(DeadLetterReason.OVERSIZED), error))])

    async def _dead_letter_many(self, entries: Sequence[tuple[Entry, FailureDecision]]) -> None:
        if not entries:
            return
        answers: Sequence[bool | Exception]
        start_ns = time.time_ns()
        try:
            answers = await self._consumer.dead_letter_many(
                [self._dead_letter_record(entry, verdict) for entry, verdict in entries]
            )
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            answers = [error] * len(entries)
        for (entry, verdict), answer in zip(entries, answers, strict=True):
            self._on_dead_lettered(entry, verdict, answer, start_ns)

    def _dead_letter_record(self, entry: Entry, decision: FailureDecision) -> tuple[str, list[bytes]]:
        assert isinstance(decision.action, ToDeadLetter)
        evidence = FailureDetails.from_error(
            decision.error,
            reason=decision.action.reason,
            stream=self._stream,
            consumer_group=self._group,
            consumer=self._consumer_name,
            message_id=entry.message_id,
            deliveries=entry.deliveries,
            traceparent=decision.traceparent,
        )
        return entry.message_id, to_fields(entry.fields, evidence)

    def _on_dead_lettered(
        self, entry: Entry, decision: FailureDecision, reply: bool | Exception, start_ns: int
    ) -> None:
        assert isinstance(decision.action, ToDeadLetter)
        reason = decision.action.reason
        if isinstance(reply, Exception):
            log_redis_error("a dead letter could not be written; the message stays pending", self._log_context, reply)
            entry.decision = decision
            self._in_flight.schedule_retry(entry, RETRY_DELAY_SECONDS)
        elif reply:
            self._metrics.dead_lettered += 1
            if self._telemetry is not None:
                self._telemetry.on_dead_lettered(entry, start_ns, was_started=reason == DeadLetterReason.CRASHED)
            about: dict[str, Any] = {"message_id": entry.message_id, "reason": str(reason)}
            about |= {"deliveries": entry.deliveries, "error": format_error(decision.error)}
            log.error("message is a dead letter", extra=about)
        else:
            self._metrics.lost_ownership += 1

    def _record_breaker_failure(self, entry: Entry) -> None:
        was_open, trial = self._breaker.is_open, entry.is_trial
        entry.is_trial = False
        self._breaker.record_failure(trial)
        seconds = self._breaker.seconds_until_trial()
        if seconds is None or (was_open and not trial):
            return
        self._schedule_trial()
        self._metrics.breaker_opened += not was_open
        if not was_open:
            log.warning(
                "too many messages failed in a row: no more are begun until one succeeds",
                extra={"failures": self._policy.breaker.failures, "pause_seconds": seconds},
            )

    def _schedule_trial(self) -> None:
        """Timers may come a little early."""
        seconds = self._breaker.seconds_until_trial()
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._schedule_trial)
        else:
            self._in_flight.dispatch()

    def _log_failure(self, entry: Entry, error: BaseException, decision: Decision) -> None:
        self._metrics.failed += 1
        about = {"message_id": entry.message_id, "stream": self._stream, "deliveries": entry.deliveries}
        what = "message failed and goes to the dead letters"
        if isinstance(decision, RetryLater) or self._consumer.claimer is None:
            what = "message failed and stays pending"
        if isinstance(decision, RetryLater) and self._consumer.claimer is not None:
            about["again_after_seconds"] = round(decision.delay.total_seconds(), 3)
        log.error(what, exc_info=error, extra={**about, "error": format_error(error)})

    def _log_batch_failure(self, entries: Sequence[Entry], error: BaseException) -> None:
        """One line for all, and one stack."""
        self._metrics.failed += len(entries)
        buried = (
            sum(isinstance(entry.decision.action, ToDeadLetter) for entry in entries) if self._consumer.claimer else 0
        )
        about = {
            "stream": self._stream,
            "messages": len(entries),
            "stay_pending": len(entries) - buried,
            "message_ids": [entry.message_id for entry in entries[:MAX_LOGGED_IDS]],
        }
        log.error("batch failed", exc_info=error, extra={**about, "error": format_error(error)})

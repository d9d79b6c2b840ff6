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

from streamconsumer.errors import EffectsRefused, UndecodableEntry
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import Intake
from streamconsumer.processor.dead_letters.record import DeadLetterReason, Evidence, fields, is_for_another
from streamconsumer.processor.error_logging import note, told
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlight
from streamconsumer.processor.pipeline.retry_policy import Bury, Decision, TryAgain, decide
from streamconsumer.processor.telemetry import Tracing, current_traceparent

log = logging.getLogger(__name__)

SHORT = timedelta(seconds=2)
"""A wait up to this long is spent in this process; a longer one is written down in Redis, and survives the pod."""

AGAIN_SECONDS = 1.0
"""How soon what Redis refused is tried again."""


MOST_TOLD = 10
"""How many ids of a batch that failed are told."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and on what evidence."""

    decision: Decision
    error: BaseException
    traceparent: str = ""


class Settling:
    """Ends messages. One for each start of a processor."""

    def __init__(
        self,
        intake: Intake,
        in_flight: InFlight,
        policy: Delivery,
        breaker: CircuitBreaker,
        *,
        who: tuple[str, str, str],
        metrics: Metrics,
        telemetry: Tracing | None = None,
    ) -> None:
        self._intake, self._in_flight, self._policy, self._breaker = intake, in_flight, policy, breaker
        self._stream, self._group, self._consumer = who
        self._where = f"stream {self._stream!r}, group {self._group!r}"
        self._metrics, self._telemetry = metrics, telemetry

    # -- before it begins ----------------------------------------------------------------------------------------------

    async def data(self, entry: Entry) -> dict[Any, Any] | None:
        """The data for the handler. None if the entry must not begin; the entry is then settled in another way."""
        if entry.has_marks():
            entry.is_replay = True
        is_ordinary = entry.is_counted and not entry.may_be_large and not entry.is_replay
        if not is_ordinary and not await self._may_begin(entry):
            return None
        try:
            return entry.data(self._intake.encoding)
        except UndecodableEntry as error:
            await self._undecodable(entry, error)
            return None

    async def _may_begin(self, entry: Entry) -> bool:
        """Whether a redelivered or a large entry may be handled; otherwise it is settled in another way."""
        try:
            if entry.verdict is not None:
                await self.settle(entry)
                return False
            if entry.is_replay and is_for_another(entry.fields, self._group.encode()):
                await self._intake.acknowledge(entry.message_id)
                return False
            if entry.may_be_large and entry.size_bytes() > self._policy.max_entry_bytes:
                await self._too_large(entry)
                return False
            return entry.is_counted or await self._begins_again(entry)
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            note("a message could not begin; it will be tried again", self._where, error)
            self._in_flight.wait(entry, AGAIN_SECONDS)
            return False

    async def _begins_again(self, entry: Entry) -> bool:
        if entry.deliveries >= self._policy.max_deliveries:
            error = RuntimeError(
                f"begun {entry.deliveries} times and never ended: does handling it kill the process? "
                f"maxDeliveries is {self._policy.max_deliveries}"
            )
            await self._bury_all([(entry, Verdict(Bury(DeadLetterReason.CRASHED), error))])
            return False
        if entry.suspect:  # if it kills this process, what is done shall be known to be done
            await self._intake.flush()
        entry.is_free = entry.trial and not entry.is_orphan and not self._breaker.trials_count()
        entry.is_deferred = entry.is_deferred or entry.is_free or not entry.deliveries
        begun = await self._intake.begin(entry.message_id, entry.deliveries + (not entry.is_free))
        if begun == 1:
            entry.deliveries += 1
            entry.is_counted = True
            return True
        if begun == 0:
            self._metrics.lost_ownership += 1
        else:
            self._metrics.lost_to_trimming += 1
        return False

    # -- after it ended ------------------------------------------------------------------------------------------------

    async def succeeded(self, entry: Entry, result: Any) -> None:
        """Acknowledge; with what the handler returned to be done in the same step, if it did."""
        try:
            if isinstance(result, Effects):
                await self._commit(entry, result)
            else:
                await self._intake.acknowledge(entry.message_id)
        except Exception as error:  # noqa: BLE001 - a user's own manager may raise anything
            note("acknowledgement failed; the entry stays pending and will be handled again", self._where, error)
        if not self._breaker.is_calm:
            self._breaker.succeeded(entry.trial)
            if entry.trial:
                entry.trial = False
                self._in_flight.advance()

    async def _commit(self, entry: Entry, effects: Effects) -> None:
        try:
            if not await self._intake.commit(entry.message_id, effects):
                self._metrics.lost_ownership += 1
                log.warning("another consumer has the message; its effects were not applied")
        except EffectsRefused as error:
            self.judge(entry, error)
            await self.settle(entry)
        except Exception as error:  # noqa: BLE001 - the server's fault, not the message's: it is not handled again
            note("effects could not be committed; they will be", self._where, error)
            entry.verdict = effects
            self._in_flight.wait(entry, AGAIN_SECONDS)

    def judge(self, entry: Entry, error: BaseException) -> None:
        """Decide what becomes of a message that failed, and say so."""
        if self._decide(entry, error):
            self._breaker_failed(entry)
        self._tell(entry, error, entry.verdict.decision)

    def judge_batch(self, failed: Sequence[tuple[Entry, BaseException]], *, whole: bool) -> None:
        """The same for each of a batch by its own error. For the circuit breaker a batch is one, and what it depends on
        is there if not the `whole` batch failed."""
        weighty = [entry for entry, error in failed if self._decide(entry, error)]
        if whole and weighty:
            self._breaker_failed(weighty[0])
        if len(failed) > 1 and len({id(error) for _, error in failed}) == 1:
            self._tell_batch([entry for entry, _ in failed], failed[0][1])
        else:
            for entry, error in failed:
                self._tell(entry, error, entry.verdict.decision)

    def _decide(self, entry: Entry, error: BaseException) -> bool:
        """Returns whether the failure says something of what the handler depends on."""
        dice = random.random()  # noqa: S311 - spreads retries, guards nothing
        is_free = entry.trial and (entry.is_free or not self._breaker.trials_count())
        decision = decide(error, entry.deliveries, self._policy, dice=dice, is_free=is_free)
        entry.verdict = Verdict(decision, error, current_traceparent())
        return entry.trial or (isinstance(decision, TryAgain) and decision.counts)

    async def settle(self, entry: Entry) -> None:
        """Do what was decided. A user's own manager can do neither: it stays pending, and nobody knows more."""
        verdict: Verdict | Effects = entry.verdict
        if self._intake.caring is None:
            return
        if not isinstance(verdict, Effects):
            await self.settle_all([entry])
            return
        entry.verdict = None
        if entry.trial:  # its handler was called before: this says nothing of what that depends on
            entry.trial = False
            self._breaker.undecided(trial=True)
        await self._commit(entry, verdict)

    async def settle_all(self, entries: Sequence[Entry]) -> None:
        """The same for what failed of a batch: one round trip for all that wait, and one for many dead letters."""
        if self._intake.caring is None:
            return
        buried: list[tuple[Entry, Verdict]] = []
        again: list[tuple[Entry, TryAgain]] = []
        for entry in entries:
            verdict: Verdict = entry.verdict
            if isinstance(verdict.decision, Bury):
                buried.append((entry, verdict))
            else:
                entry.verdict = None
                again.append((entry, verdict.decision))
        await self._try_again(again)
        await self._bury_all(buried)

    async def _undecodable(self, entry: Entry, error: UndecodableEntry) -> None:
        """Trying again would not mend it."""
        self._metrics.failed += 1
        log.error("message cannot be decoded", extra={"error": str(error)})
        if self._intake.caring is not None:
            await self._bury_all([(entry, Verdict(Bury(DeadLetterReason.UNDECODABLE), error))])

    async def hand_back(self, entries: list[tuple[Entry, float]]) -> None:
        """What was not begun, for a peer; what waits to be tried again, when its time comes."""
        self._metrics.released += len(entries)
        given = [
            (entry.message_id, entry.deliveries - (1 if entry.is_counted else 0), timedelta(seconds=seconds))
            for entry, seconds in entries
        ]
        if given and self._intake.caring:
            await self._intake.postpone(given)

    async def _try_again(self, entries: Sequence[tuple[Entry, TryAgain]]) -> None:
        for entry, decision in entries:
            entry.deliveries -= not decision.counts
            entry.is_deferred = entry.is_deferred or not decision.counts
            entry.is_orphan = False
        self._metrics.retried += len(entries)
        written = await self._written_down([each for each in entries if each[1].delay > SHORT and each[0].lane is None])
        here = [each for each in entries if each[0].message_id not in written]
        await self._count_back([entry for entry, decision in here if not (decision.counts or entry.is_free)])
        for entry, decision in here:
            self._in_flight.wait(entry, decision.delay.total_seconds())

    async def _count_back(self, entries: Sequence[Entry]) -> None:
        """What did not count is known before the wait: a peer of a process that is killed in it believes Redis."""
        if not entries:
            return
        try:
            await self._intake.recount([(entry.message_id, entry.deliveries) for entry in entries])
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            note("an attempt that does not count could not be taken back", self._where, error)

    async def _written_down(self, entries: Sequence[tuple[Entry, TryAgain]]) -> set[str]:
        """Their waits are in Redis, all or none: returns whose."""
        if not entries:
            return set()
        try:
            await self._intake.postpone([(entry.message_id, entry.deliveries, each.delay) for entry, each in entries])
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            note("a wait could not be written down; it is spent here", self._where, error)
            return set()
        return {entry.message_id for entry, _ in entries}

    async def _too_large(self, entry: Entry) -> None:
        self._metrics.failed += 1
        error = ValueError(f"{entry.size_bytes()} bytes; delivery.maxEntryBytes is {self._policy.max_entry_bytes}")
        log.error("message is too large", extra={"message_id": entry.message_id, "error": str(error)})
        await self._bury_all([(entry, Verdict(Bury(DeadLetterReason.OVERSIZED), error))])

    async def _bury_all(self, entries: Sequence[tuple[Entry, Verdict]]) -> None:
        if not entries:
            return
        answers: Sequence[bool | Exception]
        start_ns = time.time_ns()
        try:
            answers = await self._intake.bury_all([self._letter(entry, verdict) for entry, verdict in entries])
        except Exception as error:  # noqa: BLE001 - whatever the server's client raises
            answers = [error] * len(entries)
        for (entry, verdict), answer in zip(entries, answers, strict=True):
            self._buried(entry, verdict, answer, start_ns)

    def _letter(self, entry: Entry, verdict: Verdict) -> tuple[str, list[bytes]]:
        assert isinstance(verdict.decision, Bury)
        evidence = Evidence.of(
            verdict.error,
            reason=verdict.decision.reason,
            stream=self._stream,
            consumer_group=self._group,
            consumer=self._consumer,
            message_id=entry.message_id,
            deliveries=entry.deliveries,
            traceparent=verdict.traceparent,
        )
        return entry.message_id, fields(entry.fields, evidence)

    def _buried(self, entry: Entry, verdict: Verdict, answer: bool | Exception, start_ns: int) -> None:
        assert isinstance(verdict.decision, Bury)
        reason = verdict.decision.reason
        if isinstance(answer, Exception):
            note("a dead letter could not be written; the message stays pending", self._where, answer)
            entry.verdict = verdict
            self._in_flight.wait(entry, AGAIN_SECONDS)
        elif answer:
            self._metrics.dead_lettered += 1
            if self._telemetry is not None:
                self._telemetry.buried(entry, start_ns, was_begun=reason == DeadLetterReason.CRASHED)
            about: dict[str, Any] = {"message_id": entry.message_id, "reason": str(reason)}
            about |= {"deliveries": entry.deliveries, "error": told(verdict.error)}
            log.error("message is a dead letter", extra=about)
        else:
            self._metrics.lost_ownership += 1

    def _breaker_failed(self, entry: Entry) -> None:
        was_open, trial = self._breaker.is_open, entry.trial
        entry.trial = False
        self._breaker.failed(trial)
        seconds = self._breaker.seconds_until_trial()
        if seconds is None or (was_open and not trial):
            return
        self._wait_for_trial()
        self._metrics.breaker_opened += not was_open
        if not was_open:
            log.warning(
                "too many messages failed in a row: no more are begun until one succeeds",
                extra={"failures": self._policy.breaker.failures, "pause_seconds": seconds},
            )

    def _wait_for_trial(self) -> None:
        """Timers may come a little early."""
        seconds = self._breaker.seconds_until_trial()
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._wait_for_trial)
        else:
            self._in_flight.advance()

    def _tell(self, entry: Entry, error: BaseException, decision: Decision) -> None:
        self._metrics.failed += 1
        about = {"message_id": entry.message_id, "stream": self._stream, "deliveries": entry.deliveries}
        what = "message failed and goes to the dead letters"
        if isinstance(decision, TryAgain) or self._intake.caring is None:
            what = "message failed and stays pending"
        if isinstance(decision, TryAgain) and self._intake.caring is not None:
            about["again_after_seconds"] = round(decision.delay.total_seconds(), 3)
        log.error(what, exc_info=error, extra={**about, "error": told(error)})

    def _tell_batch(self, entries: Sequence[Entry], error: BaseException) -> None:
        """One line for all, and one stack."""
        self._metrics.failed += len(entries)
        buried = sum(isinstance(entry.verdict.decision, Bury) for entry in entries) if self._intake.caring else 0
        about = {
            "stream": self._stream,
            "messages": len(entries),
            "stay_pending": len(entries) - buried,
            "message_ids": [entry.message_id for entry in entries[:MOST_TOLD]],
        }
        log.error("batch failed", exc_info=error, extra={**about, "error": told(error)})

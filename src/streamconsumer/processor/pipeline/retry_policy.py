"""Retry policy: retry or dead-letter a failed message. Pure: the random number is an argument."""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor.dead_letters.record import DeadLetterReason
from streamconsumer.processor.handler.outcomes import Defer, Reject, Retry


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Retry after `delay`. The failed attempt is not counted if `counts_as_attempt` is False."""

    delay: timedelta
    counts_as_attempt: bool = True


@dataclass(frozen=True, slots=True)
class ToDeadLetter:
    """Dead-letter immediately."""

    reason: DeadLetterReason


Decision = RetryLater | ToDeadLetter


def decide(
    error: BaseException, deliveries: int, policy: Delivery, *, jitter: float, is_uncounted: bool = False
) -> Decision:
    """Decide on a failed attempt.

    `deliveries` is the number of attempts including this one. `jitter` is a random number from 0 to 1. `is_uncounted`
    is True for a trial of the open circuit breaker that does not count as an attempt. Its failure says more about the
    dependency than about the message."""
    if isinstance(error, Defer):
        return RetryLater(error.after, counts_as_attempt=False)
    if isinstance(error, Reject):
        return ToDeadLetter(DeadLetterReason.REJECTED)
    if is_terminal(error, policy.terminal_errors):
        return ToDeadLetter(DeadLetterReason.TERMINAL_ERROR)
    if is_uncounted:
        return RetryLater(backoff(1, policy.backoff, jitter), counts_as_attempt=False)
    if deliveries >= policy.max_deliveries:
        return ToDeadLetter(DeadLetterReason.MAX_DELIVERIES)
    delay = error.after if isinstance(error, Retry) else None
    return RetryLater(backoff(deliveries, policy.backoff, jitter) if delay is None else delay)


def backoff(deliveries: int, policy: Backoff, jitter: float) -> timedelta:
    """Return a delay with full jitter: between zero and a bound that doubles with each attempt.

    Jitter spreads the retries of messages that failed at the same time."""
    return min(policy.min_delay * 2.0 ** min(deliveries - 1, 40), policy.max_delay) * jitter


def is_terminal(error: BaseException, names: list[str]) -> bool:
    """Return whether `names` contains the class of the error or one of its base classes.

    A name is qualified (`ValueError`) or full (`shop.errors.Unknown`)."""
    if not names:
        return False
    classes = type(error).__mro__
    return any(cls.__qualname__ in names or f"{cls.__module__}.{cls.__qualname__}" in names for cls in classes)

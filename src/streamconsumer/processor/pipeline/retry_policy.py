"""Retry policy: decides whether a failed message is retried or dead-lettered.

The functions in this module have no side effects, and the caller passes the random number.
"""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor.dead_letters.record import DeadLetterReason
from streamconsumer.processor.error_logging import groups, leaves
from streamconsumer.processor.handler.outcomes import Defer, Reject, Retry


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Decision to retry the message after `delay`. `counts_as_attempt` is True if the failed attempt counts."""

    delay: timedelta
    counts_as_attempt: bool = True
    is_deferred: bool = False
    """True if the handler raised Defer, so that the message has not failed."""


@dataclass(frozen=True, slots=True)
class ToDeadLetter:
    """Decision to dead-letter the message immediately."""

    reason: DeadLetterReason


Decision = RetryLater | ToDeadLetter

_PROCESS_EXIT_ERRORS = (KeyboardInterrupt, GeneratorExit)
"""Errors that a handler raises because the process or its event loop ends. Every other error is a failure of the
handler, even if its class is not a subclass of Exception, such as SystemExit and gevent's Timeout."""


def process_exit(error: BaseException) -> BaseException | None:
    """Return the error that ends the process or the event loop: `error` itself, or an error in the exception group
    `error`. Returns None if there is no such error."""
    return next((leaf for leaf in leaves(error) if isinstance(leaf, _PROCESS_EXIT_ERRORS)), None)


def main_error(error: BaseException, policy: Delivery) -> BaseException:
    """Return the error that determines the decision for an exception group. An error that needs a dead letter has the
    highest priority, followed by a Retry and any other failure. A Defer is returned only if the group contains no other
    error. The group itself is returned only if `terminalErrors` names the class of the group."""

    def rank(leaf: BaseException) -> int:
        if isinstance(leaf, Reject) or is_terminal(leaf, policy.terminal_errors):
            return 0
        if isinstance(leaf, BaseExceptionGroup):
            return 4
        return 3 if isinstance(leaf, Defer) else 2 - isinstance(leaf, Retry)

    return min([*leaves(error), *groups(error)], key=rank)


def decide(
    error: BaseException, deliveries: int, policy: Delivery, *, jitter: float, is_uncounted: bool = False
) -> Decision:
    """Decide whether a message is retried or dead-lettered after a failed attempt.

    `deliveries` is the number of attempts, including the failed attempt. `jitter` is a random number from 0 to 1.
    `is_uncounted` is True if the attempt was a trial of the open circuit breaker and does not count. The cause of a
    failed trial is probably an outage and not the message."""
    delay = getattr(error, "after", None) if isinstance(error, Defer | Retry) else None
    if isinstance(error, Defer) and isinstance(delay, timedelta):  # a subclass may set no delay
        return RetryLater(delay, counts_as_attempt=False, is_deferred=True)
    if isinstance(error, Reject):
        return ToDeadLetter(DeadLetterReason.REJECTED)
    if is_terminal(error, policy.terminal_errors):
        return ToDeadLetter(DeadLetterReason.TERMINAL_ERROR)
    if is_uncounted:
        return RetryLater(backoff(1, policy.backoff, jitter), counts_as_attempt=False)
    if deliveries >= policy.max_deliveries:
        return ToDeadLetter(DeadLetterReason.MAX_DELIVERIES)
    return RetryLater(delay if isinstance(delay, timedelta) else backoff(deliveries, policy.backoff, jitter))


def backoff(deliveries: int, policy: Backoff, jitter: float) -> timedelta:
    """Return a delay with full jitter: `jitter` times a bound that doubles with each attempt, up to `max_delay`.

    Jitter spreads the retries of messages that failed at the same time."""
    return min(policy.min_delay * 2.0 ** min(deliveries - 1, 40), policy.max_delay) * jitter


def is_terminal(error: BaseException, names: list[str]) -> bool:
    """Return whether `names` contains the class of the error or one of its base classes.

    A name can be the qualified name of a class (`ValueError`), or include the module (`shop.errors.Unknown`)."""
    if not names:
        return False
    classes = type(error).__mro__
    return any(cls.__qualname__ in names or f"{cls.__module__}.{cls.__qualname__}" in names for cls in classes)

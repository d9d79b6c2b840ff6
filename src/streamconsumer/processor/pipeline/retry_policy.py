"""What becomes of a message that was not handled. Pure: the dice are an argument."""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor.dead_letters.record import DeadLetterReason
from streamconsumer.processor.handler.outcomes import Defer, Reject, Retry


@dataclass(frozen=True, slots=True)
class RetryLater:
    """After so long. `counts` is false for what is no attempt."""

    delay: timedelta
    counts_as_attempt: bool = True


@dataclass(frozen=True, slots=True)
class ToDeadLetter:
    """To the dead letters, now."""

    reason: DeadLetterReason


Decision = RetryLater | ToDeadLetter


def decide(
    error: BaseException, deliveries: int, policy: Delivery, *, jitter: float, is_uncounted: bool = False
) -> Decision:
    """`deliveries` is how often the message was begun, this time included; `dice` is drawn from 0 to 1. `is_free` is a
    trial while the breaker is open, that fails and is no attempt: it says more of the world than of the message."""
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
    wanted = error.after if isinstance(error, Retry) else None
    return RetryLater(backoff(deliveries, policy.backoff, jitter) if wanted is None else wanted)


def backoff(deliveries: int, policy: Backoff, jitter: float) -> timedelta:
    """Full jitter: anything from nothing to a bound that doubles. What failed together is not tried again together."""
    return min(policy.min_delay * 2.0 ** min(deliveries - 1, 40), policy.max_delay) * jitter


def is_terminal(error: BaseException, names: list[str]) -> bool:
    """Whether the error, or what it inherits from, is named: `ValueError`, or with its module `shop.errors.Unknown`."""
    if not names:
        return False
    kinds = type(error).__mro__
    return any(kind.__qualname__ in names or f"{kind.__module__}.{kind.__qualname__}" in names for kind in kinds)

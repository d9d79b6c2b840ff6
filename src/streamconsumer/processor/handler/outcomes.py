"""Outcomes: exceptions that a handler raises to decide how its message is settled.

After any other exception, the message is retried after the backoff. `delivery.maxDeliveries` limits the attempts.

    raise Retry("the bank is closed", after=timedelta(minutes=5))   # failed; retry after this delay
    raise Defer(timedelta(hours=1))                                 # too early; this attempt does not count
    raise Reject("no such customer")                                # write a dead letter immediately
    raise BatchFailed({3: error})                                   # batch handlers: only these messages failed
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any


class Outcome(Exception):
    """Base class of the outcomes."""


class Retry(Outcome):
    """The message failed and is retried after the duration `after`. If `after` is None, the backoff determines the
    delay.

    Raises TypeError if `after` is not a timedelta, and ValueError if it is negative."""

    def __init__(self, why: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(why)
        self.after = None if after is None else _check_delay(f"{type(self).__name__}(after=…)", after)


class Defer(Outcome):
    """The message was delivered too early and is handled again after the duration `after`. The current attempt does not
    count.

    Raises TypeError if `after` is not a timedelta, and ValueError if it is negative."""

    def __init__(self, after: timedelta, why: str = "") -> None:
        super().__init__(why)
        self.after = _check_delay(f"{type(self).__name__}(…)", after)


class Reject(Outcome):
    """The message can never be handled and becomes a dead letter."""


class BatchFailed(Outcome):
    """Some messages of a batch failed. `failures` maps the index of each failed message in the list to its error.

    Each failed message is settled as if the handler had raised its error for this message alone. All other messages of
    the batch are acknowledged.
    """

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(failures)} messages of the batch failed")
        self.failures = dict(failures)


def _check_delay(subject: str, delay: Any) -> timedelta:
    if not isinstance(delay, timedelta):
        raise TypeError(f"{subject}: found {delay!r:.80}, expected a timedelta such as timedelta(seconds=5)")
    if delay < timedelta():
        raise ValueError(f"{subject}: found {delay}, expected a duration of at least 0")
    return delay

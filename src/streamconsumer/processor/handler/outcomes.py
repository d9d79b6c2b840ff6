"""Outcomes that a handler raises to decide how its message is settled.

Any other exception means: the message failed and is retried after the backoff, up to `delivery.maxDeliveries` times.

    raise Retry("the bank is closed", after=timedelta(minutes=5))   # failed; this wait instead of the backoff
    raise Defer(timedelta(hours=1))                                 # too early; does not count as an attempt
    raise Reject("no such customer")                                # dead-letter immediately
    raise BatchFailed({3: error})                                   # batch handlers: only these messages failed
"""

from collections.abc import Mapping
from datetime import timedelta


class Outcome(Exception):
    """Base class of the outcomes."""


class Retry(Outcome):
    """The message failed and is retried after `after`, or after the backoff if `after` is None."""

    def __init__(self, why: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(why)
        self.after = after


class Defer(Outcome):
    """The message comes too early and is retried after `after`. This attempt does not count."""

    def __init__(self, after: timedelta, why: str = "") -> None:
        super().__init__(why)
        self.after = after


class Reject(Outcome):
    """The message can never be handled and is dead-lettered."""


class BatchFailed(Outcome):
    """Some messages of a batch failed. `failures` maps their index in the list to the error.

    Each error counts as if the handler had raised it for that message alone. The other messages are acknowledged.
    """

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(failures)} messages of the batch failed")
        self.failures = dict(failures)

"""What a handler may raise to say what shall become of its message. Anything else that it raises means: failed, try
again after the back-off, at most `delivery.maxDeliveries` times.

    raise Retry("the bank is closed", after=timedelta(minutes=5))   # failed; this wait instead of the back-off
    raise Defer(timedelta(hours=1))                                 # not now; does not count as an attempt
    raise Reject("no such customer")                                # to the dead letters, now
    raise BatchFailed({3: error})                                   # batch handlers: only these failed
"""

from collections.abc import Mapping
from datetime import timedelta


class Outcome(Exception):
    """The root of what handlers raise on purpose."""


class Retry(Outcome):
    """The message failed and shall be tried again; after `after`, or after the back-off."""

    def __init__(self, why: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(why)
        self.after = after


class Defer(Outcome):
    """It is too early for the message: again after so long, without counting this time."""

    def __init__(self, after: timedelta, why: str = "") -> None:
        super().__init__(why)
        self.after = after


class Reject(Outcome):
    """The message can never be handled: to the dead letters."""


class BatchFailed(Outcome):
    """Of a batch, these failed, by their index in the list; each error counts as if its message had raised it alone.
    The others are acknowledged."""

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(failures)} of the batch failed")
        self.failures = dict(failures)

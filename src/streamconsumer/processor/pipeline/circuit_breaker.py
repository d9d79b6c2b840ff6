"""A circuit breaker around the handler, so that an outage of the handler's dependency does not use up attempts.

```
          consecutive failures               pause over, one message starts
  closed ──────────────────────→ open (pause) ─────────────────────────────→ trial
    ↑                             ↑  the pause doubles, up to its maximum      │ │
    │                             └────────────────── failed ──────────────────┘ │
    └──────────────────────────────────── succeeded ─────────────────────────────┘
```

Pure except for the clock. Only a handler that returned or raised says something about the dependency. A message that
was rejected, deferred, cancelled or claimed by another consumer is ignored.

A failed trial is not counted as an attempt: it says more about the dependency than about the message. But if only
messages that can never be handled are left, no trial succeeds until another message arrives, which looks the same as an
outage. After an hour, trials therefore count, and such messages become dead letters. A longer outage costs one attempt
per pause, spread over the entries of this pod, and none of the backlog. At the defaults these are at most six dead
letters per hour and pod.
"""

import time
from collections.abc import Callable

from streamconsumer.model.processor_settings import Breaker

MIN_PAUSE_SECONDS = 1.0
"""Duration of the first pause, unless `maxPause` is shorter."""

COUNT_TRIALS_AFTER_SECONDS = 3600.0
"""Time without a success after which failed trials count as attempts."""


class CircuitBreaker:
    """Call `allows_attempt()` and then `is_trial = record_start()` before each message.

    After the message, call one of `record_success(is_trial)`, `record_failure(is_trial)` and
    `record_ignored(is_trial)`. With `failures=0` the breaker never opens."""

    def __init__(self, policy: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._failure_threshold, self._clock = policy.failures, clock
        self._max_pause_seconds = policy.max_pause.total_seconds()
        self._min_pause_seconds = min(MIN_PAUSE_SECONDS, self._max_pause_seconds)
        self._consecutive_failures = 0
        self._opened_at_seconds = 0.0
        self._pause_seconds = 0.0
        self._pause_ends_at_seconds: float | None = None
        """Time at which the pause ends or ended. None while closed."""
        self._is_trial_running = False
        self.is_open = False
        """True while the backlog waits for the end of a pause or of a trial."""
        self.has_no_recent_failure = True
        """True if no message has failed since the last success: a further success then changes nothing."""

    def allows_attempt(self) -> bool:
        """Return whether a message may start now."""
        return self._pause_ends_at_seconds is None or (
            not self._is_trial_running and self._clock() >= self._pause_ends_at_seconds
        )

    def counts_trials(self) -> bool:
        """Return whether the breaker has been open long enough for failed trials to count as attempts."""
        return self.is_open and self._clock() - self._opened_at_seconds >= COUNT_TRIALS_AFTER_SECONDS

    def seconds_until_trial(self) -> float | None:
        """Return the seconds until a message may start. None while closed, and while a trial runs."""
        if self._pause_ends_at_seconds is None or self._is_trial_running:
            return None
        return max(0.0, self._pause_ends_at_seconds - self._clock())

    def record_start(self) -> bool:
        """Record that an allowed message starts. Returns True if the message is the trial."""
        is_trial = self._pause_ends_at_seconds is not None and self.allows_attempt()
        self._is_trial_running = self._is_trial_running or is_trial
        return is_trial

    def record_success(self, is_trial: bool = False) -> None:
        """Record that the handler returned. While open, only the trial closes the breaker: other messages may have
        started before the dependency failed."""
        if is_trial or self._pause_ends_at_seconds is None:
            self._consecutive_failures, self._pause_ends_at_seconds, self._is_trial_running = 0, None, False
            self.is_open, self.has_no_recent_failure = False, True

    def record_failure(self, is_trial: bool = False) -> None:
        """Record that the handler raised. While open, only the trial counts: other messages started before the breaker
        opened."""
        self.has_no_recent_failure = False
        if is_trial:
            self._open(min(2 * self._pause_seconds, self._max_pause_seconds))
        elif self._pause_ends_at_seconds is None and self._failure_threshold:
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._failure_threshold:
                self._opened_at_seconds = self._clock()
                self._open(self._min_pause_seconds)

    def record_ignored(self, is_trial: bool = False) -> None:
        """Record an end that says nothing about the dependency. After an ignored trial, the next message is one."""
        self._is_trial_running = self._is_trial_running and not is_trial

    def _open(self, pause_seconds: float) -> None:
        self._pause_seconds, self._pause_ends_at_seconds = pause_seconds, self._clock() + pause_seconds
        self._is_trial_running, self.is_open = False, True

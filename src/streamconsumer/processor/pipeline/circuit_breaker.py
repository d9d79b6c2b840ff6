"""Circuit breaker around the handler, so that messages lose no attempts while a service that the handler uses is down.

The breaker has no side effects, and the caller can pass the clock. The dependency is the service that the handler uses.
The breaker assumes that the dependency is up if the handler returns, and down if the handler raises an error. The
breaker ignores a message that is rejected, deferred, cancelled or claimed by another consumer, because such a message
does not show whether the dependency is up.

A *trial* is the one message that the open breaker allows after each pause. A failed trial does not count as an attempt,
because the dependency is the probable cause of the failure. If only messages that can never be handled are left, every
trial fails, and the breaker cannot distinguish this case from an outage. Failed trials therefore count as attempts
after the breaker has been open for an hour, so that messages that can never be handled become dead letters. An outage
of more than an hour costs one attempt per pause. During such an outage, the attempts of an entry are counted only if
this pod has read the entry. With the default settings, at most six messages per hour and pod become dead letters.

```
          consecutive failures               pause over, one message starts
  closed ──────────────────────→ open (pause) ─────────────────────────────→ trial
    ↑                             ↑  the pause doubles, up to its maximum      │ │
    │                             └────────────────── failed ──────────────────┘ │
    └──────────────────────────────────── succeeded ─────────────────────────────┘
```
"""

import time
from collections.abc import Callable

from streamconsumer.model.processor_settings import Breaker

MIN_PAUSE_SECONDS = 1.0
"""Duration of the first pause, unless `maxPause` is shorter."""

COUNT_TRIALS_AFTER_SECONDS = 3600.0
"""Time for which the breaker must have been open before failed trials count as attempts."""


class CircuitBreaker:
    """Circuit breaker of one processor. If `failures` is 0, the breaker never opens.

    Before each message, call `allows_attempt()` and then `is_trial = record_start()`. After the message, call
    `record_success(is_trial)`, `record_failure(is_trial)` or `record_ignored(is_trial)`."""

    def __init__(self, policy: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._failure_threshold, self._clock = policy.failures, clock
        self._max_pause_seconds = policy.max_pause.total_seconds()
        self._min_pause_seconds = min(MIN_PAUSE_SECONDS, self._max_pause_seconds)
        self._consecutive_failures = 0
        self._opened_at_seconds = 0.0
        self._pause_seconds = 0.0
        self._pause_ends_at_seconds: float | None = None
        """Time at which the pause ends or has ended. None while the breaker is closed."""
        self._is_trial_running = False
        self.is_open = False
        """True while the breaker is open, during a pause or a trial: only trials may start."""
        self.has_no_recent_failure = True
        """True if no message has failed since the last success, so that the caller does not need to record another
        success."""

    def allows_attempt(self) -> bool:
        """Return whether a message may start now."""
        return self._pause_ends_at_seconds is None or (
            not self._is_trial_running and self._clock() >= self._pause_ends_at_seconds
        )

    def counts_trials(self) -> bool:
        """Return whether the breaker has been open long enough for failed trials to count as attempts."""
        return self.is_open and self._clock() - self._opened_at_seconds >= COUNT_TRIALS_AFTER_SECONDS

    def seconds_until_trial(self) -> float | None:
        """Return the seconds until a trial may start. Returns None while the breaker is closed or a trial is
        running."""
        if self._pause_ends_at_seconds is None or self._is_trial_running:
            return None
        return max(0.0, self._pause_ends_at_seconds - self._clock())

    def record_start(self) -> bool:
        """Record that a message starts after `allows_attempt` returned True. Returns True if the message is a trial."""
        is_trial = self._pause_ends_at_seconds is not None and self.allows_attempt()
        self._is_trial_running = self._is_trial_running or is_trial
        return is_trial

    def record_success(self, is_trial: bool = False) -> None:
        """Record that the handler has returned.

        Only a successful trial closes an open breaker. All other messages started before the breaker opened, possibly
        before the dependency failed."""
        if is_trial or self._pause_ends_at_seconds is None:
            self._consecutive_failures, self._pause_ends_at_seconds, self._is_trial_running = 0, None, False
            self.is_open, self.has_no_recent_failure = False, True

    def record_failure(self, is_trial: bool = False) -> None:
        """Record that the handler has raised an error.

        While the breaker is open, only a failed trial has an effect, because all other messages started before the
        breaker opened."""
        self.has_no_recent_failure = False
        if is_trial:
            self._open(min(2 * self._pause_seconds, self._max_pause_seconds))
        elif self._pause_ends_at_seconds is None and self._failure_threshold:
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._failure_threshold:
                self._opened_at_seconds = self._clock()
                self._open(self._min_pause_seconds)

    def record_ignored(self, is_trial: bool = False) -> None:
        """Record that a message has ended without showing whether the dependency is up.

        After an ignored trial, the next message becomes the trial."""
        self._is_trial_running = self._is_trial_running and not is_trial

    def _open(self, pause_seconds: float) -> None:
        self._pause_seconds, self._pause_ends_at_seconds = pause_seconds, self._clock() + pause_seconds
        self._is_trial_running, self.is_open = False, True

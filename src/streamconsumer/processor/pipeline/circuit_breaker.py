"""A circuit breaker around the handler: when whatever it depends on is away, a backlog must not use its attempts up.

```
           failures in a row                pause over, one message begun
  closed ───────────────────→ open (pause) ──────────────────────────────→ trial
    ↑                           ↑  the pause doubles, up to its bound        │ │
    │                           └────────────────── failed ──────────────────┘ │
    └────────────────────────────────── succeeded ─────────────────────────────┘
```

Pure but for the clock. Only what says something of the dependency counts: a handler that returned or that raised. A
message that was rejected, put off, cancelled or taken over is `undecided`.

A failed trial is no attempt: it says more of the dependency than of the message that stood in. But where nothing is
left but messages that can never be handled, no trial succeeds until another message comes, and nobody can tell that
from an outage. So after a while trials count, and such messages end. An outage that is longer costs one attempt in each
pause, by turns of what this pod holds, and the backlog none: at the defaults six dead letters an hour and pod at most.
"""

import time
from collections.abc import Callable

from streamconsumer.model.processor_settings import Breaker

MIN_PAUSE_SECONDS = 1.0
"""Length of the first pause, unless `maxPause` is shorter."""

COUNT_TRIALS_AFTER_SECONDS = 3600.0
"""Time without a success after which failed trials count as attempts."""


class CircuitBreaker:
    """For every message: `allows()`, then `trial = begun()`, and at its end one of `succeeded(trial)`,
    `failed(trial)` and `undecided(trial)`. `failures=0` never opens."""

    def __init__(self, policy: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._failure_threshold, self._clock = policy.failures, clock
        self._max_pause_seconds = policy.max_pause.total_seconds()
        self._min_pause_seconds = min(MIN_PAUSE_SECONDS, self._max_pause_seconds)
        self._consecutive_failures = 0
        self._opened_at_seconds = 0.0
        self._pause_seconds = 0.0
        self._pause_ends_at_seconds: float | None = None
        """When the pause ends or ended; None while closed."""
        self._is_trial_running = False
        self.is_open = False
        """Whether the backlog waits, for the end of a pause or of a trial."""
        self.has_no_recent_failure = True
        """Whether nothing has failed since the last success: then one more success is no news."""

    def allows_attempt(self) -> bool:
        """Whether a message may be begun now."""
        return self._pause_ends_at_seconds is None or (
            not self._is_trial_running and self._clock() >= self._pause_ends_at_seconds
        )

    def counts_trials(self) -> bool:
        """Whether it has been open for so long that a trial that fails is an attempt like any other."""
        return self.is_open and self._clock() - self._opened_at_seconds >= COUNT_TRIALS_AFTER_SECONDS

    def seconds_until_trial(self) -> float | None:
        """How long until a message may be begun; None where no time tells: it is closed, or a trial runs."""
        if self._pause_ends_at_seconds is None or self._is_trial_running:
            return None
        return max(0.0, self._pause_ends_at_seconds - self._clock())

    def record_start(self) -> bool:
        """A message that was allowed begins. Returns whether it is the trial: its end must say so."""
        trial = self._pause_ends_at_seconds is not None and self.allows_attempt()
        self._is_trial_running = self._is_trial_running or trial
        return trial

    def record_success(self, is_trial: bool = False) -> None:
        """The handler returned. While open only the trial's word counts: what was begun before the dependency went
        may well be finished after."""
        if is_trial or self._pause_ends_at_seconds is None:
            self._consecutive_failures, self._pause_ends_at_seconds, self._is_trial_running = 0, None, False
            self.is_open, self.has_no_recent_failure = False, True

    def record_failure(self, is_trial: bool = False) -> None:
        """The handler raised. While open only the trial's word counts: the others were begun before, together."""
        self.has_no_recent_failure = False
        if is_trial:
            self._open(min(2 * self._pause_seconds, self._max_pause_seconds))
        elif self._pause_ends_at_seconds is None and self._failure_threshold:
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._failure_threshold:
                self._opened_at_seconds = self._clock()
                self._open(self._min_pause_seconds)

    def record_ignored(self, is_trial: bool = False) -> None:
        """It ended in a way that says nothing of the dependency. If it was the trial, the next message is."""
        self._is_trial_running = self._is_trial_running and not is_trial

    def _open(self, pause_seconds: float) -> None:
        self._pause_seconds, self._pause_ends_at_seconds, self._is_trial_running = (
            pause_seconds,
            self._clock() + pause_seconds,
            False,
        )
        self.is_open = True

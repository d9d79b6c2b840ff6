"""The circuit breaker, with a simulated clock."""

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamconsumer.model.processor_settings import Breaker
from streamconsumer.processor.pipeline.circuit_breaker import (
    COUNT_TRIALS_AFTER_SECONDS,
    MIN_PAUSE_SECONDS,
    CircuitBreaker,
)

FAILURES, MIN_PAUSE, MAX_PAUSE = 3, MIN_PAUSE_SECONDS, 6.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def new_breaker(clock: Clock, failures: int = FAILURES) -> CircuitBreaker:
    return CircuitBreaker(Breaker(failures=failures, max_pause=timedelta(seconds=MAX_PAUSE)), clock)


def open_breaker(clock: Clock) -> CircuitBreaker:
    breaker = new_breaker(clock)
    for _ in range(FAILURES):
        breaker.record_failure(breaker.record_start())
    return breaker


def is_trial_running(breaker: CircuitBreaker) -> bool:
    """Return whether a trial runs: the next start then depends on its outcome and not on time."""
    return breaker.is_open and breaker.seconds_until_trial() is None


def test_breaker_opens_after_consecutive_failures() -> None:
    breaker = new_breaker(Clock())
    for _ in range(FAILURES - 1):
        breaker.record_failure()
    assert breaker.allows_attempt()
    assert not breaker.is_open
    breaker.record_failure()
    assert breaker.is_open
    assert not breaker.allows_attempt()
    assert breaker.seconds_until_trial() == MIN_PAUSE


def test_success_resets_the_failure_count() -> None:
    breaker = new_breaker(Clock())
    for _ in range(100):
        breaker.record_failure()
        breaker.record_failure()
        breaker.record_success()
    assert not breaker.is_open


def test_ignored_message_neither_counts_nor_resets_the_count() -> None:
    breaker = new_breaker(Clock())
    for _ in range(FAILURES):
        breaker.record_ignored()
        assert not breaker.is_open
        breaker.record_failure()
    assert breaker.is_open


def test_breaker_allows_one_trial_after_the_pause() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += MIN_PAUSE
    assert breaker.seconds_until_trial() == 0
    assert breaker.allows_attempt()
    assert breaker.record_start()
    assert is_trial_running(breaker)
    assert not breaker.allows_attempt()
    assert breaker.seconds_until_trial() is None
    clock.now += 1000
    assert not breaker.allows_attempt()


def test_successful_trial_closes_the_breaker() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += MIN_PAUSE
    breaker.record_success(breaker.record_start())
    assert not breaker.is_open
    assert not is_trial_running(breaker)
    assert breaker.allows_attempt()
    breaker.record_failure(breaker.record_start())
    assert not breaker.is_open


def test_pause_doubles_with_each_failed_trial_up_to_its_maximum() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.seconds_until_trial())
        clock.now += pauses[-1] or 0
        breaker.record_failure(breaker.record_start())
    assert pauses == [1, 2, 4, 6, 6]


def test_pause_starts_at_its_minimum_after_the_breaker_was_closed() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    for outcome in (breaker.record_failure, breaker.record_success):
        clock.now += MAX_PAUSE
        outcome(breaker.record_start())
    for _ in range(FAILURES):
        breaker.record_failure(breaker.record_start())
    assert breaker.seconds_until_trial() == MIN_PAUSE


def test_trials_count_after_an_hour_until_one_succeeds() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    while clock.now < 100 + COUNT_TRIALS_AFTER_SECONDS:
        assert not breaker.counts_trials()
        clock.now += MAX_PAUSE
        breaker.record_failure(breaker.record_start())
    assert breaker.counts_trials()
    clock.now += MAX_PAUSE
    breaker.record_success(breaker.record_start())
    assert not breaker.counts_trials()
    for _ in range(FAILURES):
        breaker.record_failure(breaker.record_start())
    assert breaker.is_open
    assert not breaker.counts_trials()


def test_next_message_is_the_trial_after_an_ignored_trial() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    clock.now += MIN_PAUSE
    breaker.record_ignored(breaker.record_start())
    assert breaker.is_open
    assert breaker.allows_attempt()
    assert breaker.record_start()


def test_messages_started_before_the_breaker_opened_do_not_end_the_trial() -> None:
    clock = Clock()
    breaker = open_breaker(clock)
    breaker.record_success()
    breaker.record_failure()
    assert breaker.seconds_until_trial() == MIN_PAUSE
    clock.now += MIN_PAUSE
    is_trial = breaker.record_start()
    for outcome in (breaker.record_success, breaker.record_failure, breaker.record_ignored):
        outcome()
        assert is_trial_running(breaker)
        assert not breaker.allows_attempt()
    breaker.record_success(is_trial)
    assert breaker.allows_attempt()


def test_breaker_with_zero_failures_never_opens() -> None:
    breaker = new_breaker(Clock(), failures=0)
    for _ in range(1000):
        breaker.record_failure(breaker.record_start())
    assert breaker.allows_attempt()
    assert breaker.seconds_until_trial() is None


class AnyOrder(RuleBasedStateMachine):
    """Messages start when allowed and end in any order and with any outcome, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = new_breaker(self.clock)
        self.running: list[bool] = []
        self.consecutive_failures = 0
        self.pause: float | None = None
        self.opened_at = 0.0

    @property
    def trials(self) -> int:
        return sum(self.running)

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.breaker.allows_attempt())
    @rule()
    def start(self) -> None:
        self.running.append(self.breaker.record_start())

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def succeed(self, which: int) -> None:
        is_trial = self.running.pop(which % len(self.running))
        self.breaker.record_success(is_trial)
        if is_trial or self.pause is None:
            self.consecutive_failures, self.pause = 0, None

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def fail(self, which: int) -> None:
        is_trial = self.running.pop(which % len(self.running))
        self.breaker.record_failure(is_trial)
        if is_trial:
            self._open(min(2 * (self.pause or 0), MAX_PAUSE))
        elif self.pause is None:
            self.consecutive_failures += 1
            if self.consecutive_failures == FAILURES:
                self._open(MIN_PAUSE)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def ignore(self, which: int) -> None:
        self.breaker.record_ignored(self.running.pop(which % len(self.running)))

    def _open(self, pause: float) -> None:
        self.pause, self.opened_at = pause, self.clock.now

    @invariant()
    def at_most_one_trial_runs(self) -> None:
        assert self.trials <= 1
        assert is_trial_running(self.breaker) == (self.trials == 1)

    @invariant()
    def breaker_is_open_from_the_last_failure_until_a_trial_succeeds(self) -> None:
        assert self.breaker.is_open == (self.pause is not None)

    @invariant()
    def messages_start_while_closed_or_as_the_trial_after_the_pause(self) -> None:
        is_pause_over = self.pause is not None and self.clock.now >= self.opened_at + self.pause
        assert self.breaker.allows_attempt() == (self.pause is None or (is_pause_over and not self.trials))

    @invariant()
    def message_may_start_after_the_reported_wait(self) -> None:
        seconds = self.breaker.seconds_until_trial()
        assert (seconds is None) == (self.pause is None or self.trials == 1)
        if seconds is not None:
            assert 0 <= seconds <= MAX_PAUSE + 1e-9  # sums of fractions are rounded
            assert (seconds == 0) == self.breaker.allows_attempt()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, deadline=None)

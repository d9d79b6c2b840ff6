"""The circuit breaker, on a clock of the test's own."""

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


def breaker(clock: Clock, failures: int = FAILURES) -> CircuitBreaker:
    return CircuitBreaker(Breaker(failures=failures, max_pause=timedelta(seconds=MAX_PAUSE)), clock)


def opened(clock: Clock) -> CircuitBreaker:
    found = breaker(clock)
    for _ in range(FAILURES):
        found.record_failure(found.record_start())
    return found


def tries(found: CircuitBreaker) -> bool:
    """Whether a trial runs: then no time tells when the next message may begin."""
    return found.is_open and found.seconds_until_trial() is None


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    found = breaker(Clock())
    for _ in range(FAILURES - 1):
        found.record_failure()
    assert found.allows_attempt()
    assert not found.is_open
    found.record_failure()
    assert found.is_open
    assert not found.allows_attempt()
    assert found.seconds_until_trial() == MIN_PAUSE


def test_a_success_in_between_begins_the_count_anew() -> None:
    found = breaker(Clock())
    for _ in range(100):
        found.record_failure()
        found.record_failure()
        found.record_success()
    assert not found.is_open


def test_what_says_nothing_of_the_dependency_neither_counts_nor_begins_anew() -> None:
    found = breaker(Clock())
    for _ in range(FAILURES):
        found.record_ignored()
        assert not found.is_open
        found.record_failure()
    assert found.is_open


def test_after_the_pause_exactly_one_message_is_tried() -> None:
    clock = Clock()
    found = opened(clock)
    clock.now += MIN_PAUSE
    assert found.seconds_until_trial() == 0
    assert found.allows_attempt()
    assert found.record_start()
    assert tries(found)
    assert not found.allows_attempt()
    assert found.seconds_until_trial() is None
    clock.now += 1000
    assert not found.allows_attempt()


def test_a_trial_that_succeeds_closes_it() -> None:
    clock = Clock()
    found = opened(clock)
    clock.now += MIN_PAUSE
    found.record_success(found.record_start())
    assert not found.is_open
    assert not tries(found)
    assert found.allows_attempt()
    found.record_failure(found.record_start())
    assert not found.is_open


def test_the_pause_doubles_with_each_trial_that_fails_up_to_its_bound() -> None:
    clock = Clock()
    found = opened(clock)
    pauses = []
    for _ in range(5):
        pauses.append(found.seconds_until_trial())
        clock.now += pauses[-1] or 0
        found.record_failure(found.record_start())
    assert pauses == [1, 2, 4, 6, 6]


def test_the_pause_begins_small_again_after_it_was_closed() -> None:
    clock = Clock()
    found = opened(clock)
    for outcome in (found.record_failure, found.record_success):
        clock.now += MAX_PAUSE
        outcome(found.record_start())
    for _ in range(FAILURES):
        found.record_failure(found.record_start())
    assert found.seconds_until_trial() == MIN_PAUSE


def test_trials_count_once_it_has_been_open_for_long_until_one_succeeds() -> None:
    clock = Clock()
    found = opened(clock)
    while clock.now < 100 + COUNT_TRIALS_AFTER_SECONDS:
        assert not found.counts_trials()
        clock.now += MAX_PAUSE
        found.record_failure(found.record_start())
    assert found.counts_trials()
    clock.now += MAX_PAUSE
    found.record_success(found.record_start())
    assert not found.counts_trials()
    for _ in range(FAILURES):
        found.record_failure(found.record_start())
    assert found.is_open
    assert not found.counts_trials()


def test_a_trial_that_says_nothing_gives_the_next_message_its_turn() -> None:
    clock = Clock()
    found = opened(clock)
    clock.now += MIN_PAUSE
    found.record_ignored(found.record_start())
    assert found.is_open
    assert found.allows_attempt()
    assert found.record_start()


def test_messages_that_were_begun_before_it_opened_do_not_speak_for_the_trial() -> None:
    clock = Clock()
    found = opened(clock)
    found.record_success()
    found.record_failure()
    assert found.seconds_until_trial() == MIN_PAUSE
    clock.now += MIN_PAUSE
    trial = found.record_start()
    for outcome in (found.record_success, found.record_failure, found.record_ignored):
        outcome()
        assert tries(found)
        assert not found.allows_attempt()
    found.record_success(trial)
    assert found.allows_attempt()


def test_without_a_number_of_failures_it_never_opens() -> None:
    found = breaker(Clock(), failures=0)
    for _ in range(1000):
        found.record_failure(found.record_start())
    assert found.allows_attempt()
    assert found.seconds_until_trial() is None


class AnyOrder(RuleBasedStateMachine):
    """Messages begin when they may and end in any order and way, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock)
        self.running: list[bool] = []
        self.in_a_row = 0
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
    def begin(self) -> None:
        self.running.append(self.breaker.record_start())

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def succeed(self, which: int) -> None:
        trial = self.running.pop(which % len(self.running))
        self.breaker.record_success(trial)
        if trial or self.pause is None:
            self.in_a_row, self.pause = 0, None

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def fail(self, which: int) -> None:
        trial = self.running.pop(which % len(self.running))
        self.breaker.record_failure(trial)
        if trial:
            self._open(min(2 * (self.pause or 0), MAX_PAUSE))
        elif self.pause is None:
            self.in_a_row += 1
            if self.in_a_row == FAILURES:
                self._open(MIN_PAUSE)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def say_nothing(self, which: int) -> None:
        self.breaker.record_ignored(self.running.pop(which % len(self.running)))

    def _open(self, pause: float) -> None:
        self.pause, self.opened_at = pause, self.clock.now

    @invariant()
    def at_most_one_trial_runs(self) -> None:
        assert self.trials <= 1
        assert tries(self.breaker) == (self.trials == 1)

    @invariant()
    def it_is_open_exactly_from_the_last_failure_until_a_trial_succeeds(self) -> None:
        assert self.breaker.is_open == (self.pause is not None)

    @invariant()
    def messages_begin_while_closed_or_as_the_trial_after_the_pause(self) -> None:
        over = self.pause is not None and self.clock.now >= self.opened_at + self.pause
        assert self.breaker.allows_attempt() == (self.pause is None or (over and not self.trials))

    @invariant()
    def whoever_waits_as_long_as_it_is_told_may_begin(self) -> None:
        seconds = self.breaker.seconds_until_trial()
        assert (seconds is None) == (self.pause is None or self.trials == 1)
        if seconds is not None:
            assert 0 <= seconds <= MAX_PAUSE + 1e-9  # sums of fractions are rounded
            assert (seconds == 0) == self.breaker.allows_attempt()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, deadline=None)

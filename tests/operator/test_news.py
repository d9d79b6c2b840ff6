"""When what was changed is told."""

from datetime import timedelta

from streamconsumer.operator.reconcile.status_debounce import Change, StatusDebounce

KEY = ("shop", "orders")
CREATED, PRUNED = Change("Created", "Deployment orders created"), Change("Pruned", "ConfigMap is no longer wanted")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_nobody_changed_is_told_at_once() -> None:
    assert StatusDebounce().delay(KEY, "anything", is_observed=False) is None
    assert StatusDebounce().pop_changes(KEY) == []


def test_a_change_is_told_a_second_after_the_last_thing_that_followed_from_it() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    news.add(KEY, [CREATED])
    assert news.delay(KEY, "no pods", is_observed=True) == timedelta(seconds=1)
    clock.now += 0.7
    assert news.delay(KEY, "one pod", is_observed=True) == timedelta(seconds=1)
    clock.now += 1
    assert news.delay(KEY, "one pod", is_observed=True) is None
    assert news.pop_changes(KEY) == [CREATED]
    assert news.delay(KEY, "two pods", is_observed=True) is None


def test_several_changes_are_told_together() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    news.add(KEY, [CREATED])
    clock.now += 0.9
    news.add(KEY, [PRUNED])
    assert news.delay(KEY, "no pods", is_observed=True) == timedelta(seconds=1)
    assert news.pop_changes(KEY) == [CREATED, PRUNED]


def test_what_does_not_settle_is_told_after_five_seconds() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    news.add(KEY, [CREATED])
    for pods in range(9):
        assert news.delay(KEY, pods, is_observed=True)
        clock.now += 0.55
    clock.now += 0.1
    assert news.delay(KEY, "still more", is_observed=True) is None


def test_the_quiet_time_grows_with_the_number_of_changed_streamconsumers() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    for number in range(60):
        news.add(("shop", str(number)), [CREATED])
    assert news.delay(("shop", "7"), "no pods", is_observed=True) == timedelta(seconds=3)


def test_what_nobody_has_answered_yet_is_not_told_before_five_seconds() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    assert news.delay(("shop", "other"), "two pods", is_observed=True) is None, "somebody answers here"
    news.add(KEY, [CREATED])
    clock.now += 3
    assert news.delay(KEY, "two pods", is_observed=False) == timedelta(seconds=2)
    assert news.delay(KEY, "two pods", is_observed=True) == timedelta(seconds=1)
    clock.now += 1
    assert news.delay(KEY, "two pods", is_observed=True) is None


def test_what_is_never_answered_is_told_all_the_same() -> None:
    clock = Clock()
    news = StatusDebounce(clock=clock)
    news.delay(("shop", "other"), "two pods", is_observed=True)
    news.add(KEY, [CREATED])
    assert news.delay(KEY, "no pods", is_observed=False) == timedelta(seconds=5)
    clock.now += 5
    assert news.delay(KEY, "no pods", is_observed=False) is None


def test_where_nobody_ever_answered_nobody_is_waited_for() -> None:
    news = StatusDebounce(clock=Clock())
    news.add(KEY, [CREATED])
    assert news.delay(KEY, "no pods", is_observed=False) == timedelta(seconds=1)

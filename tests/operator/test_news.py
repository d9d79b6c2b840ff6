"""When what was changed is told."""

from datetime import timedelta

from streamconsumer.operator.reconcile.status_debounce import Change, News

KEY = ("shop", "orders")
CREATED, PRUNED = Change("Created", "Deployment orders created"), Change("Pruned", "ConfigMap is no longer wanted")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_nobody_changed_is_told_at_once() -> None:
    assert News().wait(KEY, "anything", answered=False) is None
    assert News().take(KEY) == []


def test_a_change_is_told_a_second_after_the_last_thing_that_followed_from_it() -> None:
    clock = Clock()
    news = News(clock=clock)
    news.add(KEY, [CREATED])
    assert news.wait(KEY, "no pods", answered=True) == timedelta(seconds=1)
    clock.now += 0.7
    assert news.wait(KEY, "one pod", answered=True) == timedelta(seconds=1)
    clock.now += 1
    assert news.wait(KEY, "one pod", answered=True) is None
    assert news.take(KEY) == [CREATED]
    assert news.wait(KEY, "two pods", answered=True) is None


def test_several_changes_are_told_together() -> None:
    clock = Clock()
    news = News(clock=clock)
    news.add(KEY, [CREATED])
    clock.now += 0.9
    news.add(KEY, [PRUNED])
    assert news.wait(KEY, "no pods", answered=True) == timedelta(seconds=1)
    assert news.take(KEY) == [CREATED, PRUNED]


def test_what_does_not_settle_is_told_after_five_seconds() -> None:
    clock = Clock()
    news = News(clock=clock)
    news.add(KEY, [CREATED])
    for pods in range(9):
        assert news.wait(KEY, pods, answered=True)
        clock.now += 0.55
    clock.now += 0.1
    assert news.wait(KEY, "still more", answered=True) is None


def test_the_quiet_time_grows_with_the_number_of_changed_streamconsumers() -> None:
    clock = Clock()
    news = News(clock=clock)
    for number in range(60):
        news.add(("shop", str(number)), [CREATED])
    assert news.wait(("shop", "7"), "no pods", answered=True) == timedelta(seconds=3)


def test_what_nobody_has_answered_yet_is_not_told_before_five_seconds() -> None:
    clock = Clock()
    news = News(clock=clock)
    assert news.wait(("shop", "other"), "two pods", answered=True) is None, "somebody answers here"
    news.add(KEY, [CREATED])
    clock.now += 3
    assert news.wait(KEY, "two pods", answered=False) == timedelta(seconds=2)
    assert news.wait(KEY, "two pods", answered=True) == timedelta(seconds=1)
    clock.now += 1
    assert news.wait(KEY, "two pods", answered=True) is None


def test_what_is_never_answered_is_told_all_the_same() -> None:
    clock = Clock()
    news = News(clock=clock)
    news.wait(("shop", "other"), "two pods", answered=True)
    news.add(KEY, [CREATED])
    assert news.wait(KEY, "no pods", answered=False) == timedelta(seconds=5)
    clock.now += 5
    assert news.wait(KEY, "no pods", answered=False) is None


def test_where_nobody_ever_answered_nobody_is_waited_for() -> None:
    news = News(clock=Clock())
    news.add(KEY, [CREATED])
    assert news.wait(KEY, "no pods", answered=False) == timedelta(seconds=1)

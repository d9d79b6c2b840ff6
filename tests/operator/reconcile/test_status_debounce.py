"""The debounce of status writes."""

from datetime import timedelta

from streamconsumer.operator.reconcile.status_debounce import Change, PendingChanges, StatusDebounce

CREATED = Change("Created", "created Deployment orders")
PRUNED = Change("Pruned", "deleted ConfigMap orders, which is no longer needed")


class Clock:
    """Seconds, advanced by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class OneConsumer:
    """The debounce of one StreamConsumer with pending changes."""

    def __init__(self, clock: Clock, in_motion: int = 1) -> None:
        self.debounce = StatusDebounce(clock=clock)
        self.pending = PendingChanges()
        self._in_motion = in_motion

    def add(self, change: Change) -> None:
        self.debounce.add(self.pending, [change])

    def delay(self, snapshot: object, *, is_observed: bool) -> timedelta | None:
        return self.debounce.delay(self.pending, snapshot, is_observed=is_observed, in_motion=lambda: self._in_motion)

    def see_a_controller(self) -> None:
        """Have the controller of another Deployment react."""
        assert (
            self.debounce.delay(PendingChanges(), "two pods", is_observed=True, in_motion=lambda: self._in_motion)
            is None
        )


def test_status_is_written_immediately_without_a_change() -> None:
    consumer = OneConsumer(Clock())
    assert consumer.delay("anything", is_observed=False) is None
    assert consumer.pending.pop() == []


def test_status_is_written_one_second_after_the_last_update_that_follows_a_change() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.add(CREATED)
    assert consumer.delay("no pods", is_observed=True) == timedelta(seconds=1)
    clock.now += 0.7
    assert consumer.delay("one pod", is_observed=True) == timedelta(seconds=1)
    clock.now += 1
    assert consumer.delay("one pod", is_observed=True) is None
    assert consumer.pending.pop() == [CREATED]
    assert consumer.delay("two pods", is_observed=True) is None


def test_several_changes_are_reported_together() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.add(CREATED)
    clock.now += 0.9
    consumer.add(PRUNED)
    assert consumer.delay("no pods", is_observed=True) == timedelta(seconds=1)
    assert consumer.pending.pop() == [CREATED, PRUNED]


def test_status_is_written_after_five_seconds_if_updates_continue() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.add(CREATED)
    for pods in range(9):
        assert consumer.delay(pods, is_observed=True)
        clock.now += 0.55
    clock.now += 0.1
    assert consumer.delay("still more", is_observed=True) is None


def test_the_delay_starts_again_with_the_next_change() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.add(CREATED)
    clock.now += 5
    assert consumer.delay("no pods", is_observed=True) is None
    consumer.pending.pop()
    consumer.add(PRUNED)
    assert consumer.delay("no pods", is_observed=True) == timedelta(seconds=1)


def test_the_quiet_period_grows_with_the_number_of_changed_streamconsumers() -> None:
    consumer = OneConsumer(Clock(), in_motion=60)
    consumer.add(CREATED)
    assert consumer.delay("no pods", is_observed=True) == timedelta(seconds=3)


def test_status_waits_up_to_five_seconds_for_the_deployment_controller() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.see_a_controller()
    consumer.add(CREATED)
    clock.now += 3
    assert consumer.delay("two pods", is_observed=False) == timedelta(seconds=2)
    assert consumer.delay("two pods", is_observed=True) == timedelta(seconds=1)
    clock.now += 1
    assert consumer.delay("two pods", is_observed=True) is None


def test_status_is_written_after_five_seconds_if_the_deployment_controller_does_not_react() -> None:
    consumer = OneConsumer(clock := Clock())
    consumer.see_a_controller()
    consumer.add(CREATED)
    assert consumer.delay("no pods", is_observed=False) == timedelta(seconds=5)
    clock.now += 5
    assert consumer.delay("no pods", is_observed=False) is None


def test_status_waits_for_no_controller_if_none_has_ever_reacted() -> None:
    consumer = OneConsumer(Clock())
    consumer.add(CREATED)
    assert consumer.delay("no pods", is_observed=False) == timedelta(seconds=1)

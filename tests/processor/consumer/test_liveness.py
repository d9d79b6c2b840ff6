"""Consumers are found dead by evidence only, and take turns in checking their group."""

from datetime import timedelta

import pytest

from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.liveness import (
    ABSENT_AFTER,
    BUSY_CHECK_INTERVAL,
    CHECK_INTERVAL,
    EXPIRE_AFTER,
    MAX_BUSY_CHECK_INTERVAL,
    MAX_CHECK_INTERVAL,
)
from streamconsumer.processor.consumer.registration import Identity, Registration
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

REGISTRATION = Registration("run", "token", (5, 6))
OBSERVER = Identity(9, "run")


@pytest.mark.parametrize(
    ("clients", "observer", "expected"),
    [
        ({9: "mine"}, OBSERVER, True),
        ({5: "other program", 9: "mine"}, OBSERVER, True),
        ({6: "token", 9: "mine"}, OBSERVER, False),
        ({}, OBSERVER, False),  # the list is not that of the observer's server
        ({9: "other program"}, OBSERVER, False),
        ({9: "mine"}, Identity(9, "another run"), False),
    ],
)
def test_missing_connections_are_evidence_only_on_the_same_server(
    clients: dict[int, str], observer: Identity, expected: bool
) -> None:
    assert liveness.is_disconnected(REGISTRATION, clients, observer, "mine") is expected


def test_idle_time_is_evidence_only_without_activity_between_two_checks() -> None:
    seconds = {"dead": 29.5, "alive": 29.5, "young": 5.0, "renewed": 45.0}
    before = {name: timedelta(seconds=each) for name, each in seconds.items()}
    now = {"dead": timedelta(seconds=30.5), "alive": timedelta(seconds=0.3), "young": timedelta(seconds=6)}
    now |= {"new": timedelta(seconds=40), "renewed": timedelta(seconds=31)}
    assert liveness.expired(before, now, timedelta(seconds=1), timedelta(seconds=30)) == ["dead"]


def test_consumers_check_in_turns() -> None:
    now = 1000.0 * CHECK_INTERVAL.total_seconds() * 3
    members = {"a": now, "b": now, "c": now, "absent": now - ABSENT_AFTER.total_seconds() * 2, "dead": now}
    order = liveness.active_members(members, ["dead"], "c", now)
    assert order == ["a", "b", "c"]
    turns = {name: liveness.seconds_until_turn(now + 0.25, order, name) for name in order}
    turn = CHECK_INTERVAL.total_seconds()
    assert turns == pytest.approx({"a": 3 * turn - 0.25, "b": turn - 0.25, "c": 2 * turn - 0.25})
    assert liveness.seconds_until_turn(now + turn - 0.05, order, "b") == pytest.approx(3 * turn + 0.05), (
        "its turn has started"
    )
    busy = BUSY_CHECK_INTERVAL.total_seconds()
    assert liveness.seconds_until_turn(now + 0.25, order, "b", is_busy=True) == pytest.approx(busy - 0.25)


def test_consumer_of_a_large_group_checks_at_least_every_20_seconds() -> None:
    order = [f"pod-{number:03}" for number in range(100)]
    assert all(liveness.seconds_until_turn(0.0, order, name) <= MAX_CHECK_INTERVAL.total_seconds() for name in order)


def test_consumer_that_was_found_dead_by_mistake_takes_turns() -> None:
    assert liveness.active_members({"me": 0.0}, ["me"], "me", 0.0) == ["me"]


def test_next_check_is_due_when_a_silent_consumer_has_been_idle_long_enough() -> None:
    min_idle, silent = timedelta(seconds=30), {"a": timedelta(seconds=20), "b": timedelta(seconds=31)}
    assert liveness.seconds_until_expired(silent, [], min_idle) == pytest.approx(10)
    assert liveness.seconds_until_expired(silent, ["b"], min_idle) == pytest.approx(0.9)
    assert liveness.seconds_until_expired({}, [], min_idle) == float("inf")


def test_members_expire_when_they_are_absent() -> None:
    members = {"me": 0.0, "old": 0.0, "reading": 900.0}
    assert liveness.expired_members(members, "me", EXPIRE_AFTER.total_seconds() + 1) == ["old"]


def test_command_times_out_after_half_of_min_idle() -> None:
    assert liveness.command_timeout(timedelta(seconds=30)) == 15
    assert liveness.command_timeout(timedelta(seconds=1)) == 5


def test_postponed_entries_have_no_turn() -> None:
    assert liveness.active_members({POSTPONED_CONSUMER: 0.0, "future": 1000.0}, [], "me", 0.0) == ["me"]


def test_busy_consumer_of_a_large_group_checks_at_least_every_5_seconds() -> None:
    order = [f"pod-{number:03}" for number in range(100)]
    turns = [liveness.seconds_until_turn(0.0, order, name, is_busy=True) for name in order]
    assert max(turns) == MAX_BUSY_CHECK_INTERVAL.total_seconds()


def test_next_check_leaves_time_for_a_renewal() -> None:
    silent = {"a": timedelta(seconds=29.9), "b": timedelta(seconds=30)}
    assert liveness.seconds_until_expired(silent, [], timedelta(seconds=30)) == pytest.approx(0.9)
    assert liveness.seconds_until_expired({"b": timedelta(seconds=30)}, [], timedelta(seconds=30)) == float("inf")

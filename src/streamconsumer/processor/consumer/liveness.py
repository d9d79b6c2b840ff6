"""Liveness of a group's consumers: detects dead consumers and selects the consumer that runs the next check.

The functions in this module have no side effects; the caller passes the current time.

A consumer with entries in flight renews their leases every HEARTBEAT_INTERVAL, from a separate thread. A registered
consumer that owns pending entries counts as dead after two checks, CONFIRMATION_DELAY apart. Both checks must find that
the consumer has been silent for SILENCE_THRESHOLD. A single check is not enough, because every consumer appears silent
right after a Redis outage. Live consumers send a heartbeat before the second check.

One check per CHECK_INTERVAL is enough for a group of any size, so the consumers take turns by the server's clock.
Active consumers announce themselves in a companion hash (the members hash), because Redis before 7.2 does not count a
blocked read as activity.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

HEARTBEAT_INTERVAL = timedelta(milliseconds=400)
SILENCE_THRESHOLD = timedelta(milliseconds=1100)
CONFIRMATION_DELAY = timedelta(milliseconds=900)
CHECK_INTERVAL = timedelta(milliseconds=1200)

ANNOUNCE_INTERVAL = timedelta(seconds=20)
"""Interval at which a consumer announces itself in the members hash."""

ABSENT_AFTER = timedelta(seconds=65)
"""Time without an announcement after which a consumer no longer takes turns in running the liveness check."""

EXPIRE_AFTER = timedelta(minutes=10)
"""Time without an announcement after which a consumer without pending entries is deleted."""

Members = Mapping[str, float]
"""Registered consumers and the time of their last announcement, in seconds of the server's clock."""


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """Consumer in the reply to XINFO CONSUMERS."""

    name: str
    pending: int
    idle: timedelta
    """Time since the consumer's last activity, by the server's clock."""


def silent_consumers(consumers: Iterable[ConsumerInfo], consumer_name: str) -> dict[str, timedelta]:
    """Return the idle times of other consumers that own pending entries and have been silent for
    `SILENCE_THRESHOLD`."""
    return {
        info.name: info.idle
        for info in consumers
        if info.pending and info.idle > SILENCE_THRESHOLD and info.name not in (consumer_name, POSTPONED_CONSUMER)
    }


def confirmed_dead(previous: Mapping[str, timedelta], current: Mapping[str, timedelta]) -> list[str]:
    """Return the names of the consumers that were silent in the previous check and have been silent since."""
    return [
        name for name, idle in current.items() if name in previous and idle >= previous[name] + CONFIRMATION_DELAY * 0.5
    ]


def active_members(members: Members, dead: Collection[str], consumer_name: str, now_seconds: float) -> list[str]:
    """Return the consumers that take turns in running the liveness check, in the order of their turns. Always includes
    `consumer_name`."""
    since = now_seconds - ABSENT_AFTER.total_seconds()
    recent = (name for name, announced_at in members.items() if announced_at > since)
    return sorted({consumer_name, *recent} - set(dead) - {POSTPONED_CONSUMER})


def seconds_until_turn(now_seconds: float, active: list[str], consumer_name: str) -> float:
    """Return the time until this consumer's next check. If n consumers are active, each consumer runs every n-th
    check."""
    turn = CHECK_INTERVAL.total_seconds()
    wait = (active.index(consumer_name) * turn - now_seconds) % (len(active) * turn)
    return wait if wait > turn / 10 else wait + len(active) * turn


def expired_members(
    consumers: Iterable[ConsumerInfo], members: Members, consumer_name: str, now_seconds: float
) -> list[str]:
    """Return the members that no longer announce themselves and own no pending entries."""
    expired_before = now_seconds - EXPIRE_AFTER.total_seconds()
    with_pending = {info.name for info in consumers if info.pending}
    return [
        name
        for name, announced_at in members.items()
        if announced_at < expired_before and name not in with_pending and name != consumer_name
    ]

"""The watch over a group's consumers: who is dead, and whose turn it is to look. Pure.

A consumer of ours that has anything in flight shows a sign of life every `HEARTBEAT`, from a thread of its own. One
that holds entries and has been silent for `SILENCE` at two looks, `PROOF` apart, is dead. Two, because after an outage
of the server all have been silent: whoever lives says so before the second.

One look in `TURN` is enough for a group, however many consumers it has: they look in turns, by the server's clock. Who
is there stands in a hash beside the stream, for Redis before 7.2 does not notice a consumer that waits for entries.
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
"""How often a consumer writes down that it is there."""

ABSENT_AFTER = timedelta(seconds=65)
"""Who has not done so for so long takes no turns."""

EXPIRE_AFTER = timedelta(minutes=10)
"""Who has not done so for so long, and holds nothing, is gone: its name goes too."""

Members = Mapping[str, float]
"""Consumers of ours, and when they last said that they are there, in seconds of the server's clock."""


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A line of XINFO CONSUMERS."""

    name: str
    pending: int
    idle: timedelta
    """Since its last sign of life, by the server's clock."""


def silent_consumers(consumers: Iterable[ConsumerInfo], consumer_name: str) -> dict[str, timedelta]:
    """Who may be dead: holds entries, and shows no sign of life."""
    return {
        each.name: each.idle
        for each in consumers
        if each.pending and each.idle > SILENCE_THRESHOLD and each.name not in (consumer_name, POSTPONED_CONSUMER)
    }


def confirmed_dead(previous: Mapping[str, timedelta], current: Mapping[str, timedelta]) -> list[str]:
    """Who was silent before and has been ever since."""
    return [
        name for name, idle in current.items() if name in previous and idle >= previous[name] + CONFIRMATION_DELAY * 0.5
    ]


def active_members(members: Members, dead: Collection[str], consumer_name: str, now_seconds: float) -> list[str]:
    """Who takes turns, in their order."""
    since = now_seconds - ABSENT_AFTER.total_seconds()
    return sorted(
        {consumer_name, *(name for name, seen in members.items() if seen > since)} - set(dead) - {POSTPONED_CONSUMER}
    )


def seconds_until_turn(now_seconds: float, active: list[str], consumer_name: str) -> float:
    """Until this consumer looks again: every n turns among n."""
    turn = CHECK_INTERVAL.total_seconds()
    wait = (active.index(consumer_name) * turn - now_seconds) % (len(active) * turn)
    return wait if wait > turn / 10 else wait + len(active) * turn


def expired_members(
    consumers: Iterable[ConsumerInfo], members: Members, consumer_name: str, now_seconds: float
) -> list[str]:
    """Of whom only the name is left."""
    before = now_seconds - EXPIRE_AFTER.total_seconds()
    holding = {each.name for each in consumers if each.pending}
    return [name for name, seen in members.items() if seen < before and name not in holding and name != consumer_name]

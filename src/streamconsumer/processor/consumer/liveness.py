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

from streamconsumer.redis_client.keys import POSTPONED

HEARTBEAT = timedelta(milliseconds=400)
SILENCE = timedelta(milliseconds=1100)
PROOF = timedelta(milliseconds=900)
TURN = timedelta(milliseconds=1200)

PRESENT_EVERY = timedelta(seconds=20)
"""How often a consumer writes down that it is there."""

ABSENT = timedelta(seconds=65)
"""Who has not done so for so long takes no turns."""

FORGOTTEN = timedelta(minutes=10)
"""Who has not done so for so long, and holds nothing, is gone: its name goes too."""

Members = Mapping[str, float]
"""Consumers of ours, and when they last said that they are there, in seconds of the server's clock."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A line of XINFO CONSUMERS."""

    name: str
    pending: int
    idle: timedelta
    """Since its last sign of life, by the server's clock."""


def silent(consumers: Iterable[Consumer], me: str) -> dict[str, timedelta]:
    """Who may be dead: holds entries, and shows no sign of life."""
    return {
        each.name: each.idle
        for each in consumers
        if each.pending and each.idle > SILENCE and each.name not in (me, POSTPONED)
    }


def proven(before: Mapping[str, timedelta], now: Mapping[str, timedelta]) -> list[str]:
    """Who was silent before and has been ever since."""
    return [name for name, idle in now.items() if name in before and idle >= before[name] + PROOF * 0.5]


def there(members: Members, dead: Collection[str], me: str, now_seconds: float) -> list[str]:
    """Who takes turns, in their order."""
    since = now_seconds - ABSENT.total_seconds()
    return sorted({me, *(name for name, seen in members.items() if seen > since)} - set(dead) - {POSTPONED})


def seconds_to_turn(now_seconds: float, order: list[str], me: str) -> float:
    """Until this consumer looks again: every n turns among n."""
    turn = TURN.total_seconds()
    wait = (order.index(me) * turn - now_seconds) % (len(order) * turn)
    return wait if wait > turn / 10 else wait + len(order) * turn


def gone(consumers: Iterable[Consumer], members: Members, me: str, now_seconds: float) -> list[str]:
    """Of whom only the name is left."""
    before = now_seconds - FORGOTTEN.total_seconds()
    holding = {each.name for each in consumers if each.pending}
    return [name for name, seen in members.items() if seen < before and name not in holding and name != me]

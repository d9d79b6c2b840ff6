"""The watch over a group's consumers: who is dead, and whose turn it is to look. Pure.

A consumer of ours that has anything in flight shows a sign of life every `HEARTBEAT`, from a thread of its own. One
that holds entries and has been silent for `SILENCE` at two looks, `PROOF` apart, is dead. Two, because after an outage
of the server all have been silent: whoever lives says so before the second.

One look a second for each group is enough, however many consumers it has: they look in turns, by the server's clock.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.processor.stream.keys import POSTPONED

HEARTBEAT = timedelta(milliseconds=500)
SILENCE = timedelta(milliseconds=1250)
PROOF = timedelta(milliseconds=900)

FORGOTTEN = timedelta(minutes=10)
"""A consumer of ours that has been silent for so long reads no more (a read waits a minute at most): its name goes."""

ABSENT = timedelta(seconds=70)
"""One that has been silent for so long takes no turns."""


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


def there(consumers: Collection[Consumer], me: str) -> list[str]:
    """Who takes turns, in their order."""
    dead = silent(consumers, me)
    return sorted({me, *(each.name for each in consumers if each.idle < ABSENT)} - {POSTPONED, *dead})


def seconds_to_turn(now_seconds: float, consumers: Collection[Consumer], me: str) -> float:
    """Until this consumer looks again: every n seconds among n that are there. One turn lasts a second."""
    order = there(consumers, me)
    turns, mine = len(order), order.index(me)
    wait = (mine - now_seconds) % turns
    return wait if wait > 0.1 else wait + turns


def gone(consumers: Iterable[Consumer], me: str) -> list[str]:
    """Whose name only is left."""
    return [
        each.name
        for each in consumers
        if not each.pending and each.idle > FORGOTTEN and each.name not in (me, POSTPONED)
    ]

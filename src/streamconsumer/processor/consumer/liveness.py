"""Liveness of a group's consumers: decides which consumers are dead, and when this consumer checks next.

The functions in this module have no side effects; the caller passes what it has observed.

A consumer with entries in flight renews their leases every HEARTBEAT_INTERVAL, from a separate thread. There are two
kinds of evidence that a consumer is dead:

- Its connections have ended, and its entries have been idle for SILENCE_THRESHOLD. The observer must have seen these
  connections before, on the same server and over its present connection. The server must still list the observer's
  present connection.
- Its entries have been idle for `min_idle` in two checks. Each check includes a write. If the server delays the writes
  of all consumers, the check is delayed too, and no consumer counts as dead.

One check per CHECK_INTERVAL is enough for a group of any size, so the consumers take turns by the server's clock.
Active consumers announce themselves in a companion hash (the members hash), because Redis before 7.2 does not count a
blocked read as activity.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta

from streamconsumer.processor.consumer.registration import Identity, Registration
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

MIN_TIMEOUT = timedelta(seconds=5)
"""Minimum timeout of a command on a connection that other consumers observe. As long as such a connection exists, its
consumer counts as alive."""

HEARTBEAT_INTERVAL = timedelta(milliseconds=400)
SILENCE_THRESHOLD = timedelta(milliseconds=1000)

CONFIRMATION_DELAY = timedelta(milliseconds=900)
"""Minimum time between the two checks after which an idle consumer counts as dead. A live consumer renews its leases
between the two checks."""

CHECK_INTERVAL = timedelta(milliseconds=1200)
"""Time between two checks of an idle group."""

BUSY_CHECK_INTERVAL = timedelta(milliseconds=600)
"""Time between two checks of a group with pending entries. The turn of a dead consumer delays a check by this time."""

MAX_CHECK_INTERVAL, MAX_BUSY_CHECK_INTERVAL = timedelta(seconds=20), timedelta(seconds=5)
"""MAX_CHECK_INTERVAL is the maximum time between two checks by the same consumer in an idle group.
MAX_BUSY_CHECK_INTERVAL is the maximum time in a group with pending entries."""

ANNOUNCE_INTERVAL = timedelta(seconds=15)
"""Time after which the next check of a consumer also announces the consumer in the members hash."""

ABSENT_AFTER = timedelta(seconds=65)
"""A consumer that has not announced itself for this time no longer takes turns in checking the group."""

EXPIRE_AFTER = timedelta(minutes=10)
"""A consumer that has no pending entries and has not announced itself for this time is deleted."""

Members = Mapping[str, float]
"""Consumers that have announced themselves, and the time of their last announcement, in seconds of the server's
clock."""

Clients = Mapping[int, str]
"""Maps the id of each existing connection to the name of the connection."""


def command_timeout(min_idle: timedelta) -> float:
    """Return the timeout, in seconds, of a command on a connection that other consumers observe. The timeout is long,
    because opening a new connection to a slow server would take longer than waiting for the reply."""
    return max(min_idle / 2, MIN_TIMEOUT).total_seconds()


def is_connected(registration: Registration, clients: Clients) -> bool:
    """Return True if a registered connection exists."""
    return any(clients.get(client_id) == registration.token for client_id in registration.client_ids)


def is_disconnected(registration: Registration, clients: Clients, observer: Identity, token: str) -> bool:
    """Return True if the list of connections shows that the registered connections have ended.

    The observer must have seen the registered connections before. `token` is the name of the observer's own connection.
    """
    return (
        registration.run_id == observer.run_id
        and clients.get(observer.client_id) == token
        and not is_connected(registration, clients)
    )


def expired(
    previous: Mapping[str, timedelta], current: Mapping[str, timedelta], elapsed: timedelta, min_idle: timedelta
) -> list[str]:
    """Return the consumers that have been idle for `min_idle`, and were idle in two checks. `previous` and `current`
    are the idle times of the silent consumers in the two checks, and `elapsed` is the time between the checks.
    """
    return [
        name
        for name, idle in current.items()
        if idle >= min_idle and name in previous and idle >= previous[name] + elapsed * 0.5
    ]


def active_members(members: Members, dead: Collection[str], consumer_name: str, now_seconds: float) -> list[str]:
    """Return the consumers that take turns in checking the group, in the order of their turns. Always includes
    `consumer_name`."""
    limit = ABSENT_AFTER.total_seconds()  # a time in the future shows that the server's clock was set back
    recent = (name for name, announced_at in members.items() if abs(now_seconds - announced_at) < limit)
    return sorted({*recent} - set(dead) - {POSTPONED_CONSUMER} | {consumer_name})


def seconds_until_turn(now_seconds: float, active: list[str], consumer_name: str, *, is_busy: bool = False) -> float:
    """Return the time until this consumer's next check. If n consumers are active, each consumer runs every n-th
    check, but does not wait longer than the maximum time between two checks."""
    interval, longest = (
        (BUSY_CHECK_INTERVAL, MAX_BUSY_CHECK_INTERVAL) if is_busy else (CHECK_INTERVAL, MAX_CHECK_INTERVAL)
    )
    turn = interval.total_seconds()
    wait = (active.index(consumer_name) * turn - now_seconds) % (len(active) * turn)
    return min(wait if wait > turn / 10 else wait + len(active) * turn, longest.total_seconds())


def seconds_until_expired(silent: Mapping[str, timedelta], suspected: Collection[str], min_idle: timedelta) -> float:
    """Return the time until the first of the silent consumers has been idle for `min_idle`. If consumers are suspected
    after one check, returns the time until the second check. Returns infinity if no consumer can expire."""
    if suspected:
        return CONFIRMATION_DELAY.total_seconds()
    remaining = [min_idle - idle for idle in silent.values() if idle < min_idle]
    return max(min(remaining), CONFIRMATION_DELAY).total_seconds() if remaining else float("inf")


def expired_members(members: Members, consumer_name: str, now_seconds: float) -> list[str]:
    """Return the consumers that have not announced themselves for EXPIRE_AFTER."""
    expired_before = now_seconds - EXPIRE_AFTER.total_seconds()
    return [name for name, announced_at in members.items() if announced_at < expired_before and name != consumer_name]

"""Observer of a group's consumers: checks which consumers are silent, and whether their connections still exist.

The observer has a connection of its own. Only observations over the present connection count. After the observer has
lost its connection, it must first see the connections of a consumer again. Only then does the absence of these
connections prove that the consumer is dead. The module `liveness` makes the decisions.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any

from redis.exceptions import ResponseError

from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.manager import MAX_REPLY_BYTES, StreamManager
from streamconsumer.processor.consumer.pending_entries import Dead
from streamconsumer.processor.consumer.raw_connection import RawConnection
from streamconsumer.processor.consumer.registration import (
    Identity,
    OwnRegistration,
    Registration,
    identify,
    is_temporary,
    list_clients,
)
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.scripts import MAX_CONSUMERS, load_script

log = logging.getLogger(__name__)

MAX_SCANNED, MAX_SEARCHED = 2000, 480
"""Maximum number of registrations that one check reads, and maximum number of consumers whose entries one check
searches."""

CHECK = load_script("check_consumers", MAX_SCANNED=MAX_SCANNED, MAX_SEARCHED=MAX_SEARCHED)

LISTED_PER_CHECK = 1000
"""Average number of consumers that one check lists. The server needs 6 ms to list this number of consumers. The
consumers of a larger group are listed less often. Meanwhile, the checks examine the entries of the registered
consumers."""

CHECKS_PER_LIST = 50
"""Number of checks after which all connections are listed again, even if nothing has changed."""

MIN_LIST_SECONDS, LIST_SECONDS_PER_CONSUMER = 10.0, 0.3
"""Time after which all connections are listed again while the group is busy: the minimum time, and the time for each
registered consumer. After the listing, consumers whose connections have ended no longer take turns."""

MAX_PLAIN_GROUPS = 50
"""If the stream has at most this number of groups, a single command checks whether the group is idle. With more groups,
the reply to this command would be too large."""

SEARCHES_PER_MIN_IDLE = 2
"""Number of times in a `minIdle` period that a consumer searches for idle entries of consumers that are not silent."""

UNKNOWN_VERSION = "unknown"

MAX_IDLE_MILLISECONDS = 10**13
"""Maximum idle time in milliseconds. A greater number, which a server may report, could exceed the range of
`timedelta`."""

_SUBJECT = "the script that checks consumers"


@dataclass(slots=True)
class Check:
    """Result of one check of the group's consumers."""

    silent: dict[str, timedelta] = field(default_factory=dict)
    """Idle times of the consumers that own pending entries and have been silent for SILENCE_THRESHOLD. Includes this
    consumer if its pending entries are not in flight."""
    stale: frozenset[str] = frozenset()
    """Consumers that own entries that were idle for `min_idle`. Empty if the check did not search for such entries."""
    at: float = 0.0
    """Time of the check in seconds of the event loop."""


class Observer:
    """Checks the other consumers of the group, on behalf of one consumer."""

    def __init__(self, manager: StreamManager, registration: OwnRegistration) -> None:
        self._own, self._min_idle = registration, manager.min_idle
        self._consumer_id = registration.consumer_id
        stream, group, _ = self._consumer_id
        self._keys = (stream, registration.key, group_key(stream, group, "consumers"))
        self._connection = DedicatedConnection(manager, MAX_REPLY_BYTES)
        self._connection.on_connected = self._identify
        self._identity: Identity | None = None
        self._connection_count = 0
        self._can_list = True
        """False if the observer cannot list the connections of other consumers. The observer then detects a dead
        consumer only by its idle time."""
        self._is_reported = False
        self._seen: set[tuple[int, str]] = set()
        """Ids and names of the connections that this observer has seen over its present connection."""
        self._registrations: dict[str, str] = {}
        self._version = UNKNOWN_VERSION
        self._announced_at = -inf
        self._clock_offset_seconds = 0.0
        self.members: dict[str, float] = {}
        """Consumers that have announced themselves, and the time of their last announcement."""
        self.missing: frozenset[str] = frozenset()
        """Consumers whose registered connections did not exist when all connections were listed last."""
        self.dead: list[Dead] = []
        """Dead consumers that the last check found."""
        self.last = Check()
        """Result of the last check."""
        self._reference = Check()
        """Result of an earlier check, with which the last check is compared."""
        self.consumer_count = -1
        self._has_few_groups = True
        self.is_busy = False
        """True if consumers own pending entries."""
        self.has_postponed = False
        """True if entries are postponed, or if it is unknown whether entries are postponed."""
        self.has_searched = False
        """True if the last check searched for idle entries."""
        self._list_credit = 0
        self._checks_since_list, self._listed_at, self._searched_at = CHECKS_PER_LIST, 0.0, 0.0

    @property
    def suspected(self) -> set[str]:
        """Consumers that have been idle for `min_idle` in the last check, but not yet in two checks."""
        idle = {name for name, idle in self.last.silent.items() if idle >= self._min_idle}
        return (idle | self.last.stale) - {dead.name for dead in self.dead}

    @property
    def is_over_limit(self) -> bool:
        """True if the group has too many consumers to list them."""
        return self.consumer_count > MAX_CONSUMERS

    def has_seen(self, name: str) -> bool:
        """Return True if this observer has seen a registered connection of the consumer."""
        registration = Registration.parse(self._registrations.get(name, ""))
        return registration is not None and self._has_seen(registration)

    @property
    def now_seconds(self) -> float:
        """The server's time.

        The clock of the event loop stops while a virtual machine is suspended, and the server's clock may be set. Each
        announcement therefore measures the difference between the two clocks again."""
        return asyncio.get_running_loop().time() + self._clock_offset_seconds

    async def check(self) -> None:
        """Check the other consumers of the group. Every ANNOUNCE_INTERVAL, also announces this consumer, and reads all
        announcements.

        A consumer without an announcement in the last minute counts as absent. If all other consumers counted as
        absent, each consumer would check the group as often as if it were alone. Raises a ResponseError with the code
        NOGROUP if the group is missing.
        """
        now = asyncio.get_running_loop().time()
        self.dead, self.has_searched = [], False
        self._checks_since_list += 1
        must_announce = now - self._announced_at > liveness.ANNOUNCE_INTERVAL.total_seconds()
        if must_announce or not await self._is_idle(now):
            await self._check(now, must_announce=must_announce)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _is_idle(self, now: float) -> bool:
        """Return True if a single command shows that the group is idle and has the same consumers as before."""
        must_list = not self._has_few_groups or self._checks_since_list >= CHECKS_PER_LIST
        if self.is_busy or self.has_postponed or must_list:
            return False
        stream, group, _ = self._consumer_id
        try:
            lines = replies.array(await self._connection.execute("XINFO", "GROUPS", stream), "XINFO GROUPS")
        except ResponseError as error:
            if "no such key" in str(error):
                return False
            raise
        is_idle, self._has_few_groups = False, len(lines) <= MAX_PLAIN_GROUPS
        for info in (replies.to_dict(line, "XINFO GROUPS") for line in lines):
            if replies.name(info.get(b"name"), "XINFO GROUPS") != group:
                continue
            consumers, pending = (replies.count(info.get(key), "XINFO GROUPS") for key in (b"consumers", b"pending"))
            if consumers != self.consumer_count:
                self._version = UNKNOWN_VERSION
            is_idle = not pending and consumers == self.consumer_count
        if is_idle:
            self.last = self._reference = Check(at=now)
        return is_idle

    async def _check(self, now: float, *, must_announce: bool) -> None:
        connection_count = self._connection_count
        list_interval = max(MIN_LIST_SECONDS, LIST_SECONDS_PER_CONSUMER * len(self._registrations))
        if self._checks_since_list >= CHECKS_PER_LIST or now - self._listed_at > list_interval:
            self._version = UNKNOWN_VERSION
        has_changed = await self._read_state(now, must_announce=must_announce)
        if connection_count != self._connection_count:  # checks before the connection was lost prove nothing
            self._reference = Check(at=now)
        by_connections = await self._find_disconnected(list_all=has_changed)
        by_idle_time = self._find_expired(now)  # needs no run id, which a proxy may hide
        self.dead = [dead for dead in by_connections if dead.name not in by_idle_time]
        self.dead += [Dead(name, self._min_idle) for name in sorted(by_idle_time)]
        if has_changed:
            self._checks_since_list, self._listed_at = 0, now

    def _find_expired(self, now: float) -> set[str]:
        """Return the consumers that this check and an earlier check have found idle for `min_idle`."""
        reference, elapsed = self._reference, timedelta(seconds=now - self._reference.at)
        if elapsed < liveness.CONFIRMATION_DELAY:
            return set()
        self._reference = self.last
        names = liveness.expired(reference.silent, self.last.silent, elapsed, self._min_idle)
        return {*names, *(reference.stale & self.last.stale)}

    async def _read_state(self, now: float, *, must_announce: bool) -> bool:
        """Run the script that checks consumers. Returns True if the registrations have changed or may have changed."""
        self._list_credit = min(self._list_credit + LISTED_PER_CHECK, MAX_CONSUMERS)
        search_interval = self._min_idle.total_seconds() / SEARCHES_PER_MIN_IDLE
        self.has_searched = bool(self._reference.stale or self.last.stale) or now - self._searched_at > search_interval
        reply = await self._connection.execute(
            *("EVAL", CHECK, len(self._keys), *self._keys, self._consumer_id.group, self._consumer_id.consumer),
            replies.to_milliseconds(liveness.SILENCE_THRESHOLD),
            self._list_credit,
            self._version,
            replies.to_milliseconds(self._min_idle) if self.has_searched else "",
            int(must_announce),
        )
        length = 10 if isinstance(reply, list) and len(reply) == 10 else 8
        server_time, consumers, pending, postponed, is_listed, version, silent, stale, *hashes = replies.array(
            reply, _SUBJECT, length
        )
        self.consumer_count, pending, postponed, is_listed = (
            replies.count(each, _SUBJECT) for each in (consumers, pending, postponed, is_listed)
        )
        self._clock_offset_seconds = replies.count(server_time, _SUBJECT) / 1000 - asyncio.get_running_loop().time()
        if must_announce:
            self._announced_at = now
        if self.has_searched:
            self._searched_at = now
        if is_listed:
            self._list_credit = 0
        self.is_busy = pending > postponed
        self.has_postponed = bool(postponed)
        idle_times = dict(_idle_time(line) for line in replies.array(silent, _SUBJECT))
        stale_names = frozenset(replies.name(name, _SUBJECT) for name in replies.array(stale, _SUBJECT))
        self.last = Check(idle_times, stale_names, asyncio.get_running_loop().time())
        if not hashes:
            return False
        previous_version, self._version = self._version, replies.name(version, _SUBJECT)
        self._set_registrations(hashes[0])
        self.members = {name: float(seconds) for name, seconds in replies.numbers(hashes[1], _SUBJECT).items()}
        return self._version != previous_version

    def _set_registrations(self, flat: Any) -> None:
        self._registrations = {
            replies.name(name, _SUBJECT): replies.name(value, _SUBJECT)
            for name, value in replies.to_dict(flat, _SUBJECT).items()
            if name
        }
        own_name = self._consumer_id.consumer
        self._own.on_found(self._registrations.get(own_name, ""))

    async def _find_disconnected(self, *, list_all: bool) -> list[Dead]:
        """Return the silent consumers whose connections have ended. Lists connections only if `list_all` is True or a
        known consumer is silent."""
        registrations = {
            name: registration
            for name, text in self._registrations.items()
            if name != self._consumer_id.consumer and (registration := Registration.parse(text)) is not None
        }
        silent = {name for name in registrations if name in self.last.silent and self._has_seen(registrations[name])}
        identity, names = self._identity, registrations.keys() if list_all else silent
        if identity is None or not self._can_list or not names:
            return []
        ids = {identity.client_id, *(each for name in names for each in registrations[name].client_ids)}
        clients = await self._list_clients(ids)
        if self._identity is not identity:
            return []
        if list_all:
            self.missing = frozenset(
                name
                for name in names
                if registrations[name].is_listed and not liveness.is_connected(registrations[name], clients)
            )
        self._seen |= clients.items()
        dead = [
            Dead(name, liveness.SILENCE_THRESHOLD, self._registrations[name], identity.run_id)
            for name in sorted(silent)
            if liveness.is_disconnected(registrations[name], clients, identity, self._own.token)
        ]
        return dead if dead and await self._has_kept(identity) else []

    def _has_seen(self, registration: Registration) -> bool:
        return any((client_id, registration.token) in self._seen for client_id in registration.client_ids)

    async def _has_kept(self, identity: Identity) -> bool:
        """Return True if the observer still has the same connection to the server."""
        client_id = replies.count(await self._connection.execute("CLIENT", "ID"), "CLIENT ID")
        if client_id != identity.client_id and self._identity is identity:
            self._disable("a proxy changes the connections to the server")
        return client_id == identity.client_id

    async def _list_clients(self, ids: set[int]) -> dict[int, str]:
        """List connections. Returns no connections if this server does not permit the command."""
        try:
            return await list_clients(self._connection.execute, sorted(ids))
        except ResponseError as error:
            if is_temporary(error):
                raise
            self._disable(str(error))
            return {}

    async def _identify(self, connection: RawConnection) -> None:
        """Prepare a new connection. Observations over the previous connection no longer count."""
        self._seen.clear()
        self._connection_count += 1
        self._can_list = True
        identity = await identify(connection, self._own.token)
        self._own.set_identity("observer", identity)
        self._identity = identity if identity and identity.run_id else None
        if self._identity is None:
            self._disable("CLIENT ID, CLIENT SETNAME and the run id in INFO are not available")

    def _disable(self, problem: str) -> None:
        if not self._is_reported:
            log.warning(
                "connections of other consumers cannot be listed; entries of an ended process are claimed only after "
                "delivery.minIdle",
                extra={"error": problem},
            )
        self._can_list, self._is_reported = False, True


def _idle_time(line: Any) -> tuple[str, timedelta]:
    name, idle = replies.array(line, _SUBJECT, 2)
    milliseconds = min(replies.count(idle, _SUBJECT), MAX_IDLE_MILLISECONDS)
    return replies.name(name, _SUBJECT), timedelta(milliseconds=milliseconds)

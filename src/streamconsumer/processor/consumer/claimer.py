"""Claims entries of dead consumers, entries that are idle longer than `min_idle`, and postponed entries that are due.

One call claims at most one page of entries, because the processor takes only as many entries as it has free slots.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.heartbeat import HeartbeatThread
from streamconsumer.processor.consumer.liveness import ConsumerInfo
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.retention import StreamTrimmer
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from streamconsumer.redis_client.reply_limits import ReplyTooLarge
from streamconsumer.redis_client.scripts import FIND_GROUP, MAX_CONSUMERS

log = logging.getLogger(__name__)

CHECKS_PER_MEMBERS_REFRESH = 10
"""Number of liveness checks after which the registered consumers are read again, even if no consumer was added or
deleted."""

MAX_DELETED = 100
"""Maximum number of expired consumers that one liveness check deletes."""

TRIM_INTERVAL = timedelta(seconds=10)
"""Interval at which one consumer of the group trims the stream."""

MAX_IDLE_MILLISECONDS = 10**13
"""Maximum idle time in milliseconds. A greater number, which a server may report, could exceed the range of
`timedelta`."""

ClaimPage = Callable[[int], Awaitable[list[Entry]]]
"""Coroutine function that claims up to the given number of entries. A result with fewer entries means that no claimable
entries are left."""


class PendingClaimer:
    """Finds and claims pending entries for one consumer."""

    def __init__(self, consumer: RedisConsumer, metrics: Metrics, runtime: Runtime = DEFAULT_RUNTIME) -> None:
        self._consumer, self._metrics, self._runtime = consumer, metrics, runtime
        self._execute, self.min_idle = consumer.manager.execute, consumer.manager.min_idle
        self._stream, self._group, self._consumer_name = consumer.consumer_id
        self._consumer_infos: list[ConsumerInfo] = []
        self._is_over_limit = False
        """True if the group has more than MAX_CONSUMERS consumers, so that they are not listed."""
        self._counts_first = False
        """True if the number of consumers must be checked before they are listed."""
        self._trimmer = StreamTrimmer(self._execute, self._stream, self._group, consumer.manager.retention)
        self._trim_at_seconds = 0.0
        self._members: dict[str, float] = {}
        self._silent_members: Collection[str] = ()
        self._check_count = 0
        self._announce_at_seconds = 0.0
        self._clock_offset_seconds: float | None = None

    def start_heartbeat(
        self,
        *,
        in_flight_ids: Callable[[], list[str]],
        on_lost: Callable[[list[str]], None],
        is_alive: Callable[[], bool],
    ) -> Callable[[], Awaitable[None]]:
        """Start to renew the leases of the entries in flight. Returns a function that stops the renewal of leases.

        `on_lost` is called with the ids of entries that another consumer has claimed. No lease is renewed while
        `is_alive` returns False.
        """
        heartbeat = HeartbeatThread(
            self._consumer.manager,
            self._consumer.consumer_id,
            self._consumer.ack_buffer,
            in_flight_ids=in_flight_ids,
            on_lost=on_lost,
            is_alive=is_alive,
            is_receiving=lambda: self._consumer.is_receiving,
            start_thread=self._runtime.start_thread,
        )
        heartbeat.start()
        return heartbeat.stop

    @property
    def wakeup(self) -> asyncio.Event:
        """Event that is set when another consumer may have released entries."""
        return self._consumer.wakeup

    async def save_snapshot(self) -> None:
        """Save the state of the group, so that the group can be restored if it is deleted."""
        await self._consumer.snapshot.save()

    async def seconds_until_turn(self) -> float:
        """Return the time until this consumer's next liveness check."""
        now = await self._now_seconds()
        return liveness.seconds_until_turn(now, self._active_members(now), self._consumer_name)

    async def find_claimable(self) -> list[ClaimPage]:
        """Run this consumer's liveness check. Returns functions that claim the entries that the check found.

        The check finds entries of dead consumers, and postponed entries that are due. The check normally sends only one
        command if no consumer is silent and no entry is postponed.
        """
        now = await self._now_seconds()
        await self._refresh_members(now)
        claims: list[ClaimPage] = [partial(self._claim_from_dead, name) for name in await self._find_dead()]
        if self._has_postponed(self._consumer_infos):
            claims.append(self.claim_due)
        expired = liveness.expired_members(self._consumer_infos, self._members, self._consumer_name, now)
        for name in expired[:MAX_DELETED]:
            if await self._consumer.leases.delete_consumer(name):
                del self._members[name]
        await self._trim(now)
        return claims

    async def _refresh_members(self, now: float) -> None:
        """List the consumers of the group, and announce this consumer if its announcement is due.

        The registered consumers are read again if a consumer was added or deleted, and at every tenth check.
        """
        previous_names = {info.name for info in self._consumer_infos}
        self._consumer_infos = await self._list_consumers()
        if now > self._announce_at_seconds:
            await self._consumer.leases.announce(now)
            self._announce_at_seconds = now + liveness.ANNOUNCE_INTERVAL.total_seconds()
        names = {info.name for info in self._consumer_infos}
        if self._check_count % CHECKS_PER_MEMBERS_REFRESH == 0 or names != previous_names:
            self._members = await self._consumer.leases.members()
        self._check_count += 1

    def _active_members(self, now: float) -> list[str]:
        return liveness.active_members(self._members, self._silent_members, self._consumer_name, now)

    async def _now_seconds(self) -> float:
        """Return the server's time. Only the first call sends the command TIME; later calls use the stored clock
        offset."""
        loop = asyncio.get_running_loop()
        if self._clock_offset_seconds is None:
            now = replies.server_time_microseconds(await self._execute("TIME"))
            self._clock_offset_seconds = now / 1e6 - loop.time()
        return loop.time() + self._clock_offset_seconds

    async def _trim(self, now: float) -> None:
        """Trim the stream every `TRIM_INTERVAL`, if this consumer is the first active member."""
        if (
            not self._trimmer.is_enabled
            or now < self._trim_at_seconds
            or self._active_members(now)[0] != self._consumer_name
        ):
            return
        self._trim_at_seconds = now + TRIM_INTERVAL.total_seconds()
        with logging_redis_errors(
            "failed to trim the stream; retrying", f"stream {self._stream!r}, group {self._group!r}"
        ):
            self._metrics.trimmed += await self._trimmer.trim()

    async def find_idle(self) -> list[ClaimPage]:
        """Return functions that claim idle entries of any consumer. An entry counts as idle after `min_idle`.

        The functions also claim entries of this consumer that are no longer in flight.
        """
        consumers = await self._list_consumers()
        if self._has_postponed(consumers):
            await self._consumer.leases.repair_schedule(self.min_idle)
        names = [*self._members] if self._is_over_limit else [info.name for info in consumers if info.pending]
        return [partial(self._claim_idle, name) for name in names if name != POSTPONED_CONSUMER]

    async def _find_dead(self) -> list[str]:
        first_check = liveness.silent_consumers(self._consumer_infos, self._consumer_name)
        self._silent_members = first_check.keys() & self._members.keys()
        if not self._silent_members:
            return []
        await asyncio.sleep(liveness.CONFIRMATION_DELAY.total_seconds())
        second_check = liveness.silent_consumers(await self._list_consumers(), self._consumer_name)
        return [name for name in liveness.confirmed_dead(first_check, second_check) if name in self._silent_members]

    async def _claim_from_dead(self, name: str, count: int) -> list[Entry]:
        return self._mark_claimed_from(name, await self._claim_pending(name, count, liveness.SILENCE_THRESHOLD))

    async def _claim_idle(self, name: str, count: int) -> list[Entry]:
        return self._mark_claimed_from(name, await self._claim_pending(name, count, self.min_idle))

    def _mark_claimed_from(self, name: str, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            entry.claimed_from = name
        return self._consumer.mark_suspects(entries)

    async def _claim_pending(self, name: str, count: int, idle: timedelta) -> list[Entry]:
        with self._replay_on_error(), self._consumer.ack_buffer.acked_during() as acked_ids:
            page_size = min(count, self._consumer.read_size.max_count)
            page = await self._consumer.pending_entries.page(name, page_size, idle=idle)
            excluded = {*acked_ids, *self._consumer.in_flight_ids()}
            claimable = [pending for pending in page if pending.message_id not in excluded]
            claimed = await self._consumer.claim(claimable, idle)
        return self._count_claimed([entry for entry in claimed.entries if entry.message_id not in acked_ids])

    async def claim_due(self, count: int) -> list[Entry]:
        """Claim a page of postponed entries that are due."""
        with self._replay_on_error():
            claimed = await self._consumer.pending_entries.claim_due(min(count, self._consumer.read_size.max_count))
        self._consumer.record_claimed(claimed, count)
        return self._count_claimed(claimed.entries)

    @contextmanager
    def _replay_on_error(self) -> Iterator[None]:
        """Read this consumer's pending entries again after an error.

        Redis may have executed a claim although its reply was lost.
        """
        try:
            yield
        except BaseException:
            self._consumer.replay.request()
            raise

    def _count_claimed(self, entries: list[Entry]) -> list[Entry]:
        self._metrics.claimed += len(entries)
        return entries

    def _has_postponed(self, consumers: list[ConsumerInfo]) -> bool:
        """Return True if entries are postponed, or if this is unknown."""
        return self._is_over_limit or any(info.name == POSTPONED_CONSUMER and info.pending for info in consumers)

    async def _list_consumers(self) -> list[ConsumerInfo]:
        """Return the consumers of the group, or no consumers if the group has more than MAX_CONSUMERS.

        XINFO CONSUMERS always returns all consumers. After a reply that was too large or too late, the number of
        consumers is therefore checked first.
        """
        if self._counts_first and (count := await self._count_consumers()) > MAX_CONSUMERS:
            return self._skip_consumers(f"found {count} consumers")
        try:
            reply = await self._execute("XINFO", "CONSUMERS", self._stream, self._group)
        except ReplyTooLarge as error:
            return self._skip_consumers(str(error))
        except RedisTimeoutError:
            self._counts_first = True
            raise
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "no such key", "ERR no such key")):
                return []  # the next read gets the same error and recreates the group
            raise
        lines = replies.array(reply, "XINFO CONSUMERS")
        if len(lines) > MAX_CONSUMERS:
            return self._skip_consumers(f"found {len(lines)} consumers")
        self._counts_first = self._is_over_limit = False
        return [_parse_consumer(line) for line in lines]

    async def _count_consumers(self) -> int:
        group = await self._execute("EVAL", FIND_GROUP, 1, self._stream, self._group)
        return replies.count(replies.array(group, "XINFO GROUPS", 2)[1], "XINFO GROUPS") if group else 0

    def _skip_consumers(self, problem: str) -> list[ConsumerInfo]:
        """Return no consumers. Logs the first time that the group has too many consumers."""
        if not self._is_over_limit:
            log.error(
                "group has too many consumers; entries of dead pods are claimed only after delivery.minIdle, and "
                "entries of other programs' consumers stay pending; delete unused consumers with XGROUP DELCONSUMER",
                extra={"stream": self._stream, "group": self._group, "error": problem, "limit": MAX_CONSUMERS},
            )
        self._counts_first = self._is_over_limit = True
        return []


def _parse_consumer(line: Any) -> ConsumerInfo:
    fields = replies.to_dict(line, "XINFO CONSUMERS")
    name = replies.text(fields.get(b"name"), "XINFO CONSUMERS")
    pending, idle = (replies.count(fields.get(key), "XINFO CONSUMERS") for key in (b"pending", b"idle"))
    return ConsumerInfo(name, pending, timedelta(milliseconds=min(idle, MAX_IDLE_MILLISECONDS)))

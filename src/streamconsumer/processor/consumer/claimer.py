"""Claims entries of dead consumers, entries that are idle longer than `min_idle`, and postponed entries that are due.

One call claims at most one page of entries. The processor takes only as many entries as it has free slots, and the
liveness checks continue between two pages.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal, NamedTuple

from redis.exceptions import ResponseError

from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.blocking_reads import READ_TIMEOUT_MARGIN
from streamconsumer.processor.consumer.heartbeat import HeartbeatHooks, HeartbeatThread
from streamconsumer.processor.consumer.observer import Observer
from streamconsumer.processor.consumer.pending_entries import MAX_CLAIMED, Dead
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.retention import StreamTrimmer
from streamconsumer.processor.error_logging import logging_redis_errors
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.scripts import MAX_CONSUMERS

log = logging.getLogger(__name__)

MAX_DELETED = 100
"""Maximum number of expired consumers that one check of the group deletes."""

TRIM_INTERVAL = timedelta(seconds=10)
"""Interval at which one consumer of the group trims the stream."""


class ClaimedPage(NamedTuple):
    """Result of one claim."""

    entries: list[Entry]
    has_more: bool
    """True if entries may be left to claim. Entries may also be left after an empty page, because the page may have
    contained only trimmed entries."""


NOTHING_LEFT = ClaimedPage([], has_more=False)


@dataclass(frozen=True, slots=True)
class ClaimPage:
    """Work that a check has found. The work is done page by page, so that one kind of work does not delay the other
    kinds."""

    claim: Callable[[int], Awaitable[ClaimedPage]]
    """Function that claims up to the given number of entries."""
    kind: Literal["dead", "due", "upkeep"]
    """Kind of work: entries of a dead consumer, postponed entries that are due, or work that claims nothing."""


class PendingClaimer:
    """Finds and claims pending entries for one consumer."""

    def __init__(self, consumer: RedisConsumer, metrics: Metrics, runtime: Runtime = DEFAULT_RUNTIME) -> None:
        self._consumer, self._metrics, self._runtime = consumer, metrics, runtime
        self._execute, self.min_idle = consumer.manager.execute, consumer.manager.min_idle
        self._stream, self._group, self._consumer_name = consumer.consumer_id
        self._observer = Observer(consumer.manager, consumer.registration)
        self._is_over_limit = False
        """True if the group has too many consumers (more than MAX_CONSUMERS) to list them."""
        self._trimmer = StreamTrimmer(self._execute, self._stream, self._group, consumer.manager.retention)
        self._trim_at_seconds = 0.0
        self._known_missing: frozenset[str] = frozenset()
        """Consumers whose connections had ended in the previous check."""
        self._shared_dead: frozenset[str] = frozenset()
        """Dead consumers because of which this consumer has woken another consumer."""
        self._repair_after: str | None = None
        """Id after which the repair of the schedule continues. None if no repair is in progress."""

    def heartbeat(
        self,
        *,
        in_flight_ids: Callable[[], list[str]],
        on_lost: Callable[[list[str]], None],
        is_alive: Callable[[], bool],
        on_problem: Callable[[str], None],
    ) -> HeartbeatThread:
        """Return the thread that renews the leases of the entries in flight, see `HeartbeatHooks`."""
        consumer = self._consumer
        hooks = HeartbeatHooks(
            in_flight_ids=in_flight_ids,
            is_alive=is_alive,
            is_receiving=lambda: consumer.is_receiving,
            on_lost=on_lost,
            on_name_lost=consumer.on_name_lost,
            on_leases_valid=partial(setattr, consumer, "leases_valid_until"),
            on_problem=on_problem,
        )
        return HeartbeatThread(
            consumer.manager,
            consumer.registration,
            consumer.ack_buffer,
            hooks,
            metrics=self._metrics,
            runtime=self._runtime,
        )

    @property
    def wakeup(self) -> asyncio.Event:
        """Event that is set when another consumer may have released entries."""
        return self._consumer.wakeup

    @property
    def is_watching(self) -> bool:
        """True if the last check found that consumers own pending entries, so that checks follow each other quickly."""
        return self._observer.is_busy

    async def save_snapshot(self) -> bool:
        """Save the state of the group, so that the group can be restored if it is deleted. Returns False if the state
        was not saved, because a consumer saved an earlier state a moment ago."""
        return await self._consumer.snapshot.save()

    def seconds_until_turn(self) -> float:
        """Return the time until this consumer checks the group again."""
        now, observer = self._observer.now_seconds, self._observer
        is_busy = observer.is_busy or bool(self._consumer.in_flight_ids())
        turn = liveness.seconds_until_turn(now, self._active_members(now), self._consumer_name, is_busy=is_busy)
        return min(turn, liveness.seconds_until_expired(observer.last.silent, observer.suspected, self.min_idle))

    async def find_claimable(self) -> list[ClaimPage]:
        """Run this consumer's liveness check. Returns the work that the check found, the most urgent first.

        The check finds entries of dead consumers, entries that were idle for `min_idle`, and postponed entries that are
        due. The check sends only one command if no consumer is silent and no entry is postponed.
        """
        observer, seconds = self._observer, READ_TIMEOUT_MARGIN.total_seconds()
        no_reply = asyncio.get_running_loop().call_later(seconds, self._consumer.blocking_reads.on_no_reply)
        try:
            await observer.check()
        except ResponseError as error:
            if not classify_error(error, "").is_group_lost:
                raise
            self._consumer.blocking_reads.end()  # Redis 6.2 does not end the read; the next read recreates the group
            return []
        finally:
            no_reply.cancel()
        if self._consumer_name in observer.last.silent and not self._consumer.in_flight_ids():
            self._consumer.replay.request()  # a reply with entries was lost: the read waits on a dead connection
            self._consumer.blocking_reads.end_long()
        now = observer.now_seconds
        self._shared_dead &= {dead.name for dead in observer.dead}
        self._report_limit()
        await self._share_missing()
        pages = [ClaimPage(partial(self._claim_from_dead, dead), "dead") for dead in observer.dead]
        if observer.has_postponed:
            pages.append(ClaimPage(self.claim_due, "due"))
        if observer.has_postponed and observer.has_searched and self._repair_after is None:
            self._repair_after = ""
        if self._repair_after is not None:
            pages.append(ClaimPage(self._repair_schedule, "upkeep"))
        return [*pages, ClaimPage(partial(self._maintain, now), "upkeep")]

    async def _repair_schedule(self, _count: int) -> ClaimedPage:
        """Make postponed entries due if they have no due time, one page per call. Several checks can share the
        pages."""
        after = await self._consumer.leases.repair_schedule(self.min_idle, self._repair_after or "")
        self._repair_after = after or None
        return ClaimedPage([], has_more=bool(after))

    async def _maintain(self, now: float, _count: int) -> ClaimedPage:
        """Delete expired consumers and trim the stream."""
        await self._delete_expired(now)
        await self._trim(now)
        return NOTHING_LEFT

    async def _share_missing(self) -> None:
        """Wake another consumer if this check has found more consumers that have ended. Without the wake-up, the other
        consumer would still wait for the turns of these consumers."""
        known, self._known_missing = self._known_missing, self._observer.missing
        if self._observer.is_busy and self._known_missing - known:
            await self._consumer.registration.wake_peer(
                self._consumer.manager.execute_pipeline, self._runtime.random, absent=self._known_missing
            )

    async def share_dead(self) -> None:
        """Wake another consumer if the last check has found dead consumers for the first time. Must be called if this
        consumer has no room for their entries.

        Until the other consumer knows that they are dead, a consumer with a free slot waits for its turn."""
        known, self._shared_dead = self._shared_dead, frozenset(dead.name for dead in self._observer.dead)
        if self._shared_dead - known:
            await self._consumer.registration.wake_peer(
                self._consumer.manager.execute_pipeline, self._runtime.random, absent=self._shared_dead
            )

    async def _delete_expired(self, now: float) -> None:
        """Delete registered consumers that no longer announce themselves and own no pending entries."""
        members = self._observer.members
        for name in liveness.expired_members(members, self._consumer_name, now)[:MAX_DELETED]:
            del members[name]
            await self._consumer.leases.delete_consumer(name)

    def _active_members(self, now: float) -> list[str]:
        observer = self._observer
        absent = observer.missing | observer.last.silent.keys()
        return liveness.active_members(observer.members, absent, self._consumer_name, now)

    def _report_limit(self) -> None:
        """Log the first time that the group has too many consumers."""
        if self._observer.is_over_limit and not self._is_over_limit:
            log.error(
                "group has too many consumers; entries of other programs' consumers stay pending; delete unused "
                "consumers with XGROUP DELCONSUMER",
                extra={
                    "stream": self._stream,
                    "group": self._group,
                    "error": f"found {self._observer.consumer_count} consumers",
                    "limit": MAX_CONSUMERS,
                },
            )
        self._is_over_limit = self._observer.is_over_limit

    async def close(self) -> None:
        """Close the connections over which this consumer checks the group and claims entries, after all checks and
        claims have ended."""
        await self._observer.close()
        await self._consumer.bounded_reads.close()

    async def _trim(self, now: float) -> None:
        """Trim the stream every `TRIM_INTERVAL`, if this consumer is the first of the group's active consumers."""
        loop = asyncio.get_running_loop()
        if (
            not self._trimmer.is_enabled
            or loop.time() < self._trim_at_seconds
            or self._active_members(now)[0] != self._consumer_name
        ):
            return
        self._trim_at_seconds = loop.time() + TRIM_INTERVAL.total_seconds()
        with logging_redis_errors(
            "failed to trim the stream; retrying", f"stream {self._stream!r}, group {self._group!r}"
        ):
            self._metrics.trimmed += await self._trimmer.trim()

    async def _claim_from_dead(self, dead: Dead, count: int) -> ClaimedPage:
        with self._replay_on_error(), self._consumer.ack_buffer.acked_during() as acked_ids:
            page = await self._consumer.pending_entries.page(dead.name, MAX_CLAIMED, idle=dead.idle)
            excluded = {*acked_ids, *self._consumer.in_flight_ids()}
            claimable = [pending for pending in page if pending.message_id not in excluded]
            limit = min(count, self._consumer.read_size.max_count)
            claimed = await self._consumer.claim(claimable, dead, limit)
        entries = [entry for entry in claimed.entries if entry.message_id not in acked_ids]
        for entry in entries:
            entry.claimed_from = dead.name
        return self._to_page(self._consumer.mark_suspects(entries), bool(claimed.entries or claimed.trimmed))

    async def claim_due(self, count: int) -> ClaimedPage:
        """Claim postponed entries that are due."""
        with self._replay_on_error():
            limit = min(count, self._consumer.read_size.max_count)
            claimed = await self._consumer.pending_entries.claim_due(limit)
            self._consumer.record_claimed(claimed, count)
        return self._to_page(claimed.entries, bool(claimed.examined))

    def _to_page(self, entries: list[Entry], has_more: bool) -> ClaimedPage:
        """Count the claimed entries."""
        self._metrics.claimed += len(entries)
        return ClaimedPage(entries, has_more=has_more)

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

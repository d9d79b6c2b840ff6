"""Entries that are due here although nobody reads them: of dead consumers, of strangers that show no sign of life, and
those whose wait is over. Each is taken in portions, as there is room."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.heartbeat import HeartbeatThread
from streamconsumer.processor.consumer.liveness import ConsumerInfo
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.retention import StreamTrimmer
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

CHECKS_PER_MEMBERS_REFRESH = 10
"""After so many looks it is asked anew who is there, though nothing tells that somebody has come or gone."""

TRIM_INTERVAL = timedelta(seconds=10)

ClaimPage = Callable[[int], Awaitable[list[Entry]]]
"""Takes over at most so many entries; fewer: there are no more."""


class PendingClaimer:
    """What one consumer may take over."""

    def __init__(self, consumer: RedisConsumer, metrics: Metrics) -> None:
        self._consumer, self._metrics = consumer, metrics
        self._execute, self.min_idle = consumer.manager.execute, consumer.manager.min_idle
        self._stream, self._group, self._consumer_name = consumer.consumer_id
        self._consumer_infos: list[ConsumerInfo] = []
        self._trimmer = StreamTrimmer(self._execute, self._stream, self._group, consumer.manager.retention)
        self._trim_at_seconds = 0.0
        self._members: liveness.Members = {}
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
        """Begin to show signs of life for what is held; `lost` is told what belongs to another consumer by now."""
        heart = HeartbeatThread(
            self._consumer.manager,
            self._consumer.consumer_id,
            self._consumer.ack_buffer,
            in_flight_ids=in_flight_ids,
            on_lost=on_lost,
            is_alive=is_alive,
        )
        heart.start()
        return heart.stop

    @property
    def wakeup(self) -> asyncio.Event:
        """Set when somebody may have handed entries back."""
        return self._consumer.wakeup

    async def save_snapshot(self) -> None:
        """Write down what would be lost with the group."""
        await self._consumer.snapshot.save()

    async def seconds_until_turn(self) -> float:
        """Until this consumer looks again."""
        now = await self._now_seconds()
        return liveness.seconds_until_turn(now, self._active_members(now), self._consumer_name)

    async def find_claimable(self) -> list[ClaimPage]:
        """The watch's turn: one command, unless somebody is silent or something is postponed."""
        now = await self._now_seconds()
        await self._refresh_members(now)
        claims: list[ClaimPage] = [partial(self._claim_from_dead, name) for name in await self._find_dead()]
        if any(each.name == POSTPONED_CONSUMER and each.pending for each in self._consumer_infos):
            claims.append(self._claim_due)
        for name in liveness.expired_members(self._consumer_infos, self._members, self._consumer_name, now):
            await self._consumer.leases.delete_consumer(name)
        await self._trim(now)
        return claims

    async def _refresh_members(self, now: float) -> None:
        """Who is there is asked anew when names have come or gone, and now and then."""
        names = {each.name for each in self._consumer_infos}
        self._consumer_infos = await self._list_consumers()
        if now > self._announce_at_seconds:
            await self._consumer.leases.announce(now)
            self._announce_at_seconds = now + liveness.ANNOUNCE_INTERVAL.total_seconds()
        if self._check_count % CHECKS_PER_MEMBERS_REFRESH == 0 or names != {each.name for each in self._consumer_infos}:
            self._members = await self._consumer.leases.members()
        self._check_count += 1

    def _active_members(self, now: float) -> list[str]:
        return liveness.active_members(self._members, self._silent_members, self._consumer_name, now)

    async def _now_seconds(self) -> float:
        """The server's clock, asked once."""
        loop = asyncio.get_running_loop()
        if self._clock_offset_seconds is None:
            seconds, microseconds = await self._execute("TIME")
            self._clock_offset_seconds = int(seconds) + int(microseconds) / 1e6 - loop.time()
        return loop.time() + self._clock_offset_seconds

    async def _trim(self, now: float) -> None:
        """Enforce the retention, now and then: the first of the consumers does it for all."""
        if (
            not self._trimmer.is_enabled
            or now < self._trim_at_seconds
            or self._active_members(now)[0] != self._consumer_name
        ):
            return
        self._trim_at_seconds = now + TRIM_INTERVAL.total_seconds()
        self._metrics.trimmed += await self._trimmer.trim()

    async def find_idle(self) -> list[ClaimPage]:
        """Whatever shows no sign of life, of whomever; our own entries that went astray included."""
        consumers = await self._list_consumers()
        if any(each.name == POSTPONED_CONSUMER and each.pending for each in consumers):
            await self._consumer.leases.repair_schedule(self.min_idle)
        return [
            partial(self._claim_idle, each.name)
            for each in consumers
            if each.pending and each.name != POSTPONED_CONSUMER
        ]

    async def _find_dead(self) -> list[str]:
        before = liveness.silent_consumers(self._consumer_infos, self._consumer_name)
        self._silent_members = before.keys() & self._members.keys()
        if not self._silent_members:
            return []
        await asyncio.sleep(liveness.CONFIRMATION_DELAY.total_seconds())
        now = liveness.silent_consumers(await self._list_consumers(), self._consumer_name)
        return [name for name in liveness.confirmed_dead(before, now) if name in self._silent_members]

    async def _claim_from_dead(self, name: str, count: int) -> list[Entry]:
        return self._mark_claimed_from(name, await self._claim_pending(name, count, liveness.SILENCE_THRESHOLD))

    async def _claim_idle(self, name: str, count: int) -> list[Entry]:
        return self._mark_claimed_from(name, await self._claim_pending(name, count, self.min_idle))

    def _mark_claimed_from(self, name: str, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            entry.claimed_from = name
        return self._consumer.mark_suspects(entries)

    async def _claim_pending(self, name: str, count: int, idle: timedelta) -> list[Entry]:
        with self._replay_on_error(), self._consumer.ack_buffer.acked_during() as done:
            held = await self._consumer.pending_entries.page(name, min(count, self._consumer.max_count), idle=idle)
            known = {*done, *self._consumer.in_flight_ids()}
            entries = await self._consumer.claim([each for each in held if each.message_id not in known], idle)
        return self._count_claimed([entry for entry in entries if entry.message_id not in done])

    async def _claim_due(self, count: int) -> list[Entry]:
        with self._replay_on_error():
            trimmed, entries = await self._consumer.leases.claim_due(min(count, self._consumer.max_count))
        self._consumer.adapt_to_sizes(entries, count)
        self._metrics.lost_to_trimming += trimmed
        return self._count_claimed(entries)

    @contextmanager
    def _replay_on_error(self) -> Iterator[None]:
        """What is taken here may be ours already when the reply is lost."""
        try:
            yield
        except BaseException:
            self._consumer.request_replay()
            raise

    def _count_claimed(self, entries: list[Entry]) -> list[Entry]:
        self._metrics.claimed += len(entries)
        return entries

    async def _list_consumers(self) -> list[ConsumerInfo]:
        try:
            found = await self._execute("XINFO", "CONSUMERS", self._stream, self._group)
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "no such key", "ERR no such key")):
                return []  # whoever reads sees it too, and creates the group again
            raise
        return [_parse_consumer(replies.to_dict(each)) for each in found]


def _parse_consumer(line: dict[bytes, Any]) -> ConsumerInfo:
    return ConsumerInfo(line[b"name"].decode(), int(line[b"pending"]), timedelta(milliseconds=int(line[b"idle"])))

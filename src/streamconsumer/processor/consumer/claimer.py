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
from streamconsumer.processor.consumer.heartbeat import Heart
from streamconsumer.processor.consumer.liveness import Consumer
from streamconsumer.processor.consumer.redis_consumer import RedisIntake
from streamconsumer.processor.consumer.retention import Retention
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED

MEMBERS_EVERY = 10
"""After so many looks it is asked anew who is there, though nothing tells that somebody has come or gone."""

TRIM_EVERY = timedelta(seconds=10)

Claim = Callable[[int], Awaitable[list[Entry]]]
"""Takes over at most so many entries; fewer: there are no more."""


class Claims:
    """What one consumer may take over."""

    def __init__(self, intake: RedisIntake, metrics: Metrics) -> None:
        self._intake, self._metrics = intake, metrics
        self._ask, self.min_idle = intake.manager.ask, intake.manager.min_idle
        self._stream, self._group, self._me = intake.who
        self._consumers: list[Consumer] = []
        self._retention = Retention(self._ask, self._stream, self._group, intake.manager.retention)
        self._trim_at_seconds = 0.0
        self._members: liveness.Members = {}
        self._silent: Collection[str] = ()
        self._looks = 0
        self._present_at_seconds = 0.0
        self._clock_offset_seconds: float | None = None

    def show_life(
        self, *, held: Callable[[], list[str]], lost: Callable[[list[str]], None], alive: Callable[[], bool]
    ) -> Callable[[], Awaitable[None]]:
        """Begin to show signs of life for what is held; `lost` is told what belongs to another consumer by now."""
        heart = Heart(self._intake.manager, self._intake.who, self._intake.acks, held=held, lost=lost, alive=alive)
        heart.start()
        return heart.stop

    @property
    def woken(self) -> asyncio.Event:
        """Set when somebody may have handed entries back."""
        return self._intake.woken

    async def note(self) -> None:
        """Write down what would be lost with the group."""
        await self._intake.last_known.note()

    async def seconds_to_turn(self) -> float:
        """Until this consumer looks again."""
        now = await self._now_seconds()
        return liveness.seconds_to_turn(now, self._order(now), self._me)

    async def look(self) -> list[Claim]:
        """The watch's turn: one command, unless somebody is silent or something is postponed."""
        now = await self._now_seconds()
        await self._look_around(now)
        claims: list[Claim] = [partial(self._take_over, name) for name in await self._dead()]
        if any(each.name == POSTPONED and each.pending for each in self._consumers):
            claims.append(self._take_due)
        for name in liveness.gone(self._consumers, self._members, self._me, now):
            await self._intake.ownership.leave(name)
        await self._trim(now)
        return claims

    async def _look_around(self, now: float) -> None:
        """Who is there is asked anew when names have come or gone, and now and then."""
        names = {each.name for each in self._consumers}
        self._consumers = await self._inspect()
        if now > self._present_at_seconds:
            await self._intake.ownership.be_present(now)
            self._present_at_seconds = now + liveness.PRESENT_EVERY.total_seconds()
        if self._looks % MEMBERS_EVERY == 0 or names != {each.name for each in self._consumers}:
            self._members = await self._intake.ownership.members()
        self._looks += 1

    def _order(self, now: float) -> list[str]:
        return liveness.there(self._members, self._silent, self._me, now)

    async def _now_seconds(self) -> float:
        """The server's clock, asked once."""
        loop = asyncio.get_running_loop()
        if self._clock_offset_seconds is None:
            seconds, microseconds = await self._ask("TIME")
            self._clock_offset_seconds = int(seconds) + int(microseconds) / 1e6 - loop.time()
        return loop.time() + self._clock_offset_seconds

    async def _trim(self, now: float) -> None:
        """Enforce the retention, now and then: the first of the consumers does it for all."""
        if not self._retention.is_wanted or now < self._trim_at_seconds or self._order(now)[0] != self._me:
            return
        self._trim_at_seconds = now + TRIM_EVERY.total_seconds()
        self._metrics.trimmed += await self._retention.enforce()

    async def sweep(self) -> list[Claim]:
        """Whatever shows no sign of life, of whomever; our own entries that went astray included."""
        consumers = await self._inspect()
        if any(each.name == POSTPONED and each.pending for each in consumers):
            await self._intake.ownership.adopt(self.min_idle)
        return [partial(self._take_idle, each.name) for each in consumers if each.pending and each.name != POSTPONED]

    async def _dead(self) -> list[str]:
        before = liveness.silent(self._consumers, self._me)
        self._silent = before.keys() & self._members.keys()
        if not self._silent:
            return []
        await asyncio.sleep(liveness.PROOF.total_seconds())
        now = liveness.silent(await self._inspect(), self._me)
        return [name for name in liveness.proven(before, now) if name in self._silent]

    async def _take_over(self, name: str, count: int) -> list[Entry]:
        return self._taken_from(name, await self._take(name, count, liveness.SILENCE))

    async def _take_idle(self, name: str, count: int) -> list[Entry]:
        return self._taken_from(name, await self._take(name, count, self.min_idle))

    def _taken_from(self, name: str, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            entry.claimed_from = name
        return self._intake.suspected(entries)

    async def _take(self, name: str, count: int, idle: timedelta) -> list[Entry]:
        with self._or_replay(), self._intake.acks.done() as done:
            held = await self._intake.pending.page(name, min(count, self._intake.most), idle=idle)
            known = {*done, *self._intake.held()}
            entries = await self._intake.take([each for each in held if each.message_id not in known], idle)
        return self._claimed([entry for entry in entries if entry.message_id not in done])

    async def _take_due(self, count: int) -> list[Entry]:
        with self._or_replay():
            trimmed, entries = await self._intake.ownership.due(min(count, self._intake.most))
        self._intake.weigh(entries, count)
        self._metrics.lost_to_trimming += trimmed
        return self._claimed(entries)

    @contextmanager
    def _or_replay(self) -> Iterator[None]:
        """What is taken here may be ours already when the reply is lost."""
        try:
            yield
        except BaseException:
            self._intake.replay()
            raise

    def _claimed(self, entries: list[Entry]) -> list[Entry]:
        self._metrics.claimed += len(entries)
        return entries

    async def _inspect(self) -> list[Consumer]:
        try:
            found = await self._ask("XINFO", "CONSUMERS", self._stream, self._group)
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "no such key", "ERR no such key")):
                return []  # whoever reads sees it too, and creates the group again
            raise
        return [_consumer(replies.pairs(each)) for each in found]


def _consumer(line: dict[bytes, Any]) -> Consumer:
    return Consumer(line[b"name"].decode(), int(line[b"pending"]), timedelta(milliseconds=int(line[b"idle"])))

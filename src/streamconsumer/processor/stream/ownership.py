"""Whose an entry is, and what is done about it: in one step by Lua, or in two where the ACL forbids EVAL.

Two steps are weaker: an entry that changes hands between the question and the act is taken back from its new owner,
and then runs in two places. It needs a peer's claim within that round trip, of an entry that was just renewed.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError

from streamconsumer.processor.message import Entry
from streamconsumer.processor.stream import replies, scripts
from streamconsumer.processor.stream.one_step import Ask, OneStep
from streamconsumer.server.keys import POSTPONED, SPANS_DROPPED, companion
from streamconsumer.server.scripts import LEAVE


class Ownership:
    """What one consumer may do with entries only while they are its own."""

    def __init__(self, ask: Ask, stream: str, group: str, consumer: str) -> None:
        self._ask, self._stream, self._group, self._consumer = ask, stream, group, consumer
        self._schedule = companion(stream, group, "postponed")
        self._consumers = companion(stream, group, "consumers")
        self._spans_dropped = companion(stream, group, SPANS_DROPPED)
        self._may_use_schedule = True
        self._one_step = OneStep(ask, "owners are checked")

    async def enter(self) -> None:
        """Be known as one of ours: peers then take this consumer for dead within seconds of its last sign of life. A
        server that is out of memory refuses: then they wait `min_idle`, as for any stranger."""
        with suppress(ResponseError):
            await self._ask("XGROUP", "CREATECONSUMER", self._stream, self._group, self._consumer)
            await self.be_present(await self.now_milliseconds() / 1000)

    async def be_present(self, now_seconds: float) -> None:
        """Say that this consumer is there; by the server's clock. A server that is out of memory refuses to hear it:
        then the others take it for absent, and look more often than they need to."""
        with suppress(OutOfMemoryError):
            await self._ask("HSET", self._consumers, self._consumer, round(now_seconds))

    async def tell_dropped(self, spans: int) -> None:
        """Say how many spans this consumer has dropped, to the operator. A server that is out of memory or an ACL may
        refuse to hear it: then it stands in the figures alone."""
        with suppress(ResponseError):
            await self._ask("HSET", self._spans_dropped, self._consumer, spans)

    async def members(self) -> dict[str, float]:
        """Consumers of ours, and when they last said that they are there."""
        flat = await self._ask("HGETALL", self._consumers)
        return {name.decode(): float(seen) for name, seen in replies.pairs(flat).items()}

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """A sign of life for those that are not another consumer's. Returns those that are."""
        in_order = sorted(message_ids, key=replies.order)
        if (lost := await self._renew_in_one_step(in_order)) is not None:
            return [each.decode() for each in lost]
        held = await self._held(message_ids)
        others = [each for each in message_ids if each not in held and await self._is_pending(each)]
        await self._own([each for each in message_ids if each not in others])
        return others

    async def _renew_in_one_step(self, in_order: Sequence[str]) -> Any | None:
        """Who may not use the keys beside the stream is not asked for them again."""
        if self._may_use_schedule:
            with suppress(NoPermissionError):
                return await self._evaluate(scripts.RENEW, [self._schedule], *in_order)
            self._may_use_schedule = False
        return await self._evaluate(scripts.RENEW, [], *in_order)

    async def begin(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it is trimmed, and settled."""
        begun = await self._evaluate(scripts.BEGIN, [], message_id, deliveries)
        if begun is not None:
            return int(begun)
        if not await self._held([message_id]) and await self._is_pending(message_id):
            return 0
        if not await self._ask("XRANGE", self._stream, message_id, message_id):
            await self._ask("XACK", self._stream, self._group, message_id)
            return -1
        await self._claim(self._consumer, message_id, "RETRYCOUNT", deliveries, "FORCE", "JUSTID")
        return 1

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries (id, deliveries) were begun."""
        flat = [part for each in entries for part in each]
        if await self._evaluate(scripts.RECOUNT, [], *flat) is not None:
            return
        for message_id, deliveries in entries:
            if await self._held([message_id]):
                await self._claim(self._consumer, message_id, "RETRYCOUNT", deliveries, "JUSTID")

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries, delay) be due for any consumer after their delays."""
        flat = [part for each in entries for part in (each[0], each[1], replies.milliseconds(each[2]))]
        if await self._evaluate(scripts.POSTPONE, [self._schedule], POSTPONED, *flat) is not None:
            return
        for message_id, deliveries, delay in entries:
            if await self._held([message_id]):
                due = await self.now_milliseconds() + replies.milliseconds(delay)
                await self._ask("ZADD", self._schedule, due, message_id)
                await self._claim(POSTPONED, message_id, "RETRYCOUNT", deliveries, "JUSTID")

    async def due(self, count: int) -> tuple[int, list[Entry]]:
        """Take postponed entries that are due. How many were trimmed, and the entries."""
        found = await self._evaluate(scripts.DUE, [self._schedule], POSTPONED, count)
        if found is not None:
            return int(found[0]), [replies.redelivered(each[0], each[1], int(each[2])) for each in found[1]]
        entries = []
        now = await self.now_milliseconds()
        for each in await self._ask("ZRANGEBYSCORE", self._schedule, 0, now, "LIMIT", 0, count):
            message_id = each.decode()
            if not await self._ask("ZREM", self._schedule, message_id):
                continue  # a peer was faster
            [held] = await self._pending_range(message_id) or [None]
            if held is None or held[1] == POSTPONED.encode():
                count = int(held[3]) if held else 0
                claimed = await self._claim(self._consumer, message_id, "RETRYCOUNT", count, "FORCE")
                entries += [replies.redelivered(each, found[1], count) for found in claimed if found]
        return 0, entries

    async def adopt(self, idle: timedelta) -> None:
        """Postponed entries whose due time was lost, or that somebody died over who was about to take them, are due."""
        milliseconds = replies.milliseconds(idle)
        if await self._evaluate(scripts.ADOPT, [self._schedule], POSTPONED, milliseconds) is not None:
            return
        silent = ("XPENDING", self._stream, self._group, "IDLE", milliseconds, "-", "+", 100, POSTPONED)
        for message_id, *_ in await self._ask(*silent):
            if await self._ask("ZSCORE", self._schedule, message_id) is None:
                await self._ask("ZADD", self._schedule, 0, message_id)

    async def leave(self, consumer: str | None = None) -> bool:
        """Delete this or another consumer if nothing is pending with it. In two steps that could delete what comes in
        between, so then its name stays behind."""
        name = self._consumer if consumer is None else consumer
        keys = [self._consumers, companion(self._stream, self._group, "readers"), self._spans_dropped]
        return await self._evaluate(LEAVE, keys, consumer=name) not in (None, -1)

    async def _evaluate(self, script: str, keys: list[str], *arguments: Any, consumer: str = "") -> Any | None:
        """The script's reply; None where scripts are forbidden."""
        who = (self._group, consumer or self._consumer)
        return await self._one_step.run(script, [self._stream, *keys], *who, *arguments)

    async def _held(self, message_ids: Sequence[str]) -> dict[str, int]:
        """Those of these that are this consumer's, and how often each was delivered."""
        held: dict[str, int] = {}
        for message_id in message_ids:
            for each in await self._pending_range(message_id, self._consumer):
                held[message_id] = int(each[3])
        return held

    async def _is_pending(self, message_id: str) -> bool:
        return bool(await self._pending_range(message_id))

    async def _pending_range(self, message_id: str, *consumer: str) -> list[Any]:
        found: list[Any] = await self._ask("XPENDING", self._stream, self._group, message_id, message_id, 1, *consumer)
        return found

    async def _claim(self, consumer: str, message_id: str, *options: Any) -> list[Any]:
        claim = ("XCLAIM", self._stream, self._group, consumer, 0, message_id, *options)
        claimed: list[Any] = await self._ask(*claim)
        return claimed

    async def _own(self, message_ids: Sequence[str]) -> None:
        if message_ids:
            claim = ("XCLAIM", self._stream, self._group, self._consumer, 0, *message_ids, "FORCE", "JUSTID")
            await self._ask(*claim)

    async def now_milliseconds(self) -> int:
        """By the server's clock."""
        seconds, microseconds = await self._ask("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

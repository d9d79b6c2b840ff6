"""Entry ownership: renewing, counting, postponing and taking entries, each as one Lua script."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import OutOfMemoryError

from streamconsumer.processor.message import Entry
from streamconsumer.processor.stream import replies, scripts
from streamconsumer.processor.stream.manager import Ask
from streamconsumer.server.keys import POSTPONED, companion
from streamconsumer.server.scripts import LEAVE


class Ownership:
    """What one consumer may do with entries only while they are its own."""

    def __init__(self, ask: Ask, stream: str, group: str, consumer: str) -> None:
        self._ask, self._stream, self._group, self._consumer = ask, stream, group, consumer
        self._schedule = companion(stream, group, "postponed")
        self._consumers = companion(stream, group, "consumers")

    async def enter(self) -> None:
        """Be known as one of ours: peers then take this consumer for dead within seconds of its last sign of life. A
        server that is out of memory refuses: then they wait `min_idle`, as for any stranger."""
        with suppress(OutOfMemoryError):
            await self._ask("XGROUP", "CREATECONSUMER", self._stream, self._group, self._consumer)
            await self.be_present(await self.now_milliseconds() / 1000)

    async def be_present(self, now_seconds: float) -> None:
        """Say that this consumer is there; by the server's clock. A server that is out of memory refuses to hear it:
        then the others take it for absent, and look more often than they need to."""
        with suppress(OutOfMemoryError):
            await self._ask("HSET", self._consumers, self._consumer, round(now_seconds))

    async def members(self) -> dict[str, float]:
        """Consumers of ours, and when they last said that they are there."""
        flat = await self._ask("HGETALL", self._consumers)
        return {name.decode(): float(seen) for name, seen in replies.pairs(flat).items()}

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """A sign of life for those that are not another consumer's. Returns those that are."""
        in_order = sorted(message_ids, key=replies.order)
        return [each.decode() for each in await self._evaluate(scripts.RENEW, [self._schedule], *in_order)]

    async def begin(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it is trimmed, and settled."""
        return int(await self._evaluate(scripts.BEGIN, [], message_id, deliveries))

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries (id, deliveries) were begun."""
        flat = [part for each in entries for part in each]
        await self._evaluate(scripts.RECOUNT, [], *flat)

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries, delay) be due for any consumer after their delays."""
        flat = [part for each in entries for part in (each[0], each[1], replies.milliseconds(each[2]))]
        await self._evaluate(scripts.POSTPONE, [self._schedule], POSTPONED, *flat)

    async def due(self, count: int) -> tuple[int, list[Entry]]:
        """Take postponed entries that are due. How many were trimmed, and the entries."""
        trimmed, found = await self._evaluate(scripts.DUE, [self._schedule], POSTPONED, count)
        return int(trimmed), [replies.redelivered(each[0], each[1], int(each[2])) for each in found]

    async def adopt(self, idle: timedelta) -> None:
        """Postponed entries whose due time was lost, or that somebody died over who was about to take them, are due."""
        await self._evaluate(scripts.ADOPT, [self._schedule], POSTPONED, replies.milliseconds(idle))

    async def leave(self, consumer: str | None = None) -> bool:
        """Delete this or another consumer if nothing is pending with it."""
        name = self._consumer if consumer is None else consumer
        keys = [self._consumers, companion(self._stream, self._group, "readers")]
        return int(await self._evaluate(LEAVE, keys, consumer=name)) >= 0

    async def _evaluate(self, script: str, keys: list[str], *arguments: Any, consumer: str = "") -> Any:
        who = (self._group, consumer or self._consumer)
        return await self._ask("EVAL", script, 1 + len(keys), self._stream, *keys, *who, *arguments)

    async def now_milliseconds(self) -> int:
        """By the server's clock."""
        seconds, microseconds = await self._ask("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

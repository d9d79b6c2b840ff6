"""Trimming a stream without taking from a group what it has not acknowledged.

Redis trims blindly: XTRIM asks no group. So we look first, and trim by id, because ids stay true while we look:

- XINFO GROUPS before XPENDING. What is read in between is pending, and lies behind the position that was seen. The
  other way round it would be in neither answer.
- From then on entries are only added (with greater ids) and acknowledged: what was safe to trim stays so.
- But a group that is destroyed and created again where it was has lost what was pending, until its consumers put it
  back. An id is therefore safe only when it was so at two looks in a row; and while our own group is gone, none is.

What remains: a group that another program creates at 0, or sets back with XGROUP SETID, just while we trim does not get
what went. A stream's trimming never was its reader's promise.

What a look costs, every time: XINFO GROUPS, an XPENDING a group, TIME for an age. XTRIM by exact id takes 4 ms for a
million entries (measured, Redis 7.0 and Valkey 9.1). A length is dearer: only reading entries tells which one is the
n-th, so those that are to go, or those that are to stay if they are fewer, are read once more, about a megabyte at a
time and at most WALK times ROUNDS each time: 0.3 ms of the server for a thousand entries.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.exceptions import ResponseError

from streamconsumer.model import settings
from streamconsumer.processor.stream import replies

Ask = Callable[..., Awaitable[Any]]
Id = tuple[int, int]
"""An entry's id as numbers. That of an entry in a group or a trimming is always the least one that stays."""

NOTHING: Id = (0, 0)
"""Below this there is no entry: nothing is safe to trim."""

PAGE = 1000
PAGE_BYTES = 1_000_000
"""So many entries are asked for at a time at most, and about so many bytes."""

WALK, ROUNDS = 10_000, 20
"""So many entries are counted between two XTRIMs for a length, so many times in one go."""

LOSSES = 10_000
"""So many pending entries are lost, and counted one by one, in one go; the others the next time."""


@dataclass(frozen=True)
class Trimmed:
    """What went: `lost` are those of `count` that a group had not acknowledged or not even read."""

    count: int = 0
    lost: int = 0

    def __add__(self, other: "Trimmed") -> "Trimmed":
        return Trimmed(self.count + other.count, self.lost + other.lost)


# -- deciding --------------------------------------------------------------------------------------------------------


def safe_minimum(positions: Mapping[bytes, Id], pending: Mapping[bytes, Id]) -> Id:
    """The id below which every group has acknowledged everything: `positions` are the ids that the groups were given
    last, `pending` the smallest ids that they have not acknowledged. Without any group nothing is safe: one that was
    just destroyed and will be created again would find nothing."""
    return min(
        (min(after(position), pending.get(group, after(position))) for group, position in positions.items()),
        default=NOTHING,
    )


def cut(wanted: settings.Retention, safe: Id, *, by_age: Id | None, by_length: Id | None) -> Id:
    """The id below which entries go: the greatest that anything asks for, and never beyond what is safe unless loss
    is allowed."""
    asked = max(by_age or NOTHING, by_length or NOTHING)
    bound = asked if wanted.allow_loss else min(asked, safe)
    return max(bound, safe) if wanted.acknowledged else bound


def oldest_by_age(now_milliseconds: int, max_age: timedelta) -> Id:
    """The first id that is not older than that. Ids begin with the server's time, unless producers choose their own."""
    return max(0, now_milliseconds - replies.milliseconds(max_age)), 0


def after(message_id: Id) -> Id:
    """The next id there can be."""
    milliseconds, sequence = message_id
    return (milliseconds, sequence + 1) if sequence < 2**64 - 1 else (milliseconds + 1, 0)


def text(message_id: Id) -> str:
    return f"{message_id[0]}-{message_id[1]}"


def order(message_id: bytes) -> Id:
    return replies.order(message_id.decode())


# -- doing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the groups have read and acknowledged."""

    positions: Mapping[bytes, Id]
    safe: Id

    @property
    def slowest(self) -> Id:
        """From here on at least one group has read nothing."""
        return after(min(self.positions.values()))


class Retention:
    """Trims one stream as a StreamConsumer asks for. One pod a group calls `enforce` every few seconds; several that
    do it at the same time do no harm. For the first look of each nothing is safe yet."""

    def __init__(self, ask: Ask, stream: str, group: str, wanted: settings.Retention) -> None:
        self._ask, self._stream, self._group, self._wanted = ask, stream, group.encode(), wanted
        self._safe_before = NOTHING
        self._done = Trimmed()

    @property
    def is_wanted(self) -> bool:
        return self._wanted.acknowledged or self._wanted.max_age is not None or self._wanted.max_length is not None

    async def enforce(self) -> Trimmed:
        """Look, and trim what may go. Raises what Redis raises; what went until then is told the next time."""
        if self.is_wanted:
            look = await self._look()
            there = look is not None and self._group in look.positions
            before, self._safe_before = self._safe_before, look.safe if look and there else NOTHING
            if look and there:
                await self._enforce(look, min(look.safe, before))
        done, self._done = self._done, Trimmed()
        return done

    async def _enforce(self, look: Look, safe: Id) -> None:
        by_age = await self._by_age()
        for _ in range(ROUNDS):
            by_length, is_all = await self._by_length(safe)
            await self._trim(look, cut(self._wanted, safe, by_age=by_age, by_length=by_length))
            if is_all:
                break

    async def _look(self) -> Look | None:
        """None where the stream or a group is not there (any more)."""
        try:
            groups = [replies.pairs(each) for each in await self._ask("XINFO", "GROUPS", self._stream)]
            positions = {each[b"name"]: order(each[b"last-delivered-id"]) for each in groups}
            pending = {name: await self._ask("XPENDING", self._stream, name) for name in positions}
        except ResponseError as error:
            if "no such key" in str(error) or str(error).startswith("NOGROUP"):
                return None
            raise
        smallest = {name: order(summary[1]) for name, summary in pending.items() if summary[0]}
        return Look(positions, safe_minimum(positions, smallest))

    async def _by_age(self) -> Id | None:
        """By the server's clock, which made the ids."""
        if self._wanted.max_age is None:
            return None
        seconds, microseconds = map(int, await self._ask("TIME"))
        return oldest_by_age(seconds * 1000 + microseconds // 1000, self._wanted.max_age)

    # -- the n-th entry ------------------------------------------------------------------------------------------

    async def _by_length(self, safe: Id) -> tuple[Id | None, bool]:
        """Where to cut for the length, and whether that is all there is to cut."""
        most = self._wanted.max_length
        excess = int(await self._ask("XLEN", self._stream)) - most if most else 0
        if most is None or excess <= 0:
            return None, True
        if most <= min(excess, WALK):
            newest = await self._count("XREVRANGE", "+", "-", most)
            return (order(newest[-1]) if len(newest) == most else None), True
        bound = "+" if self._wanted.allow_loss else f"({text(safe)}"
        if bound == f"({text(NOTHING)}":
            return None, True
        oldest = await self._count("XRANGE", "-", bound, min(excess, WALK))
        # Asked again: whatever went in the meantime, by a peer or a producer, goes only once.
        goes = min(len(oldest), int(await self._ask("XLEN", self._stream)) - most)
        return (after(order(oldest[goes - 1])) if goes > 0 else None), goes < WALK

    async def _count(self, command: str, begin: str, end: str, count: int) -> list[bytes]:
        """The ids of so many entries, in pages that begin small, because entries may be large."""
        found: list[bytes] = []
        page = 1
        while len(found) < count:
            entries = await self._ask(command, self._stream, begin, end, "COUNT", min(page, count - len(found)))
            if not entries:
                break
            found += [message_id for message_id, _ in entries]
            begin = f"({found[-1].decode()}"
            size = sum([sum(map(len, fields)) for _, fields in entries]) / len(entries)
            page = max(1, min(10 * page, PAGE, int(PAGE_BYTES / (size + 1))))
        return found

    # -- trimming ------------------------------------------------------------------------------------------------

    async def _trim(self, look: Look, end: Id) -> None:
        """Trim what lies below `end`, and count what a group loses by it: step by step, because XTRIM says how many
        went, however many others add, acknowledge or trim meanwhile."""
        await self._trim_below(min(end, look.safe))
        if end <= look.safe:
            return
        lost = await self._pending_below(look.positions, min(end, look.slowest))
        if len(lost) > LOSSES:
            end = lost[LOSSES]
        for message_id in lost[:LOSSES]:
            await self._trim_below(message_id)
            await self._trim_below(after(message_id), is_lost=True)
        await self._trim_below(min(end, look.slowest))
        await self._trim_below(end, is_lost=True)

    async def _trim_below(self, end: Id, *, is_lost: bool = False) -> None:
        if end > NOTHING:
            count = int(await self._ask("XTRIM", self._stream, "MINID", "=", text(end)))
            self._done += Trimmed(count, count if is_lost else 0)

    async def _pending_below(self, groups: Iterable[bytes], end: Id) -> list[Id]:
        """What groups have read and not acknowledged below that id, the smallest first, at least LOSSES of them and
        one more if there are so many. What was lost before is still pending until its consumer looks for it, and would
        be in the way."""
        found: set[Id] = set()
        first = await self._ask("XRANGE", self._stream, "-", "+", "COUNT", 1)
        for group in groups if first else ():
            begin, of_group = first[0][0].decode(), 0
            while of_group <= LOSSES:
                question = ("XPENDING", self._stream, group, begin, f"({text(end)}", PAGE)
                page = [order(each[0]) for each in await self._ask(*question)]
                found.update(page)
                of_group += len(page)
                if len(page) < PAGE:
                    break
                begin = f"({text(page[-1])}"
        return sorted(found)

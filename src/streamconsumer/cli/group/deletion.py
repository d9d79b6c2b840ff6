"""Deletes a consumer group and its companion keys, unless a consumer of the group is alive.

One Lua script checks and deletes, so that no consumer starts to read between the check and the deletion.

A consumer is alive in two cases:

- It is registered in the `consumers` companion key and its registration is recent. This covers pods that wait for
  entries: Redis before 7.2 does not update `idle` when a read returns no entry.
- Its `idle` is less than `minIdle`. This covers consumers of other programs. `idle` is the time since the last attempt
  to read or claim on Redis 7.2 and Valkey, and since the last successful one before. `inactive`, which Redis 7.2 added,
  is always the latter, and would count a reader that waits for entries as gone.

No server reports a reader of another program that has been blocked in one XREADGROUP for longer than `minIdle`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamconsumer.cli.target import Target
from streamconsumer.errors import GroupKept, ServerUnavailable
from streamconsumer.model.settings import Delivery
from streamconsumer.model.status import StreamFigures, StreamReason
from streamconsumer.operator.streams.sight import Place, of_fault, questions, sight
from streamconsumer.processor.stream.watch import ABSENT
from streamconsumer.server.access import as_written
from streamconsumer.server.faults import Fault
from streamconsumer.server.keys import COMPANIONS, POSTPONED, companion
from streamconsumer.server.line import Line, Question
from streamconsumer.server.replies import milliseconds

DELETE = """
local stream, group, postponed, act = KEYS[1], ARGV[1], ARGV[2], ARGV[5] == 'delete'
local absent, min_idle = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(redis.call('TIME')[1])
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
local exists = not consumers.err
if not exists then
  local words = consumers.err:gsub('^@user_script: ?%d+: %-?', '')  -- 6.2 begins each error with it
  if words:find('^NOGROUP') == nil and words:find('^ERR no such key') == nil then return {err = words} end
  consumers = {}
end
local registered, alive, count = {}, {}, 0
local members = redis.call('HGETALL', KEYS[2])
for i = 1, #members, 2 do
  local age = now - (tonumber(members[i + 1]) or now)
  if not (age >= absent) then
    registered[members[i]] = true
    alive[#alive + 1] = {members[i], 'registered', math.max(0, age)}
  end
end
for _, each in ipairs(consumers) do
  local consumer = {}
  for i = 1, #each, 2 do consumer[each[i]] = each[i + 1] end
  if consumer.name ~= postponed then
    count = count + 1
    if consumer.idle < min_idle and not registered[consumer.name] then
      alive[#alive + 1] = {consumer.name, 'active', math.floor(consumer.idle / 1000)}
    end
  end
end
local keys = 0
if not act then
  keys = redis.call('EXISTS', unpack(KEYS, 2))
elseif #alive == 0 then
  keys = redis.call('UNLINK', KEYS[2])  -- holds only dead consumers; a missing right shows here
  if exists then redis.call('XGROUP', 'DESTROY', stream, group) end
  keys = keys + redis.call('UNLINK', unpack(KEYS, 3))
end
return {alive, exists and 1 or 0, count, keys}
"""
"""KEYS: the stream, its companion key `consumers`, the other companion keys. ARGV: the group, `~postponed`, the seconds
after which a registration is old, `minIdle` in milliseconds, `delete` or `look`. Returns the live consumers, 1 if the
group exists, its number of consumers, and the number of companion keys. Deletes nothing if a consumer is alive."""


@dataclass(frozen=True)
class Alive:
    """A live consumer and its last sign of life."""

    name: str
    sign: str
    """`registered` or `active`."""
    seconds: int

    def __str__(self) -> str:
        return f"{self.name!r} ({self.sign} {self.seconds} s ago)"


@dataclass(frozen=True)
class Group:
    """A consumer group before or after its deletion."""

    alive: list[Alive]
    exists: bool
    consumers: int
    companion_keys: int


class Deletion:
    """The deletion of one target's group, over one connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        delivery = target.consumer.spec.delivery if target.consumer else Delivery()
        self.min_idle: timedelta = delivery.min_idle
        self._line = Line(target.redis, target.stream, as_written)

    async def aclose(self) -> None:
        await self._line.hang_up()

    async def look(self) -> tuple[Group, StreamFigures]:
        """Inspect the group and change nothing. Raises GroupKept and ServerUnavailable."""
        target = self._target
        place = Place(target.stream, target.group, target.key)
        answer, *answers = await self._ask(self._script("look"), *questions(place))
        return self._group(answer), sight(place, answers).figures or StreamFigures()

    async def delete(self) -> Group:
        """Delete the group and its companion keys if no consumer is alive. Raises GroupKept and ServerUnavailable."""
        try:
            [answer] = await self._ask(self._script("delete"))
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error}; repeat the command, the deletion may or may not be done") from None
        return self._group(answer)

    def _script(self, mode: str) -> Question:
        target = self._target
        consumers = "consumers"
        companions = [consumers, *(each for each in COMPANIONS if each != consumers)]
        keys = [target.stream, *(companion(target.stream, target.group, each) for each in companions)]
        limits = (int(ABSENT.total_seconds()), milliseconds(self.min_idle))
        return ("EVAL", DELETE, len(keys), *keys, target.group, POSTPONED, *limits, mode)

    async def _ask(self, *asked: Question) -> list[Any]:
        answers = await self._line.ask(asked)
        if not isinstance(answers, Fault):
            return answers
        sentence = f"{self._target.server}: {answers.sentence}"
        if answers.code == "NOPERM" or of_fault(answers).reachable.reason is not StreamReason.UNREACHABLE:
            raise GroupKept(sentence)
        raise ServerUnavailable(f"{sentence}; {self._target.advice}" if self._target.advice else sentence)

    def _group(self, answer: Any) -> Group:
        if isinstance(answer, Fault):
            raise GroupKept(self._refused(answer))
        alive, exists, consumers, keys = answer
        found = [Alive(name.decode(errors="backslashreplace"), sign.decode(), age) for name, sign, age in alive]
        return Group(found, bool(exists), consumers, keys)

    def _refused(self, fault: Fault) -> str:
        target = self._target
        if fault.code != "WRONGTYPE":
            return f"group {target.group!r} of stream {target.stream!r} at {target.server}: {fault.sentence}"
        consumers = companion(target.stream, target.group, "consumers")
        return (
            f"{target.server}: expected {target.stream!r} to be a stream and {consumers!r} to be a hash or missing, "
            "found a key of another type; correct the name of the stream, or rename the other key"
        )

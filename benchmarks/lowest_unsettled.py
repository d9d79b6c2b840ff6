"""The alternative to the group snapshot. Importing this module puts it into a pod in place of the snapshot.

Each consumer registers a position in the stream: the ID before its lowest unsettled ID. A consumer without unsettled
entries registers the last ID that it read. A lost group is created at the lowest of these positions, and the schedule
restores postponed IDs.
"""

from collections.abc import Sequence

from benchmarks.lost_group import REGISTRATIONS, handle
from streamconsumer.processor.consumer.claimer import PendingClaimer
from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key

__all__ = ["handle"]

MAX_SEQUENCE = 2**64 - 1

RESTORE = """
local stream, schedule, group, me, postponed, position = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local function before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
local function claim(consumer, id)
  if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'FORCE', 'JUSTID')
  end
end
local lowest
for _, each in ipairs(redis.call('HVALS', KEYS[3])) do
  if each ~= 'walk' and (not lowest or before(each, lowest)) then lowest = each end
end
local walk = lowest and redis.call('HGET', KEYS[3], postponed) and before(lowest, position)
local begin = walk and position or lowest or ARGV[4]
local created = redis.pcall('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')
if created.err and not created.err:find('BUSYGROUP', 1, true) then return created end
for i = 6, #ARGV do claim(me, ARGV[i]) end
if not created.err then
  for _, id in ipairs(redis.call('ZRANGE', schedule, 0, -1)) do claim(postponed, id) end
  local due = redis.call('TIME')[1] * 1000 + 2500.5
  for _, entry in ipairs(walk and redis.call('XRANGE', stream, '(' .. lowest, position) or {}) do
    redis.call('ZADD', schedule, 'NX', due, entry[1])
    claim(postponed, entry[1])
  end
end
return begin
"""
"""A field `~postponed` among the registrations makes the script walk the range from the lowest position to the position
of this consumer. Each entry there waits with `~postponed` until its owner renews it or until it is due."""


async def save(self: PendingClaimer) -> None:
    """Register the position. Replaces `PendingClaimer.save_snapshot`, which each busy consumer calls once a second."""
    redis_consumer = self._consumer
    stream, group, consumer_name = redis_consumer.consumer_id
    position = redis_consumer._last_delivered_id  # noqa: SLF001 - the consumer does not publish it
    if in_flight_ids := redis_consumer.in_flight_ids():
        milliseconds, sequence = min(map(replies.parse_id, in_flight_ids))
        position = f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{MAX_SEQUENCE}"
    await redis_consumer.manager.execute("HSET", group_key(stream, group, REGISTRATIONS), consumer_name, position)


async def restore_group(
    self: GroupSnapshot,
    last_delivered_id: str,
    start_from: str,
    *,
    in_flight: Sequence[str] = (),
) -> str:
    """Create the lost group again. Replaces `GroupSnapshot.restore_group`."""
    stream, schedule, _ = self._keys
    group, consumer, *_ = self._group_and_consumer
    keys = (stream, schedule, group_key(stream, group, REGISTRATIONS))
    arguments = (group, consumer, POSTPONED_CONSUMER, start_from, last_delivered_id, *in_flight)
    begin: bytes = await self._execute("EVAL", RESTORE, 3, *keys, *arguments)
    return begin.decode()


PendingClaimer.save_snapshot = save  # type: ignore[method-assign] # the point of this module
GroupSnapshot.restore_group = restore_group  # type: ignore[method-assign] # the same

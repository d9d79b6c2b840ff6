"""Deletes a consumer group and its companion keys, unless a consumer of the group is alive.

One Lua script checks the consumers and deletes the group, so that no consumer can start to read between the two steps.

A consumer is alive in two cases:

- The `consumers` companion key contains a recent registration of the consumer. This rule detects pods that wait for
  entries. Redis before 7.2 does not update `idle` when a read returns no entry, so `idle` alone would not show that
  these pods are alive.
- The consumer's `idle` is less than `minIdle`. This rule detects consumers of other programs, which do not register in
  `consumers`. On Redis 7.2 and Valkey, `idle` is the time since the last attempt to read or claim. On older versions,
  `idle` is the time since the last successful attempt. Redis 7.2 also reports `inactive`, the time since the last
  successful attempt. The rule does not use `inactive`, because `inactive` would count a reader that waits for entries
  as dead.

If a reader of another program blocks in one XREADGROUP for longer than `minIdle`, the script does not detect the reader
on any version of Redis or Valkey.
"""

from dataclasses import dataclass

from streamconsumer.cli.target import Target
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.consumer import StreamManager
from streamconsumer.processor.consumer.liveness import ABSENT_AFTER
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import to_milliseconds
from streamconsumer.redis_client.scripts import SCRIPT_FUNCTIONS

MAX_REGISTRATIONS = 20_000
"""Maximum number of registrations that the script checks. The script needs 20 ms to check them."""

DELETE_GROUP = f"""{SCRIPT_FUNCTIONS}
local stream, group, postponed = KEYS[1], ARGV[1], ARGV[2]
local absent, min_idle = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(redis.call('TIME')[1])
local consumers, failed = list_consumers(stream, group)
if failed then
  local words = consumers.err
  if words:find('^NOGROUP') == nil and words:find('^ERR no such key') == nil then return {{err = words}} end
  consumers = {{}}
end
local exists, alive, registrations = not failed, {{}}, redis.call('HLEN', KEYS[2])
if registrations > {MAX_REGISTRATIONS} then
  local found = 'ERR found ' .. registrations .. ' registrations of consumers, expected at most {MAX_REGISTRATIONS}'
  return {{err = found .. '; delete ' .. KEYS[2] .. ', wait until live consumers have registered again, and retry'}}
end
local members = redis.call('HGETALL', KEYS[2])
for i = 1, #members, 2 do
  local age = now - (tonumber(members[i + 1]) or now)
  if not (age >= absent) then alive[#alive + 1] = members[i] end
end
for _, each in ipairs(consumers) do
  local consumer = dictionary(each)
  if consumer.name ~= postponed and consumer.idle < min_idle then alive[#alive + 1] = consumer.name end
end
local keys = 0
if #alive == 0 then
  keys = redis.call('UNLINK', KEYS[2])  -- contains only dead consumers; a missing permission fails here
  if exists then redis.call('XGROUP', 'DESTROY', stream, group) end
  keys = keys + redis.call('UNLINK', unpack(KEYS, 3))
end
local names = {{}}
for i = 1, math.min(#alive, 100) do names[i] = alive[i]:sub(1, 256) end
return {{names, exists and 1 or 0, keys}}
"""
"""Script that deletes the group if no consumer is alive.

KEYS: the stream, the group's companion key `consumers`, the group's other companion keys. ARGV: the group,
`~postponed`, the seconds after which a registration expires, `minIdle` in milliseconds. Returns three values. Value 1
contains the names of at most 100 live consumers, each truncated to 256 bytes. Value 2 is 1 if the group existed,
otherwise 0. Value 3 is the number of deleted companion keys.

Redis runs no other command while the script runs. The script therefore returns an error if the group has more than
MAX_CONSUMERS consumers or more than MAX_REGISTRATIONS registrations.
"""

_SUBJECT = "the script that deletes the group"


@dataclass(frozen=True)
class DeletionResult:
    """Result of the script `DELETE_GROUP`."""

    live_consumers: set[str]
    """Names of the live consumers. If there is a live consumer, the script deletes nothing."""
    group_existed: bool
    """True if the group existed before the script ran."""
    companion_keys: int
    """Number of deleted companion keys."""


async def delete_group(manager: StreamManager, target: Target) -> DeletionResult:
    """Delete the group and its companion keys, unless a consumer is alive."""
    delivery = target.consumer.spec.delivery if target.consumer else Delivery()
    companions = sorted(COMPANION_SUFFIXES, key=lambda each: each != "consumers")
    keys = [target.stream, *(group_key(target.stream, target.group, each) for each in companions)]
    limits = (int(ABSENT_AFTER.total_seconds()), to_milliseconds(delivery.min_idle))
    reply = await manager.execute("EVAL", DELETE_GROUP, len(keys), *keys, target.group, POSTPONED_CONSUMER, *limits)
    live_consumers, existed, companion_keys = replies.array(reply, _SUBJECT, 3)
    names = {replies.text(name, _SUBJECT) for name in replies.array(live_consumers, _SUBJECT)}
    return DeletionResult(names, bool(replies.count(existed, _SUBJECT)), replies.count(companion_keys, _SUBJECT))

"""Commits a handler's effects and the acknowledgement in one Lua script, so that Redis applies both or neither.

Other clients never see an intermediate state, but a failed script does not undo the writes that it has already made.
The script therefore makes four checks before its first write.

The first check is for the owner of the entry. The script applies no effect if the entry is pending with another
consumer, or not pending.

The second check is for an earlier commit. If the reply to a commit is lost, the entry may become pending again, either
through a lease renewal at the same time or because a lost group was recreated at an earlier position. A companion key
therefore stores the entry ids of the last MAX_REMEMBERED_COMMITS commits.

The third check is for the types of the keys. SET would replace a value of any type, and the other commands would fail
on a key of another type.

The fourth check is for permissions, memory, disk and replicas. The script first tries each command with arguments that
have no effect. If a permission, memory, disk space or a replica is missing, Redis rejects the first write of a script,
but never a later write.

One failure after the first write remains possible: XADD fails if the stream already contains the highest possible id.
"""

import logging
from typing import Any

from redis.exceptions import ClusterCrossSlotError, NoPermissionError, ResponseError

from streamconsumer.errors import EffectsRejected
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.replies import Execute, UnexpectedReply

log = logging.getLogger(__name__)

_SUBJECT = "the script that applies effects"

_EXPECTED_TYPES = {"XADD": "a stream", "SET": "a string", "INCRBY": "a whole number of at most 18 digits"}
"""Type of the key that each command expects."""

MAX_REMEMBERED_COMMITS = 50_000
"""Maximum number of remembered commits per group. The ids of 50,000 commits occupy about 6 MB."""

REQUIRED_PERMISSIONS = (
    "+eval +xpending +xack +type +strlen +get +xadd +set +incrby +del +zscore +zadd +zremrangebyrank +time"
)
"""Permissions that the Redis user needs on the keys of the effects and on the key of remembered commits."""

COMMIT = """
local stream, commits, group, me, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
if #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then return 'lost' end
if redis.call('ZSCORE', commits, id) then
  redis.call('XACK', stream, group, id)
  return 'before'
end

local steps, deletions, at = {}, {}, 5
while at <= #ARGV do
  local step = {ARGV[at], KEYS[tonumber(ARGV[at + 1])]}
  local last = at + 2 + tonumber(ARGV[at + 2])
  for i = at + 3, last do step[#step + 1] = ARGV[i] end
  local target = step[1] == 'DEL' and deletions or steps
  target[#target + 1] = step
  at = last + 1
end

local all_probes = {
  {'XACK', {stream, group, '0-0'}, ''},  -- succeeds without free memory, as do the probes after it
  {'ZADD', {commits, 'XX', 0, ''}, ''},
  {'ZREMRANGEBYRANK', {commits, 1, 0}, ''},
  {'TIME', {}, ''},
}
local probes = {
  XADD = {'XADD', {stream, 'NOMKSTREAM', '0-0', 'f', 'v'}, 'must be greater than 0-0'},
  SET = {'SET', {stream, '', 'NX'}, ''},
  INCRBY = {'INCRBY', {stream, 0}, 'WRONGTYPE'},
}
for _, step in ipairs(steps) do
  table.insert(all_probes, 1, probes[step[1]])
  probes[step[1]] = nil
end
for _, probe in ipairs(all_probes) do
  local reply = redis.pcall(probe[1], unpack(probe[2]))
  if type(reply) == 'table' and reply.err and (probe[3] == '' or not reply.err:find(probe[3], 1, true)) then
    return {err = (reply.err:gsub('^@user_script: %d+: %-?', ''))}  -- Redis 6.2 adds this prefix to each error
  end
end

local expected_types = {XADD = 'stream', SET = 'string', INCRBY = 'string'}
for _, step in ipairs(steps) do
  local key, actual = step[2], redis.call('TYPE', step[2]).ok
  if actual ~= 'none' and actual ~= expected_types[step[1]] then return {step[1], key, actual} end
  if actual == 'string' and step[1] == 'INCRBY' then
    local value = redis.call('STRLEN', key) <= 19 and redis.call('GET', key) or ''
    local digits = value:match('^-?([1-9]%d*)$')
    if value ~= '0' and not (digits and #digits <= 18) then return {step[1], key, 'no number'} end
  end
end

for _, step in ipairs(deletions) do redis.call(unpack(step)) end  -- first: DEL has no probe without an effect
local now = redis.call('TIME')
redis.call('ZADD', commits, now[1] * 1000 + math.floor(now[2] / 1000), id)
redis.call('ZREMRANGEBYRANK', commits, 0, -1 - tonumber(ARGV[4]))
redis.call('XACK', stream, group, id)
for _, step in ipairs(steps) do redis.call(unpack(step)) end
return 'done'
"""
"""Lua script that applies effects and acknowledges the entry. KEYS: the stream, the remembered commits, the keys of the
effects. ARGV: the group, the consumer, the entry id, and the maximum number of remembered commits. For each effect,
ARGV then contains the command, the index of the key in KEYS, the number of arguments, and the arguments. Returns `done`
if the effects were applied, `before` if an earlier call committed the effects, and `lost` if the entry is not pending
with this consumer. Returns a table (command, key, actual type) if a key has another type than the command expects."""


async def commit_effects(execute: Execute, consumer_id: ConsumerId, message_id: str, effects: Effects) -> bool:
    """Apply the effects and acknowledge the entry.

    Returns False and applies no effect if the entry is not pending with this consumer. Raises EffectsRejected if the
    effects of this message cannot be applied. Raises a Redis error for a cause outside this message, for example if a
    permission or memory is missing, or if the server is a replica. If Redis replied with an error, no effect was
    applied. If the connection was lost, either all effects were applied or none. The caller may repeat the call until
    Redis replies, because effects are never applied twice.
    """
    stream, group, consumer = consumer_id
    commits_key = group_key(stream, group, "committed").encode()
    keys = list(dict.fromkeys([stream.encode(), commits_key, *(operation.key for operation in effects.operations)]))
    _validate(stream.encode(), keys, effects, message_id)
    key_indexes = {key: index for index, key in enumerate(keys, 1)}
    arguments: list[Any] = []
    for command, key, words in effects.operations:
        arguments += [command, key_indexes[key], len(words), *words]
    script_call = ("EVAL", COMMIT, len(keys), *keys, group, consumer, message_id, MAX_REMEMBERED_COMMITS, *arguments)
    try:
        reply = await execute(*script_call)
    except ClusterCrossSlotError:
        raise EffectsRejected(
            f"message {message_id}: an effect writes a key outside the hash slot of stream {stream!r}; "
            "use the same hash tag, such as {tag}, in this key and in the name of the stream"
        ) from None
    except ResponseError as error:
        raise _with_permission_hint(error) from error
    if isinstance(reply, list):
        name, key_name, actual_type = (replies.text(part, _SUBJECT) for part in replies.array(reply, _SUBJECT, 3))
        if name not in _EXPECTED_TYPES:
            raise UnexpectedReply(_SUBJECT, name, f"one of {', '.join(_EXPECTED_TYPES)}")
        raise EffectsRejected(_rejection_message(message_id, name, key_name, actual_type))
    result = replies.one_of(reply, _SUBJECT, (b"done", b"before", b"lost"))
    if result == b"before":
        log.info("effects already committed; acknowledging", extra={"message_id": message_id})
    return result != b"lost"


def _validate(stream: bytes, keys: list[bytes], effects: Effects, message_id: str) -> None:
    """Raise EffectsRejected for mistakes that can be detected without Redis."""
    for command, key, words in effects.operations:
        if key == keys[1]:
            raise EffectsRejected(
                f"message {message_id}: {_quote_key(key)} is reserved for StreamConsumer; use another key"
            )
        if key == stream and (command != "XADD" or words[0] == b"MAXLEN"):
            misuse = "trim this stream; set spec.retention" if command == "XADD" else f"apply {command} to this key"
            raise EffectsRejected(
                f"message {message_id}: {_quote_key(key)} is the stream that the group reads; an effect cannot {misuse}"
            )


def _rejection_message(message_id: str, command: str, key: str, actual_type: str) -> str:
    actual = actual_type if actual_type.startswith("no ") else f"a {actual_type}"
    return (
        f"message {message_id}: the key {key!r} holds {actual}; "
        f"{command} requires that the key does not exist or holds {_EXPECTED_TYPES[command]}. "
        f"No effect was applied; use another key or delete {key!r}"
    )


def _with_permission_hint(error: ResponseError) -> ResponseError:
    """Return the error unchanged. If a permission is missing, return a new error that lists the required
    permissions."""
    if classify_error(error, "").code == "NOPERM":
        return NoPermissionError(
            f"NOPERM the script that applies effects requires the permissions {REQUIRED_PERMISSIONS} ({error})"
        )
    return error


def _quote_key(key: bytes) -> str:
    return repr(key.decode(errors="backslashreplace"))

"""Effects and acknowledgement in one step of Redis: both, or neither.

A script is one step for everybody else, but an error in the midst of it leaves what it did before. So it first looks
at all that can go wrong, and only then writes:

- Whose the entry is. Another consumer's, or nobody's: nothing is applied.
- Whether it was committed before. A commit whose reply was lost may have been done, and something else may have made
  the entry pending again: a renewal that was on its way, or a group that was lost and created again a little further
  back. The ids of the last REMEMBERED commits stand in a key beside the stream for that.
- What the keys hold. SET would replace whatever there is, the others would fail.
- Whether the user may run the commands, and whether there is memory, disk and replicas for them: each command is tried
  where it can do nothing. Redis refuses a script's first write for those reasons, not its later ones.

What is left to go wrong half way is a stream whose ids have come to the very last one.
"""

import logging
from typing import Any

from redis.exceptions import ClusterCrossSlotError, NoPermissionError, ResponseError

from streamconsumer.errors import EffectsRejected
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.replies import Execute

log = logging.getLogger(__name__)

MAX_REMEMBERED_COMMITS = 50_000
"""So many commits of a group are remembered: about 6 MB."""

REQUIRED_PERMISSIONS = (
    "+eval +xpending +xack +type +strlen +get +xadd +set +incrby +del +zscore +zadd +zremrangebyrank +time"
)
"""What the user must be allowed, on the keys of the effects and on the one that remembers."""

COMMIT = """
local stream, memory, group, me, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
if #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then return 'lost' end
if redis.call('ZSCORE', memory, id) then
  redis.call('XACK', stream, group, id)
  return 'before'
end

local steps, deletions, at = {}, {}, 5
while at <= #ARGV do
  local step = {ARGV[at], KEYS[tonumber(ARGV[at + 1])]}
  local last = at + 2 + tonumber(ARGV[at + 2])
  for i = at + 3, last do step[#step + 1] = ARGV[i] end
  local into = step[1] == 'DEL' and deletions or steps
  into[#into + 1] = step
  at = last + 1
end

local harmless = {
  {'XACK', {stream, group, '0-0'}, ''},  -- goes without memory, and so does what comes behind it
  {'ZADD', {memory, 'XX', 0, ''}, ''},
  {'ZREMRANGEBYRANK', {memory, 1, 0}, ''},
  {'TIME', {}, ''},
}
local probes = {
  XADD = {'XADD', {stream, 'NOMKSTREAM', '0-0', 'f', 'v'}, 'must be greater than 0-0'},
  SET = {'SET', {stream, '', 'NX'}, ''},
  INCRBY = {'INCRBY', {stream, 0}, 'WRONGTYPE'},
}
for _, step in ipairs(steps) do
  table.insert(harmless, 1, probes[step[1]])
  probes[step[1]] = nil
end
for _, probe in ipairs(harmless) do
  local reply = redis.pcall(probe[1], unpack(probe[2]))
  if type(reply) == 'table' and reply.err and (probe[3] == '' or not reply.err:find(probe[3], 1, true)) then
    return {err = (reply.err:gsub('^@user_script: %d+: %-?', ''))}  -- how 6.2 begins every error
  end
end

local holds = {XADD = 'stream', SET = 'string', INCRBY = 'string'}
for _, step in ipairs(steps) do
  local key, found = step[2], redis.call('TYPE', step[2]).ok
  if found ~= 'none' and found ~= holds[step[1]] then return {step[1], key, found} end
  if found == 'string' and step[1] == 'INCRBY' then
    local value = redis.call('STRLEN', key) <= 19 and redis.call('GET', key) or ''
    local digits = value:match('^-?([1-9]%d*)$')
    if value ~= '0' and not (digits and #digits <= 18) then return {step[1], key, 'no number'} end
  end
end

for _, step in ipairs(deletions) do redis.call(unpack(step)) end  -- first: DEL cannot be tried where it does nothing
local now = redis.call('TIME')
redis.call('ZADD', memory, now[1] * 1000 + math.floor(now[2] / 1000), id)
redis.call('ZREMRANGEBYRANK', memory, 0, -1 - tonumber(ARGV[4]))
redis.call('XACK', stream, group, id)
for _, step in ipairs(steps) do redis.call(unpack(step)) end
return 'done'
"""
"""KEYS: the stream, what remembers, the keys of the effects. ARGV: group, consumer, entry, how many are remembered, and
for each effect its command, the number of its key, how many arguments, and these."""


async def commit_effects(  # noqa: PLR0917 - four say who asks, two what for
    execute: Execute, stream: str, group: str, consumer: str, message_id: str, effects: Effects
) -> bool:
    """Apply the effects and acknowledge the entry. False: it is not (any more) pending with this consumer, and nothing
    was applied now.

    Raises EffectsRejected for what is the message's own affair, and what Redis raises for what is not: no rights, no
    memory, a replica, a lost connection. Nothing was applied then, or, where the connection was lost, everything or
    nothing; the call may be repeated until it answers, and never applies anything twice.
    """
    memory = group_key(stream, group, "committed").encode()
    keys = list(dict.fromkeys([stream.encode(), memory, *(each.key for each in effects.operations)]))
    _validate(stream.encode(), keys, effects, message_id)
    places = {key: place for place, key in enumerate(keys, 1)}
    arguments: list[Any] = []
    for command, key, words in effects.operations:
        arguments += [command, places[key], len(words), *words]
    question = ("EVAL", COMMIT, len(keys), *keys, group, consumer, message_id, MAX_REMEMBERED_COMMITS, *arguments)
    try:
        reply = await execute(*question)
    except ClusterCrossSlotError:
        raise EffectsRejected(
            f"message {message_id}: a key of its effects is not in the cluster slot of stream {stream!r}; "
            "put the same {tag} into the names of the stream and of the keys"
        ) from None
    except ResponseError as error:
        raise _with_permission_hint(error) from error
    if isinstance(reply, list):
        raise EffectsRejected(
            _rejection_message(message_id, *(each.decode(errors="backslashreplace") for each in reply))
        )
    if reply == b"before":
        log.info("the effects of this message were committed before", extra={"message_id": message_id})
    return bool(reply != b"lost")


def _validate(stream: bytes, keys: list[bytes], effects: Effects, message_id: str) -> None:
    """What can be told without asking Redis."""
    for command, key, words in effects.operations:
        if key == keys[1]:
            raise EffectsRejected(f"message {message_id}: {_quote_key(key)} is our own key; use another one")
        if key == stream and (command != "XADD" or words[0] == b"MAXLEN"):
            what = "trimmed by an effect; set spec.retention" if command == "XADD" else f"the key of a {command}"
            raise EffectsRejected(
                f"message {message_id}: {_quote_key(key)} is the stream that is read, it cannot be {what}"
            )


def _rejection_message(message_id: str, command: str, key: str, actual_type: str) -> str:
    expected = {"XADD": "a stream", "SET": "a string", "INCRBY": "a whole number of at most 18 digits"}[command]
    holds = actual_type if actual_type.startswith("no ") else f"a {actual_type}"
    return (
        f"message {message_id}: the key {key!r} holds {holds}; its {command} expects {expected} or no key. "
        "Nothing was applied; use another key or delete this one"
    )


def _with_permission_hint(error: ResponseError) -> ResponseError:
    """The error; where the user lacks a right, one that says which are needed."""
    if classify_error(error, "").code == "NOPERM":
        return NoPermissionError(
            f"NOPERM effects are applied by a script, which needs {REQUIRED_PERMISSIONS} ({error})"
        )
    return error


def _quote_key(key: bytes) -> str:
    return repr(key.decode(errors="backslashreplace"))

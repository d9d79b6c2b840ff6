"""Commits a handler's effects and the acknowledgement in one Lua script, so that Redis applies both or neither.

Other clients never see an intermediate state, but a failed script does not undo the writes that it has already made.
The script therefore makes four checks before its first write.

The first check is for the owner of the entry. The script applies no effect if another consumer owns the entry. If no
consumer owns the entry, because the group was lost or the entry was trimmed, the script applies the effects.

The second check is for an earlier commit. If the reply to a commit is lost, the entry may become pending again. Two
events can have this effect: a lease renewal at the same time, and the recreation of a lost group at an earlier
position. A companion key therefore stores the entry ids of the last MAX_REMEMBERED_COMMITS commits.

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
from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, entry_keys, group_key
from streamconsumer.redis_client.outcome import Outcome
from streamconsumer.redis_client.replies import Execute, UnexpectedReply
from streamconsumer.redis_client.scripts import load_script

log = logging.getLogger(__name__)

_SUBJECT = "the script that applies effects"

_EXPECTED_TYPES = {"XADD": "a stream", "SET": "a string", "INCRBY": "a whole number of at most 18 digits"}
"""Type of the key that each command expects."""

REQUIRED_PERMISSIONS = (
    "+eval +xpending +xack +type +strlen +get +xadd +set +incrby +del +zscore +zadd +zremrangebyrank +time"
)
"""Permissions that the Redis user needs on the keys of the effects and on the key of remembered commits."""

COMMIT = load_script("commit_effects")


async def commit_effects(execute: Execute, consumer_id: ConsumerId, message_id: str, effects: Effects) -> Outcome:
    """Apply the effects and acknowledge the entry.

    Returns LOST and applies no effect if another consumer owns the entry. Raises EffectsRejected if the
    effects of this message cannot be applied. Raises a Redis error for a cause outside this message, for example if a
    permission or memory is missing, or if the server is a replica. If Redis replied with an error, no effect was
    applied. If the connection was lost, either all effects were applied or none. The caller may repeat the call until
    Redis replies, because effects are never applied twice.
    """
    stream, group, consumer = consumer_id
    own_keys = [key.encode() for key in entry_keys(stream, group)]
    keys = list(dict.fromkeys([*own_keys, *(operation.key for operation in effects.operations)]))
    _validate(consumer_id, effects, message_id)
    key_indexes = {key: index for index, key in enumerate(keys, 1)}
    arguments: list[Any] = []
    for command, key, words in effects.operations:
        arguments += [command, key_indexes[key], len(words), *words]
    script_call = ("EVAL", COMMIT, len(keys), *keys, group, consumer, message_id, *arguments)
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
        log.info("effects were already committed; acknowledging the message", extra={"message_id": message_id})
    return Outcome.LOST if result == b"lost" else Outcome.DONE


def _validate(consumer_id: ConsumerId, effects: Effects, message_id: str) -> None:
    """Raise EffectsRejected for mistakes that can be detected without Redis."""
    stream = consumer_id.stream.encode()
    reserved = {group_key(consumer_id.stream, consumer_id.group, each).encode() for each in COMPANION_SUFFIXES}
    for command, key, words in effects.operations:
        if key in reserved:
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
    """If the error reports a missing permission, return a new error that lists the required permissions. Otherwise,
    return the error unchanged."""
    if classify_error(error, "").code == "NOPERM":
        return NoPermissionError(
            f"NOPERM the script that applies effects requires the permissions {REQUIRED_PERMISSIONS} ({error})"
        )
    return error


def _quote_key(key: bytes) -> str:
    return repr(key.decode(errors="backslashreplace"))

"""The operator's writes to Redis: creating missing groups and deleting the consumers of terminated pods.

The operator deletes a consumer only if the consumer has no pending entries. One Lua script, which the pods also use,
checks the pending entries and deletes the consumer. The operator creates a group only if none of the existing pods has
run. A pod that has run restores a missing group, together with the entries that the pod has started to handle.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from streamconsumer.operator.redis_monitor.probe import GroupRef, ProbeResult, unexpected_reply
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import UnexpectedReply, array, count, entry_id, parse_id, text
from streamconsumer.redis_client.scripts import (
    COUNT_AFTER,
    DELETE_IDLE_CONSUMER,
    FIND_ABSENT_CONSUMERS,
    LAST_GENERATED_ID,
)

ExecuteMany = Callable[[Sequence[Command]], Awaitable[list[Any] | RedisErrorInfo]]
"""Function that runs several commands in one round trip and returns the replies, as `PipelineClient.execute` does."""

ABSENT_AFTER_SECONDS = 65.0
"""A consumer counts as absent if its last announcement is older than this number of seconds. Pods announce themselves
every 20 s.

The list of pods at the API server does not show every live consumer, because pods of another cluster may have the same
names and read the same stream."""

MAX_COUNTED = 10_000
"""Maximum number of unread entries that are counted if Redis does not report the lag. Counting 10,000 entries takes
Redis about 5 ms."""

MAX_DELETED = 100
"""Maximum number of consumers that one call deletes. The next call deletes further consumers."""

KEPT = -1
"""Result of DELETE_IDLE_CONSUMER if the consumer has pending entries."""

POD_NAME_SUFFIX = r"-[a-z0-9]{1,10}-[a-z0-9]{5}"
"""Pattern of the part of a pod's name that follows the name of the pod's Deployment."""


async def create_group(
    execute: ExecuteMany, group_ref: GroupRef, start_from: str, last_delivered_id: str | None
) -> None:
    """Create a group: a new group at `start_from`, or a lost group at its last delivered id.

    If the stream was also lost and has been recreated, the group starts at the beginning of the stream. A pod that
    creates the group at the same time chooses the same position."""
    position = start_from
    if last_delivered_id is not None:
        last = await _last_generated_id(execute, group_ref.stream)
        position = last_delivered_id if parse_id(last) >= parse_id(last_delivered_id) else "0"
    await execute([("XGROUP", "CREATE", group_ref.stream, group_ref.group, position, "MKSTREAM")])


async def _last_generated_id(execute: ExecuteMany, stream: str) -> str:
    replies = await execute([last_id_command(stream)])
    if isinstance(replies, RedisErrorInfo) or isinstance(replies[0], RedisErrorInfo):
        return "0-0"
    return entry_id(replies[0], "XINFO STREAM")


def last_id_command(stream: str) -> Command:
    """Return the command that reads the last id of a stream. XINFO STREAM would also return values of entries."""
    return ("EVAL", LAST_GENERATED_ID, 1, stream)


def count_lag_command(group_ref: GroupRef, message_id: str) -> Command:
    """Return the command that counts the entries after `message_id`, up to MAX_COUNTED."""
    return ("EVAL", COUNT_AFTER, 1, group_ref.stream, message_id, MAX_COUNTED)


def with_lag(group_ref: GroupRef, result: ProbeResult, reply: Any) -> ProbeResult:
    """Return the result of the probe, with the lag from the reply to `count_lag_command`."""
    if result.stats is None:
        return result
    try:
        lag = count(reply, "the script that counts entries")
    except UnexpectedReply as error:
        return unexpected_reply(group_ref, error)
    stats = result.stats.model_copy(update={"lag": lag, "lag_known": lag < MAX_COUNTED})
    return replace(result, stats=stats)


async def delete_stale_consumers(
    execute: ExecuteMany, group_ref: GroupRef, deployment: str, pods: Collection[str]
) -> list[str]:
    """Delete the consumers of terminated pods, if these consumers have no pending entries. Returns the names of the
    deleted consumers."""
    members = group_ref.companion_key("consumers")
    find = ("EVAL", FIND_ABSENT_CONSUMERS, 2, group_ref.stream, members, group_ref.group)
    replies = await execute([(*find, f"{deployment}-", round(ABSENT_AFTER_SECONDS), MAX_DELETED)])
    if isinstance(replies, RedisErrorInfo) or isinstance(replies[0], RedisErrorInfo):
        return []
    absent = [text(name, "XINFO CONSUMERS") for name in array(replies[0], "XINFO CONSUMERS")]
    names = [name for name in absent if is_pod_name(name, deployment) and name not in pods]
    results = await execute(
        [("EVAL", DELETE_IDLE_CONSUMER, 2, group_ref.stream, members, group_ref.group, name) for name in names]
    )
    if isinstance(results, RedisErrorInfo):
        return []
    return [
        name
        for name, result in zip(names, results, strict=True)
        if not isinstance(result, RedisErrorInfo) and result != KEPT
    ]


def is_pod_name(name: str, deployment: str) -> bool:
    """Return True if a pod of this Deployment can have the name."""
    return re.fullmatch(re.escape(deployment) + POD_NAME_SUFFIX, name) is not None

"""What the operator writes to Redis: it creates a missing group, and deletes the names of consumers that are gone.

It never deletes a consumer that holds anything: that is decided in the step that deletes, by the script that pods use.
It never creates a group beside pods that ran either: they know what they had begun, and put it back.
"""

import math
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command
from streamconsumer.redis_client.replies import parse_id, to_dict
from streamconsumer.redis_client.scripts import COUNT_AFTER, DELETE_IDLE_CONSUMER

Execute = Callable[[Sequence[Command]], Awaitable[list[Any] | RedisErrorInfo]]

ABSENT_AFTER_SECONDS = 65.0
"""A pod writes down every 20 s that it is there. Who has not for so long is not, whatever the API server says: pods of
the same names may read in another cluster."""

MAX_COUNTED = 10_000
"""Entries, where the server does not know the lag: about 5 ms of its time."""

MESSAGE_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
"""What a status says may be anybody's."""

POD_NAME_SUFFIX = r"-[a-z0-9]{1,10}-[a-z0-9]{5}"
"""What a Deployment puts behind its own name."""


async def create_group(execute: Execute, group_ref: GroupRef, start_from: str, last_delivered_id: str | None) -> None:
    """Create a group that never was where it is to begin, and one that was lost where it last was; from the very
    beginning if the stream has a new life. Whoever creates it at the same time does the same."""
    position = start_from
    if last_delivered_id is not None and MESSAGE_ID.fullmatch(last_delivered_id):
        found = await execute([("XINFO", "STREAM", group_ref.stream)])
        known = not isinstance(found, RedisErrorInfo) and not isinstance(found[0], RedisErrorInfo)
        last = to_dict(found[0])[b"last-generated-id"].decode() if known else "0-0"  # type: ignore[index] # known
        position = last_delivered_id if parse_id(last) >= parse_id(last_delivered_id) else "0"
    await execute([("XGROUP", "CREATE", group_ref.stream, group_ref.group, position, "MKSTREAM")])


def count_lag_command(group_ref: GroupRef, message_id: str) -> Command:
    """How many entries the group was not given, counted as far as MOST_COUNTED."""
    return ("EVAL", COUNT_AFTER, 1, group_ref.stream, message_id, MAX_COUNTED)


async def delete_stale_consumers(
    execute: Execute, group_ref: GroupRef, deployment: str, pods: Collection[str]
) -> list[str]:
    """Delete the consumers of pods that are gone and hold nothing. Returns their names."""
    members = group_ref.companion_key("consumers")
    found = await execute([("XINFO", "CONSUMERS", group_ref.stream, group_ref.group), ("HGETALL", members), ("TIME",)])
    if isinstance(found, RedisErrorInfo) or any(isinstance(each, RedisErrorInfo) for each in found):
        return []
    lines, seen, (seconds, _) = found
    gone = _stale_consumers([to_dict(each) for each in lines], to_dict(seen), int(seconds), deployment)
    names = [name for name in gone if name not in pods]
    answers = await execute(
        [("EVAL", DELETE_IDLE_CONSUMER, 2, group_ref.stream, members, group_ref.group, name) for name in names]
    )
    if isinstance(answers, RedisErrorInfo):
        return []
    return [
        name
        for name, each in zip(names, answers, strict=True)
        if not isinstance(each, RedisErrorInfo) and int(each) >= 0
    ]


def _stale_consumers(
    consumers: list[dict[bytes, Any]], last_seen: dict[bytes, Any], now_seconds: int, deployment: str
) -> list[str]:
    """Named as pods of this Deployment are, hold nothing, and show no sign of being there."""
    mine = re.compile(re.escape(deployment) + POD_NAME_SUFFIX)
    return [
        name
        for each in consumers
        if mine.fullmatch(name := each[b"name"].decode(errors="replace"))
        and int(each[b"pending"]) == 0
        and _parse_seconds(last_seen.get(each[b"name"], b"0")) < now_seconds - ABSENT_AFTER_SECONDS
    ]


def _parse_seconds(value: bytes) -> float:
    """What is no number is no sign that anybody is gone."""
    try:
        return float(value)
    except ValueError:
        return math.inf

"""What the operator writes to Redis: it creates a missing group, and deletes the names of consumers that are gone.

It never deletes a consumer that holds anything: that is decided in the step that deletes, by the script that pods use.
It never creates a group beside pods that ran either: they know what they had begun, and put it back.
"""

import math
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from streamconsumer.operator.redis_monitor.probe import Place
from streamconsumer.redis_client.errors_table import Fault
from streamconsumer.redis_client.pipeline_client import Question
from streamconsumer.redis_client.replies import order, pairs
from streamconsumer.redis_client.scripts import BEHIND, LEAVE

Ask = Callable[[Sequence[Question]], Awaitable[list[Any] | Fault]]

ABSENT_SECONDS = 65.0
"""A pod writes down every 20 s that it is there. Who has not for so long is not, whatever the API server says: pods of
the same names may read in another cluster."""

MOST_COUNTED = 10_000
"""Entries, where the server does not know the lag: about 5 ms of its time."""

MESSAGE_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
"""What a status says may be anybody's."""

POD_NAME = r"-[a-z0-9]{1,10}-[a-z0-9]{5}"
"""What a Deployment puts behind its own name."""


async def create(ask: Ask, place: Place, start_from: str, last_delivered: str | None) -> None:
    """Create a group that never was where it is to begin, and one that was lost where it last was; from the very
    beginning if the stream has a new life. Whoever creates it at the same time does the same."""
    position = start_from
    if last_delivered is not None and MESSAGE_ID.fullmatch(last_delivered):
        found = await ask([("XINFO", "STREAM", place.stream)])
        known = not isinstance(found, Fault) and not isinstance(found[0], Fault)
        last = pairs(found[0])[b"last-generated-id"].decode() if known else "0-0"  # type: ignore[index] # known
        position = last_delivered if order(last) >= order(last_delivered) else "0"
    await ask([("XGROUP", "CREATE", place.stream, place.group, position, "MKSTREAM")])


def behind(place: Place, message_id: str) -> Question:
    """How many entries the group was not given, counted as far as MOST_COUNTED."""
    return ("EVAL", BEHIND, 1, place.stream, message_id, MOST_COUNTED)


async def forget_gone(ask: Ask, place: Place, deployment: str, pods: Collection[str]) -> list[str]:
    """Delete the consumers of pods that are gone and hold nothing. Returns their names."""
    members = place.beside("consumers")
    found = await ask([("XINFO", "CONSUMERS", place.stream, place.group), ("HGETALL", members), ("TIME",)])
    if isinstance(found, Fault) or any(isinstance(each, Fault) for each in found):
        return []
    lines, seen, (seconds, _) = found
    gone = _gone([pairs(each) for each in lines], pairs(seen), int(seconds), deployment)
    names = [name for name in gone if name not in pods]
    answers = await ask([("EVAL", LEAVE, 2, place.stream, members, place.group, name) for name in names])
    if isinstance(answers, Fault):
        return []
    return [name for name, each in zip(names, answers, strict=True) if not isinstance(each, Fault) and int(each) >= 0]


def _gone(lines: list[dict[bytes, Any]], seen: dict[bytes, Any], now_seconds: int, deployment: str) -> list[str]:
    """Named as pods of this Deployment are, hold nothing, and show no sign of being there."""
    mine = re.compile(re.escape(deployment) + POD_NAME)
    return [
        name
        for each in lines
        if mine.fullmatch(name := each[b"name"].decode(errors="replace"))
        and int(each[b"pending"]) == 0
        and _seconds(seen.get(each[b"name"], b"0")) < now_seconds - ABSENT_SECONDS
    ]


def _seconds(written: bytes) -> float:
    """What is no number is no sign that anybody is gone."""
    try:
        return float(written)
    except ValueError:
        return math.inf

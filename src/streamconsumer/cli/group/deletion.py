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
from streamconsumer.redis_client.scripts import load_script

DELETE_GROUP = load_script("delete_group")

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

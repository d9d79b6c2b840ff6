"""Registry of blocked readers, so that released entries do not wait for a consumer's next liveness check.

Each consumer stores the client id of its reading connection in a companion key. A consumer that releases entries ends
the blocked read of one other consumer with CLIENT UNBLOCK, a permission that stopping needs anyway. A consumer whose
read returned empty before its timeout immediately claims due entries. That consumer has a free slot, because it was
reading.

An outdated id does little harm: after a failover it may belong to another client, whose blocking command then ends as
if it had timed out. Only consumers that have recently announced themselves are woken.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import OutOfMemoryError, ResponseError

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.replies import Execute

RECENT_SECONDS = 30.0
"""Time since its last announcement after which a consumer is not woken. Consumers announce themselves every 20 s."""


class ReaderRegistry:
    """Reading connections of a group, used by one of its consumers.

    If CLIENT UNBLOCK is not permitted, released entries wait for the next liveness check.
    """

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._consumer_name = execute, consumer
        self._key = group_key(stream, group, "readers")

    async def register(self, client_id: int) -> None:
        """Store the client id of this consumer's reading connection."""
        with suppress(OutOfMemoryError):
            await self._execute("HSET", self._key, self._consumer_name, client_id)

    async def wake_one(self, members: Callable[[], Awaitable[Mapping[str, float]]], now_seconds: float) -> None:
        """End the blocked read of one other consumer, if there is one."""
        with suppress(ResponseError):
            flat: Any = await self._execute("HGETALL", self._key)
            readers = {name.decode(): int(client_id) for name, client_id in replies.to_dict(flat).items()}
            readers.pop(self._consumer_name, None)
            if not readers:
                return
            recent_members = [
                name for name, announced_at in (await members()).items() if now_seconds - announced_at < RECENT_SECONDS
            ]
            for name in random.sample(recent_members, len(recent_members)):
                if name in readers and await self._execute("CLIENT", "UNBLOCK", readers[name]):
                    return

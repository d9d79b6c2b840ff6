"""Registry of the consumers' reading connections, so that another consumer can claim released entries immediately.

Each consumer stores the client id of its reading connection in a companion key. A consumer that releases entries ends
the blocking read of one other consumer with CLIENT UNBLOCK. A consumer also sends CLIENT UNBLOCK when it stops. If a
read returns empty before its timeout, the consumer immediately claims due entries. A consumer that is reading always
has a free slot for a claimed entry.

After a failover, an outdated client id may belong to another client. The harm is small, because the blocking command of
the other client ends as if it had timed out. Only consumers that have recently announced themselves are woken.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random

from redis.exceptions import RedisError

from streamconsumer.processor.consumer.registration import ignoring_out_of_memory
from streamconsumer.redis_client.hash_scan import scan_numbers
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.replies import Execute

RECENT_SECONDS = 30.0
"""Maximum age of a consumer's last announcement. A consumer whose announcement is older is not woken. Consumers
announce themselves every 20 seconds."""

MAX_ATTEMPTS = 20
"""Maximum number of consumers whose reads are ended. A consumer that is not reading cannot be woken."""


class ReaderRegistry:
    """Client ids of the reading connections in a group, used by one of the group's consumers.

    If the Redis user has no permission for CLIENT UNBLOCK, released entries wait until a consumer checks the group.
    """

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str, random: Random) -> None:
        self._execute, self._consumer_name, self._random = execute, consumer, random
        self._key = group_key(stream, group, "readers")

    async def register(self, client_id: int) -> None:
        """Store the client id of this consumer's reading connection."""
        with ignoring_out_of_memory():
            await self._execute("HSET", self._key, self._consumer_name, client_id)

    async def wake_one(self, members: Callable[[], Awaitable[Mapping[str, float]]], now_seconds: float) -> None:
        """End the blocking read of one other consumer. Does nothing if no other consumer is reading."""
        with suppress(RedisError, OSError):  # an error here does not affect the release of the entries
            readers = await scan_numbers(self._execute, self._key)
            readers.pop(self._consumer_name, None)
            if not readers:
                return
            recent_readers = [
                name
                for name, announced_at in (await members()).items()
                if name in readers and abs(now_seconds - announced_at) < RECENT_SECONDS
            ]
            for name in self._random.sample(recent_readers, min(len(recent_readers), MAX_ATTEMPTS)):
                if await self._execute("CLIENT", "UNBLOCK", readers[name]) == 1:
                    return

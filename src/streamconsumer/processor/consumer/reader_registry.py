"""Who waits for entries, so that what is handed back need not wait for somebody's turn to look.

Each consumer writes the id of its reading connection beside the stream. Whoever hands entries back ends the wait of one
that waits (CLIENT UNBLOCK, a right that stopping needs anyway): a consumer whose read came back empty before its time
looks at once for what is due. That one has a free slot, or it would not read.

An id that is out of date does little harm: after a failover it may be somebody else's, whose blocking command then ends
as at its time-out. Only who said a moment ago that it is there is woken.
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
"""Who has not said for so long that it is there is not woken: it says so every 20 s."""


class ReaderRegistry:
    """The group's reading connections, by one of its consumers. Where CLIENT UNBLOCK is forbidden, what is handed back
    waits for the next turn."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._consumer_name = execute, consumer
        self._key = group_key(stream, group, "readers")

    async def register(self, client_id: int) -> None:
        """This consumer reads by this connection from here on."""
        with suppress(OutOfMemoryError):
            await self._execute("HSET", self._key, self._consumer_name, client_id)

    async def wake_one(self, members: Callable[[], Awaitable[Mapping[str, float]]], now_seconds: float) -> None:
        """End the wait of one of the others, if any waits."""
        with suppress(ResponseError):
            flat: Any = await self._execute("HGETALL", self._key)
            readers = {name.decode(): int(client_id) for name, client_id in replies.to_dict(flat).items()}
            readers.pop(self._consumer_name, None)
            if not readers:
                return
            there = [name for name, seen in (await members()).items() if now_seconds - seen < RECENT_SECONDS]
            for name in random.sample(there, len(there)):
                if name in readers and await self._execute("CLIENT", "UNBLOCK", readers[name]):
                    return

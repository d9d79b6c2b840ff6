"""Stream manager of a user: only the three documented coroutines, over a Redis client of their own."""

from typing import Any

from redis.asyncio import Redis


class UserManager:
    """Implements `create_group`, `read_events` and `ack_event`, and counts the reads."""

    def __init__(self, url: str) -> None:
        self.client: Redis = Redis.from_url(url, decode_responses=True)
        self.reads = 0

    async def create_group(self, stream_name: str, group_name: str) -> None:
        await self.client.xgroup_create(stream_name, group_name, "0", mkstream=True)

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, dict[str, Any]]]:
        self.reads += 1
        reply: Any = await self.client.xreadgroup(group_name, consumer_name, {stream_name: ">"}, count)
        return list(reply[0][1]) if reply else []

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> None:
        await self.client.xack(stream_name, group_name, message_id)

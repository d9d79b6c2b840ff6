"""Stream managers of users with the three promised coroutines, and with the mistakes that such managers have."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from streamconsumer.processor import StreamManager
from tests.simulation.plan import ManagerKind

URL = "redis://server:6379/0"


def create_manager(kind: ManagerKind) -> "OwnManager | DelegatingManager":
    """Return the manager of a user."""
    return DelegatingManager() if kind == "own_delegating" else OwnManager(kind)


class DelegatingManager:
    """Stream manager that passes the three coroutines of a StreamManager on."""

    def __init__(self) -> None:
        manager = StreamManager.from_url(URL)
        self.create_group, self.read_events = manager.create_group, manager.read_events
        self.ack_event, self.aclose = manager.ack_event, manager.aclose


class OwnManager:
    """Stream manager that is no StreamManager. `kind` selects its mistake."""

    def __init__(self, kind: ManagerKind) -> None:
        self._kind = kind
        self._client = Redis.from_url(URL, protocol=2, socket_timeout=None)
        self._reads = 0

    async def create_group(self, stream_name: str, group_name: str) -> None:
        """Create the group. `own_busy_group` does not expect an existing group."""
        try:
            await self._client.xgroup_create(stream_name, group_name, "0", mkstream=True)
        except ResponseError as error:
            if self._kind == "own_busy_group" or not str(error).startswith("BUSYGROUP"):
                raise

    async def read_events(
        self, stream_name: str, group_name: str, consumer_name: str, count: int
    ) -> list[tuple[str, Any]]:
        """Read new entries. A mistake makes it block for ever, raise CancelledError, or return an item without data."""
        self._reads += 1
        if self._kind == "own_cancelled" and self._reads == 2:
            raise asyncio.CancelledError
        block = 0 if self._kind == "own_blocking" else None
        reply: Any = await self._client.xreadgroup(group_name, consumer_name, {stream_name: ">"}, count, block)
        entries = [(entry_id.decode(), _decode(data)) for _, lines in reply or () for entry_id, data in lines]
        if self._kind == "own_odd_item" and len(entries) > 1:
            entries.insert(1, (entries[0][0], None))
        return entries

    async def ack_event(self, stream_name: str, group_name: str, message_id: str) -> None:
        """Acknowledge an entry."""
        await self._client.xack(stream_name, group_name, message_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _decode(data: dict[bytes, bytes]) -> Any:
    return {name.decode(): value.decode() for name, value in data.items()}

"""Consumer group on a real server: adds entries, starts processors and inspects the group."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor import RedisStreamProcessor, StreamManager
from streamconsumer.processor.handler.loader import BatchHandler, Handler
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from tests.cluster.redis_servers import RedisServer
from tests.processor.eventually import TIMEOUT_SECONDS, eventually

STREAM, GROUP = "orders", "billing"
DEAD_LETTER_STREAM = group_key(STREAM, GROUP, "dead-letters")
FAST_RETRIES = Delivery(backoff=Backoff(min_delay=timedelta(milliseconds=50), max_delay=timedelta(milliseconds=500)))
"""Delivery settings with which a failed message is retried within the time of a test."""

QUICK_BACKOFF = Backoff(min_delay=timedelta(milliseconds=5), max_delay=timedelta(milliseconds=20))

_OBSERVER_COMMANDS = {"info", "config", "monitor", "client"}


@dataclass(frozen=True)
class Pending:
    message_id: str
    consumer: str
    idle_ms: int
    deliveries: int


class Group:
    """The group `billing` of the stream `orders`, and the processors that are its members."""

    def __init__(self, server: RedisServer, url: str | None = None) -> None:
        self.server = server
        self.url = url or server.url
        self.client: Redis = Redis.from_url(server.url, decode_responses=True)
        self.delivery = FAST_RETRIES
        self.processors: list[RedisStreamProcessor] = []
        self._managers: list[StreamManager] = []

    # -- starting ----------------------------------------------------------------------------------------------

    def manager(self, url: str | None = None, min_idle: float = 30.0, **options: Any) -> StreamManager:
        """Create a manager, which is closed with the group."""
        options = {"delivery": self.delivery, **options}
        manager = StreamManager.from_url(url or self.url, min_idle=timedelta(seconds=min_idle), **options)
        self._managers.append(manager)
        return manager

    def processor(
        self,
        handler: Handler | BatchHandler,
        name: str = "pod-a",
        *,
        batch: int = 10,
        poll: float = 2.0,
        drain: float = 5.0,
        manager: Any = None,
        min_idle: float = 30.0,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> RedisStreamProcessor:
        """Create a processor without starting it. `options` go to the manager, `settings` to the processor."""
        processor = RedisStreamProcessor(
            manager or self.manager(min_idle=min_idle, **options),
            STREAM,
            GROUP,
            name,
            batch,
            poll,
            drain_timeout=timedelta(seconds=drain),
            **settings or {},
        )
        processor.set_message_callback(handler)
        self.processors.append(processor)
        return processor

    async def start(
        self, handler: Handler | BatchHandler, name: str = "pod-a", *, concurrency: int = 1, **arguments: Any
    ) -> RedisStreamProcessor:
        """Create and start a processor."""
        settings = {"concurrency": concurrency, **arguments.pop("settings", {})}
        processor = self.processor(handler, name, settings=settings, **arguments)
        await processor.start_listening()
        return processor

    async def close(self) -> None:
        """Stop all processors and close all connections."""
        self.server.resume()
        for processor in self.processors:
            processor.force_stop()
            await processor.stop_listening()
        for manager in self._managers:
            await manager.aclose()
        await self.client.aclose()

    # -- adding entries --------------------------------------------------------------------------------------------

    async def add(self, count: int = 1, fields: dict[Any, Any] | None = None) -> list[str]:
        """Add `count` entries and return their ids. Without `fields`, each entry has its number in the field `n`."""
        pipeline = self.client.pipeline(transaction=False)
        for number in range(count):
            pipeline.xadd(STREAM, fields or {"n": str(number)})
        return [str(message_id) for message_id in await pipeline.execute()]

    async def create_group(self, start: str = "0") -> None:
        await self.client.xgroup_create(STREAM, GROUP, start, mkstream=True)

    async def read_as(self, consumer: str, count: int = 10) -> list[str]:
        """Read as a consumer that dies before it handles the entries. Returns their ids."""
        reply: Any = await self.client.xreadgroup(GROUP, consumer, {STREAM: ">"}, count)
        return [message_id for message_id, _ in reply[0][1]] if reply else []

    async def claim(self, message_ids: list[str], consumer: str, *, idle_ms: int = 0) -> None:
        """Claim entries directly, whichever consumer has them."""
        await self.client.xclaim(STREAM, GROUP, consumer, 0, [*message_ids], idle=idle_ms, justid=True)

    # -- inspecting --------------------------------------------------------------------------------------------

    async def pending(self) -> int:
        """Return the number of pending entries."""
        return int((await self.client.xpending(STREAM, GROUP))["pending"])

    async def entries(self) -> list[Pending]:
        """Return the pending entries, oldest first."""
        reply: Any = await self.client.xpending_range(STREAM, GROUP, "-", "+", 10_000)
        return [Pending(e["message_id"], e["consumer"], e["time_since_delivered"], e["times_delivered"]) for e in reply]

    async def dead_letters(self) -> list[dict[str, str]]:
        """Return the fields of the dead letters, oldest first."""
        reply: Any = await self.client.xrange(DEAD_LETTER_STREAM)
        return [fields for _, fields in reply]

    async def consumers(self) -> set[str]:
        """Return the names of the consumers, without the one that holds postponed entries."""
        consumers = await self.client.xinfo_consumers(STREAM, GROUP)
        return {consumer["name"] for consumer in consumers} - {POSTPONED_CONSUMER}

    async def group_exists(self) -> bool:
        if not await self.client.exists(STREAM):
            return False
        return GROUP in {group["name"] for group in await self.client.xinfo_groups(STREAM)}

    async def wait_settled(self, within: float = TIMEOUT_SECONDS) -> None:
        """Wait until no entry is pending."""

        async def nothing_pending() -> bool:
            return await self.pending() == 0

        await eventually(nothing_pending, within)

    async def wait_until_reading(self, name: str = "pod-a", within: float = TIMEOUT_SECONDS) -> None:
        """Wait until each processor is blocked in a read."""

        async def blocked() -> bool:
            return int((await self.client.info("clients"))["blocked_clients"]) >= len(self.processors)

        await eventually(blocked, within)

    async def reset_command_counts(self) -> None:
        await self.client.config_resetstat()

    async def command_counts(self) -> dict[str, int]:
        """Return the number of calls per command since the reset, including calls in scripts."""
        stats = await self.client.info("commandstats")
        calls = {name.removeprefix("cmdstat_").partition("|")[0]: int(stat["calls"]) for name, stat in stats.items()}
        return {name: count for name, count in calls.items() if name not in _OBSERVER_COMMANDS}

"""Consumer that commits effects, for tests that kill it.

Arguments: URL, stream, group, and the step to stop at ("never").
"""

import asyncio
import sys
from typing import Any

from streamconsumer.processor import StreamManager
from streamconsumer.processor.consumer.effects_commit import commit_effects
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import ConsumerId, Entry
from streamconsumer.redis_client import replies

URL, STREAM, GROUP, STOP_AT = sys.argv[1:]


async def stop_if_at(point: str) -> None:
    if point == STOP_AT:
        print(point, flush=True)
        await asyncio.sleep(3600)


async def consume(manager: StreamManager) -> None:
    for begin in ("0", ">"):  # first the pending entries from before it was killed
        while entries := await read(manager, begin):
            for entry in entries:
                effects = Effects().add("out", {"from": entry.message_id}).increment("count")
                await stop_if_at("before")
                assert await commit_effects(
                    manager.execute, ConsumerId(STREAM, GROUP, "pod-a"), entry.message_id, effects
                )
                await stop_if_at("after")


async def read(manager: StreamManager, begin: str) -> Any:
    command = ("XREADGROUP", "GROUP", GROUP, "pod-a", "COUNT", 10, "STREAMS", STREAM, begin)
    return Entry.from_reply(replies.stream_entries(await manager.execute(*command)))


async def main() -> None:
    manager = StreamManager.from_url(URL)
    await consume(manager)
    print("done", flush=True)
    await manager.aclose()


asyncio.run(main())

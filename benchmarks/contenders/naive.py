"""Loop of common tutorials: one read, then one acknowledgement per message."""

from typing import Any

import uvloop
from redis.asyncio import Redis

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


async def _run(harness: Harness) -> None:
    job = harness.job
    client = Redis.from_url(job.url)
    while not harness.is_finished:
        reply: Any = await client.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        for _, entries in reply:
            for message_id, data in entries:
                await harness.handle(data)
                await client.xack(job.stream, job.group, message_id)
    harness.finish()
    await client.aclose()

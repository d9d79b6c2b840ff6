"""Loop of common tutorials: one read, then one acknowledgement per message."""

from typing import Any

import uvloop
from redis.asyncio import Redis

from benchmarks.contenders.course import CONSUMER, Harness


def run(course: Harness) -> None:
    uvloop.run(_run(course))


async def _run(course: Harness) -> None:
    job = course.job
    client = Redis.from_url(job.url)
    while not course.is_finished:
        reply: Any = await client.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        for _, entries in reply:
            for message_id, data in entries:
                await course.handle(data)
                await client.xack(job.stream, job.group, message_id)
    course.finish()
    await client.aclose()

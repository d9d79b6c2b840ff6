"""Bare redis-py loop in its fastest form: one pipeline with the acknowledgements of a batch and the next read."""

import uvloop
from redis.asyncio import Redis

from benchmarks.contenders.course import CONSUMER, Harness


def run(course: Harness) -> None:
    uvloop.run(_run(course))


async def _run(course: Harness) -> None:
    job = course.job
    client = Redis.from_url(job.url)
    done: list[bytes] = []
    while not course.is_finished:
        pipeline = client.pipeline(transaction=False)
        if done:
            pipeline.xack(job.stream, job.group, *done)
        pipeline.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        reply = (await pipeline.execute())[-1]
        done = []
        for _, entries in reply:
            for message_id, data in entries:
                await course.handle(data)
                done.append(message_id)
    await client.xack(job.stream, job.group, *done)
    course.finish()
    await client.aclose()

"""Bare redis-py loop in its fastest form: one pipeline with the acknowledgements of a batch and the next read."""

import uvloop
from redis.asyncio import Redis

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


async def _run(harness: Harness) -> None:
    job = harness.job
    client = Redis.from_url(job.url)
    done: list[bytes] = []
    while not harness.is_finished:
        pipeline = client.pipeline(transaction=False)
        if done:
            pipeline.xack(job.stream, job.group, *done)
        pipeline.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        reply = (await pipeline.execute())[-1]
        done = []
        for _, entries in reply:
            for message_id, data in entries:
                await harness.handle(data)
                done.append(message_id)
    await client.xack(job.stream, job.group, *done)
    harness.finish()
    await client.aclose()

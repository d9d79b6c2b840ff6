"""Bare redis-py loop with concurrency: one task per message, limited by a semaphore, and one task that acknowledges
finished messages.
"""

import asyncio
from typing import Any

import uvloop
from redis.asyncio import Redis

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


async def _run(harness: Harness) -> None:
    job = harness.job
    client = Redis.from_url(job.url)
    slots, done, some_done = asyncio.Semaphore(job.concurrency), list[bytes](), asyncio.Event()
    left = job.count

    async def handle(message_id: bytes, data: dict[Any, Any]) -> None:
        try:
            await harness.handle(data)
        finally:
            slots.release()
        done.append(message_id)
        some_done.set()

    async def acknowledge() -> None:
        nonlocal left
        while left:
            await some_done.wait()
            some_done.clear()
            acks = done.copy()
            done.clear()
            await client.xack(job.stream, job.group, *acks)
            left -= len(acks)

    acknowledging = asyncio.create_task(acknowledge())
    tasks: set[asyncio.Task[None]] = set()
    for _ in range(0, job.count, job.batch):
        reply: Any = await client.xreadgroup(job.group, CONSUMER, {job.stream: ">"}, count=job.batch, block=1000)
        for _, entries in reply:
            for message_id, data in entries:
                await slots.acquire()
                task = asyncio.create_task(handle(message_id, data))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
    await acknowledging
    harness.finish()
    await client.aclose()

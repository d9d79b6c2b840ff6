"""FastStream's Redis broker on uvloop, without logs, with the same batch size as the others. Acknowledges each message
separately.
"""

import asyncio
from typing import Any

import uvloop
from faststream.redis import RedisBroker, StreamSub

from benchmarks.contenders.course import CONSUMER, Course


def run(course: Course) -> None:
    uvloop.run(_run(course))


async def _run(course: Course) -> None:
    job = course.job
    over = asyncio.Event()
    course.all_seen = over.set
    broker = RedisBroker(job.url, logger=None)  # type: ignore[arg-type] # the documented way to disable logs
    # With several workers, FastStream sets the consumer name and rejects another one.
    subscription = StreamSub(job.stream, group=job.group, consumer=CONSUMER, max_records=job.batch)

    @broker.subscriber(stream=subscription, max_workers=job.concurrency)
    async def handle(message: dict[str, Any]) -> None:
        await course.handle(message)

    await broker.start()
    await over.wait()
    await course.settled()
    await broker.stop()

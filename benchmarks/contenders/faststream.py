"""FastStream's Redis broker on uvloop, without logs, with the same batch size as the others. Acknowledges each message
separately.
"""

import asyncio
from typing import Any

import uvloop
from faststream.redis import RedisBroker, StreamSub

from benchmarks.contenders.course import CONSUMER, Harness


def run(course: Harness) -> None:
    uvloop.run(_run(course))


async def _run(course: Harness) -> None:
    job = course.job
    over = asyncio.Event()
    course.on_all_handled = over.set
    broker = RedisBroker(job.url, logger=None)  # type: ignore[arg-type] # None is how its documentation turns logs off
    # With workers it names its consumer itself and refuses another name.
    subscription = StreamSub(job.stream, group=job.group, consumer=CONSUMER, max_records=job.batch)

    @broker.subscriber(stream=subscription, max_workers=job.concurrency)
    async def handle(message: dict[str, Any]) -> None:
        await course.handle(message)

    await broker.start()
    await over.wait()
    await course.finish_when_settled()
    await broker.stop()

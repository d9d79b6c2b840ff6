"""FastStream's Redis broker on uvloop, without logs, with the same batch size as the others. Acknowledges each message
separately.
"""

import asyncio
from typing import Any

import uvloop
from faststream.redis import RedisBroker, StreamSub

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


async def _run(harness: Harness) -> None:
    job = harness.job
    all_handled = asyncio.Event()
    harness.on_all_handled = all_handled.set
    broker = RedisBroker(job.url, logger=None)  # type: ignore[arg-type] # None is how its documentation turns logs off
    subscription = StreamSub(job.stream, group=job.group, consumer=CONSUMER, max_records=job.batch)

    @broker.subscriber(stream=subscription, max_workers=job.concurrency)
    async def handle(message: dict[str, Any]) -> None:
        await harness.handle(message)

    await broker.start()
    await all_handled.wait()
    await harness.finish_when_settled()
    await broker.stop()

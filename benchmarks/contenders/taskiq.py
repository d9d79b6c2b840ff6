"""taskiq's worker on a Redis stream, on uvloop and without logs. Acknowledges each message separately.

Its entries have one JSON field, which contains the same three fields as the argument of a task.
"""

import asyncio
from typing import Any

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.contenders.harness import CONSUMER, Harness


def run(harness: Harness) -> None:
    # Not uvloop.run, which cancels the worker and waits for it. The worker sometimes ignores the cancellation.
    uvloop.new_event_loop().run_until_complete(_run(harness))


async def _run(harness: Harness) -> None:
    job = harness.job
    all_handled = asyncio.Event()
    harness.on_all_handled = all_handled.set
    broker = RedisStreamBroker(
        job.url,
        queue_name=job.stream,
        consumer_group_name=job.group,
        consumer_name=CONSUMER,
        xread_count=job.batch,
    )

    @broker.task(task_name="handle")
    async def handle(data: dict[str, Any]) -> None:
        await harness.handle(data)

    await broker.startup()
    receiving = asyncio.create_task(run_receiver_task(broker, max_async_tasks=job.concurrency))
    await all_handled.wait()
    await harness.finish_when_settled()
    assert not receiving.done()

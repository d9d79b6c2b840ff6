"""taskiq's worker on a Redis stream, on uvloop and without logs. Acknowledges each message separately.

Its entries have one JSON field, which contains the same three fields as the argument of a task.
"""

import asyncio
from typing import Any

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.contenders.course import CONSUMER, Harness


def run(course: Harness) -> None:
    # Not uvloop.run: that cancels the worker and waits for it, and now and then the worker goes on instead.
    uvloop.new_event_loop().run_until_complete(_run(course))


async def _run(course: Harness) -> None:
    job = course.job
    over = asyncio.Event()
    course.on_all_handled = over.set
    broker = RedisStreamBroker(
        job.url,
        queue_name=job.stream,
        consumer_group_name=job.group,
        consumer_name=CONSUMER,
        xread_count=job.batch,
    )

    @broker.task(task_name="handle")
    async def handle(data: dict[str, Any]) -> None:
        await course.handle(data)

    await broker.startup()
    receiving = asyncio.create_task(run_receiver_task(broker, max_async_tasks=job.concurrency))
    await over.wait()
    await course.finish_when_settled()
    assert not receiving.done()

"""Handlers without Redis, as many as `concurrency` allows. The result is the upper bound for the other contenders.

The timers of the event loop have a resolution of 1 ms, so a wait of 10 ms takes longer.
"""

import asyncio

import uvloop

from benchmarks.contenders.course import Harness


def run(course: Harness) -> None:
    uvloop.run(_run(course))


async def _run(course: Harness) -> None:
    async def slot() -> None:
        for _ in range(course.job.count // course.job.concurrency):
            await course.handle({})

    await asyncio.gather(*(slot() for _ in range(course.job.concurrency)))
    course.finish()

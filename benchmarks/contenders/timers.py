"""No Redis at all: as many handlers as may run, again and again. What an event loop whose timers count in
milliseconds makes of 10 ms is the ceiling for everybody else."""

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

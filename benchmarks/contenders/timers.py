"""Handlers without Redis, as many as `concurrency` allows. The result is the upper bound for the other contenders.

The timers of the event loop have a resolution of 1 ms, so a wait of 10 ms takes longer.
"""

import asyncio

import uvloop

from benchmarks.contenders.harness import Harness


def run(harness: Harness) -> None:
    uvloop.run(_run(harness))


async def _run(harness: Harness) -> None:
    async def slot() -> None:
        for _ in range(harness.job.count // harness.job.concurrency):
            await harness.handle({})

    await asyncio.gather(*(slot() for _ in range(harness.job.concurrency)))
    harness.finish()

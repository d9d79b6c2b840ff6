"""Who runs in the race. Each reads `count` entries as a group, acknowledges each after its handler, and ends.

Run as a child process of its own: `python -m benchmarks.contenders NAME URL COUNT BATCH` prints one line of JSON.
"""

import asyncio
import json
import logging
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

STREAM, GROUP, CONSUMER = "bench", "bench", "one"


class Course:
    """The no-op handler that all share: it starts the clock at the first message and ends it at the last."""

    def __init__(self, count: int) -> None:
        self.count, self.seen = count, 0
        self.began = 0.0
        self.all_seen = asyncio.Event()

    async def handle(self, _data: Any) -> None:
        if not self.seen:
            self.began = time.perf_counter()
        self.seen += 1
        if self.seen == self.count:
            self.all_seen.set()


async def streamconsumer(course: Course, url: str, batch: int) -> None:
    from streamconsumer.processor import RedisStreamProcessor, StreamManager

    manager = StreamManager.from_url(url)
    processor = RedisStreamProcessor(manager, STREAM, GROUP, CONSUMER, batch_count=batch)
    processor.set_message_callback(course.handle)
    await processor.start_listening()
    await course.all_seen.wait()
    await _settled(url)
    await processor.stop_listening()
    await manager.aclose()


async def naive(course: Course, url: str, batch: int) -> None:
    """The loop of the tutorials: a read, then an acknowledgement for each message."""
    client = Redis.from_url(url)
    while not course.all_seen.is_set():
        reply: Any = await client.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=batch, block=1000)
        for _, entries in reply:
            for message_id, data in entries:
                await course.handle(data)
                await client.xack(STREAM, GROUP, message_id)
    await client.aclose()


async def pipelined(course: Course, url: str, batch: int) -> None:
    """The bare loop at its best: one pipeline carries the acknowledgements of a batch and the next read."""
    client = Redis.from_url(url)
    done: list[bytes] = []
    while not course.all_seen.is_set():
        pipeline = client.pipeline(transaction=False)
        if done:
            pipeline.xack(STREAM, GROUP, *done)
        pipeline.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=batch, block=1000)
        reply = (await pipeline.execute())[-1]
        done = []
        for _, entries in reply:
            for message_id, data in entries:
                await course.handle(data)
                done.append(message_id)
    await client.xack(STREAM, GROUP, *done)
    await client.aclose()


async def faststream(course: Course, url: str, batch: int) -> None:
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(url, logger=None)  # type: ignore[arg-type] # None is how its documentation turns logs off
    subscription = StreamSub(STREAM, group=GROUP, consumer=CONSUMER, max_records=batch)

    @broker.subscriber(stream=subscription)
    async def handle(message: dict[str, Any]) -> None:
        await course.handle(message)

    await broker.start()
    await course.all_seen.wait()
    await _settled(url)
    await broker.stop()


CONTENDERS: dict[str, Callable[[Course, str, int], Awaitable[None]]] = {
    each.__name__: each for each in (streamconsumer, pipelined, naive, faststream)
}


async def _settled(url: str) -> None:
    """Wait until Redis holds nothing pending: every acknowledgement has arrived."""
    async with Redis.from_url(url) as client:
        while (await client.xpending(STREAM, GROUP))["pending"]:  # noqa: ASYNC110 - Redis tells nobody when it is 0
            await asyncio.sleep(0.001)


async def _race(name: str, url: str, count: int, batch: int) -> dict[str, float]:
    course = Course(count)
    before = _cpu_seconds()
    await CONTENDERS[name](course, url, batch)
    seconds = time.perf_counter() - course.began
    return {"seconds": seconds, "cpu_seconds": _cpu_seconds() - before, "megabytes": _megabytes()}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _megabytes() -> float:
    """The peak of this process alone: getrusage would count what it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    contender, address, entries, size = sys.argv[1:]
    print(json.dumps(uvloop.run(_race(contender, address, int(entries), int(size)))))
